"""Multiple choice asked once: accuracy, and the averages over categories, sources or pairs that benchmarks report.

SEED-Bench, ScienceQA, RealWorldQA and kin report plain accuracy. MMStar (Chen et al., NeurIPS 2024) averages over its
fine categories; CV-Bench (Tong et al., "Cambrian-1", NeurIPS 2024) over its sources; MMVP (Tong et al., "Eyes Wide
Shut?", CVPR 2024) wants both questions of a pair to be right.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from sinkbench.scoring.letters import REFUSED, Options, parse
from sinkbench.scoring.metric import (
    Array,
    Metric,
    Part,
    Record,
    Scheme,
    Score,
    Unit,
    quotient,
    ratio,
    record_units,
    total,
)
from sinkbench.scoring.multiple_choice import complete_groups

ALL = "all"

CVBENCH_2D = ("ade20k", "coco")
CVBENCH_3D = ("omni3d",)

_FINE = "fine:"
"""Prefix of the scope of a fine category, whose name only the data know."""


def scope(name: object) -> str:
    """A category as part of a metric's name: "Science & Technology" becomes "science_technology"; empty for None."""
    return "" if name is None else re.sub(r"\W+", "_", str(name).lower()).strip("_")


def score(text: str, answer: str | None, options: Options, *scopes: str, parser: str = "vlmevalkit") -> Score:
    """Judge one answer by the letter that it chooses.

    Args:
        text: The model's answer.
        answer: The right letter; None, for a row without one, is never right.
        options: Letter to text.
        scopes: What the question counts for beside the whole (see `scope`); empty ones are left out.
        parser: A key of `letters.PARSERS`.
    """
    chosen = parse(text, options, parser)
    return _judged(chosen, chosen is not None and chosen == answer, chosen is None or chosen == REFUSED, scopes)


def exact(text: str, answer: str | None) -> Score:
    """Judge a short answer: equal without regard to case, spaces around it and a period at its end; blank: unparsed."""
    given = _plain(text)
    return _judged(given or None, answer is not None and bool(given) and given == _plain(answer), not given, ())


def paired(judged: Score, pair: str) -> Score:
    """A score as one of the two that must both be right.

    Args:
        judged: From `score`.
        pair: Name of the pair.
    """
    return Score(judged.parsed, judged.score, judged.counts, (pair, 2))


def mmstar(text: str, answer: str | None, options: Options, category: object, fine: object, parser: str) -> Score:
    """Judge an answer to MMStar.

    Args:
        text: The model's answer.
        answer: The right letter.
        options: Letter to text.
        category: One of the six.
        fine: The category within it (`l2_category`).
        parser: A key of `letters.PARSERS`.
    """
    return score(text, answer, options, scope(category), f"{_FINE}{scope(fine)}", parser=parser)


def _plain(text: str) -> str:
    return text.lower().strip().rstrip(".")


def _judged(parsed: str | None, correct: bool, unparsed: bool, scopes: Iterable[str]) -> Score:
    counts = {"n": 1.0, "correct": float(correct), "unparsed": float(unparsed)}
    kept = [ALL, *(name for name in scopes if name)]
    return Score(
        parsed=parsed,
        score=float(correct),
        counts={f"{name}.{column}": value for name in kept for column, value in counts.items()},
    )


@cache
def metric(name: str) -> Metric:
    """A metric by its name: "accuracy", "CATEGORY/accuracy" of a `scope`, "n_unparsed".

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    if base == "n_unparsed":
        return Metric(name, (Part((f"{category or ALL}.unparsed",), total, f"{category or ALL}.n"),), "count")
    if base != "accuracy":
        raise ValueError(f"multiple choice has no metric {name!r}")
    return Metric(name, (_accuracy(category or ALL),), "mean")


def _accuracy(name: str) -> Part:
    return Part((f"{name}.correct", f"{name}.n"), quotient, f"{name}.n")


SCHEME = Scheme(metric)


def mean_accuracy(sums: Array) -> Array:
    """Mean of those of K accuracies that are defined, from sums of (correct, n) pairs, (..., 2K) -> (...)."""
    each = ratio(sums[..., 0::2], sums[..., 1::2])
    defined = ~np.isnan(each)
    return ratio(np.nan_to_num(each).sum(axis=-1), defined.sum(axis=-1).astype(np.float64))


@cache
def cvbench_metric(name: str) -> Metric:
    """CV-Bench: "2d/accuracy" is the mean over ADE20K and COCO, "accuracy" the mean of it and "3d/accuracy".

    "question_accuracy" weighs every question alike, as lmms-eval does; a source or task as prefix restricts the
    accuracy.

    Raises:
        ValueError: There is no such metric.
    """
    sides = {"2d/accuracy": CVBENCH_2D, "3d/accuracy": CVBENCH_3D}
    if name in sides:
        return Metric(name, tuple(_accuracy(source) for source in sides[name]))
    if name == "accuracy":
        return Metric(name, tuple(_side(*side) for side in (("2d", CVBENCH_2D), ("3d", CVBENCH_3D))))
    return _questions(name)


def _side(name: str, sources: Iterable[str]) -> Part:
    columns = tuple(f"{source}.{column}" for source in sources for column in ("correct", "n"))
    return Part(columns, mean_accuracy, f"{name}.n")


def _questions(name: str) -> Metric:
    if name == "question_accuracy":
        return Metric(name, (_accuracy(ALL),), "mean")
    return metric(name)


CVBENCH = Scheme(cvbench_metric)


@cache
def mmstar_metric(name: str) -> Metric:
    """MMStar: "accuracy" is the mean over all fine categories, "CATEGORY/accuracy" that over those of one category.

    "question_accuracy" weighs every question alike. Only the data know the fine categories, so each question carries
    its weight (`mmstar_units`).

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    if base == "accuracy":
        group = category or ALL
        return Metric(name, (Part((f"{group}.weighted_correct", f"{group}.weight"), quotient, f"{group}.n"),))
    return _questions(name)


def mmstar_units(records: Iterable[Record]) -> list[Unit]:
    """The records, each with its weights: 1 / (questions of its fine category * fine categories in the average).

    The sums of weighted counts are then the means over fine categories. The bootstrap holds the weights fixed.
    """
    rows = list(records)
    placed = [_place(row["counts"]) for row in rows]
    weight_of = {ALL: _weights(fine for _, fine in placed)}
    for category in {category for category, _ in placed} - {ALL}:
        weight_of[category] = _weights(fine for own, fine in placed if own == category)
    units = []
    for row, (category, fine) in zip(rows, placed, strict=True):
        weights: dict[str, float] = {}
        for group in {ALL, category}:
            weight = weight_of[group][fine]
            weights |= {f"{group}.weight": weight, f"{group}.weighted_correct": weight * row["score"]}
        units.append(Unit(row["cluster"], {**row["counts"], **weights}))
    return units


def _weights(names: Iterable[str]) -> dict[str, float]:
    """What one entry of each name weighs in the mean over names."""
    sizes = Counter(names)
    return {name: 1 / (size * len(sizes)) for name, size in sizes.items()}


def _place(counts: Mapping[str, float]) -> tuple[str, str]:
    """A record's category (the whole, if it has none) and fine category."""
    names = [column.removesuffix(".n") for column in counts if column.endswith(".n")]
    fine = next((name for name in names if name.startswith(_FINE)), "")
    return next((name for name in names if name not in (ALL, fine)), ALL), fine


MMSTAR = Scheme(mmstar_metric, mmstar_units)


@cache
def pair_metric(name: str) -> Metric:
    """MMVP: "pair_accuracy" counts pairs of which both questions are right, "accuracy" questions.

    Raises:
        ValueError: There is no such metric.
    """
    if name == "pair_accuracy":
        return Metric(name, (Part(("pairs.right", "pairs"), quotient, "pairs"),), "mean")
    return metric(name)


def pair_units(records: Iterable[Record]) -> list[Unit]:
    """The records, and one unit for each pair of which both questions were answered."""
    rows = list(records)
    return [*record_units(rows), *(_pair(group) for group in complete_groups(rows))]


def _pair(group: list[Record]) -> Unit:
    right = float(all(entry["score"] == 1.0 for entry in group))
    return Unit(group[0]["cluster"], {"pairs": 1.0, "pairs.right": right})


MMVP = Scheme(pair_metric, pair_units)
