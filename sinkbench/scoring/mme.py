"""MME: two yes/no questions about each image; a category is worth its accuracy and that of its images, in per cent.

Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models" (2023). An image counts for
accuracy+ only if both of its questions are answered rightly; perception and cognition are sums over categories.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from sinkbench.errors import unknown_name
from sinkbench.scoring import pope
from sinkbench.scoring.metric import Array, Metric, Part, Record, Scheme, Score, Unit, quotient, record_units, total
from sinkbench.scoring.pope import Answer, Reading

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = (*PERCEPTION, *COGNITION)
_SUMS = {"perception": PERCEPTION, "cognition": COGNITION}

NAMES = (
    "perception",
    "cognition",
    "accuracy",
    "accuracy_plus",
    *(f"{category}/{name}" for category in CATEGORIES for name in ("score", "accuracy", "accuracy_plus")),
    "yes_ratio",
    "n_unparsed",
)

_PREFIX = 4
"""Characters in which yes or no must stand."""

_PAIR = 2


def _first_letters(text: str) -> Reading:
    for answer in ("yes", "no"):
        if answer in text[:_PREFIX]:
            return Reading(answer, True)
    return Reading(None, False)


def _mme(text: str) -> Reading:
    """MME's calculation.py: yes, else no, within the first four characters ("Not" and "None" hold a no)."""
    return _first_letters(text.strip().lower())


def _lmms_eval(text: str) -> Reading:
    """lmms-eval (from Otter): as MME, periods deleted first; a lone y or n counts."""
    plain = text.lower().strip().replace(".", "")
    alone: dict[str, Answer] = {"y": "yes", "n": "no"}
    return Reading(alone[plain], True) if plain in alone else _first_letters(plain)


def _vlmevalkit(text: str) -> Reading:
    """VLMEvalKit: exactly one of the words yes and no anywhere."""
    return pope.parse(text, "yes", "vlmevalkit")


PARSERS: dict[str, Callable[[str], Reading]] = {"mme": _mme, "lmms_eval": _lmms_eval, "vlmevalkit": _vlmevalkit}


def parse(text: str, parser: str = "mme") -> Reading:
    """Read an answer by a named rule; None, which MME calls other, is wrong.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    return PARSERS[parser](text)


def score(text: str, answer: str, category: str, image: str, parser: str = "mme") -> Score:
    """Judge one answer.

    Args:
        text: The model's answer.
        answer: The true answer, yes or no in any case.
        category: One of `CATEGORIES`.
        image: Name of the image within the benchmark; its two questions are judged together.
        parser: A key of `PARSERS`.
    """
    reading = parse(text, parser)
    correct = float(reading.answer == answer.strip().lower())
    counts = {
        "rows": 1.0,
        "correct": correct,
        "yes": float(reading.answer == "yes"),
        "unparsed": float(not reading.recognised),
    }
    return Score(
        parsed=reading.answer,
        score=correct,
        counts={f"{scope}.{name}": value for scope in _scopes(category) for name, value in counts.items()},
        group=(f"{category}/{image}", _PAIR),
    )


def _scopes(category: str) -> tuple[str, str, str]:
    return "all", "perception" if category in PERCEPTION else "cognition", category


def pair_units(records: Iterable[Record]) -> list[Unit]:
    """The rows, and one unit for each image both of whose questions were answered.

    The pair of a failed or left-out question cannot be judged: it is in no pair, rather than wrong. lmms-eval refuses
    such data.
    """
    rows = list(records)
    pairs: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        if row["group"] is not None:
            pairs[row["group"][0]].append(row)
    return [*record_units(rows), *(_pair_unit(pair) for pair in pairs.values() if len(pair) == _PAIR)]


def _pair_unit(pair: list[Record]) -> Unit:
    both = float(all(row["score"] == 1.0 for row in pair))
    scopes = [column.removesuffix(".rows") for column in pair[0]["counts"] if column.endswith(".rows")]
    counts = {f"{scope}.{name}": value for scope in scopes for name, value in (("pairs", 1.0), ("both", both))}
    return Unit(pair[0]["cluster"], counts)


def _points(sums: Array) -> Array:
    """Points from sums of (correct, rows, both, pairs) of each category, (..., 4 C) -> (...), at most 200 a category.

    A category without a judged pair is worth nothing, as in lmms-eval.
    """
    by_category = sums.reshape(*sums.shape[:-1], -1, len(_COLUMNS))
    correct, rows, both, pairs = np.moveaxis(by_category, -1, 0)
    points = 100 * correct / np.maximum(rows, 1) + 100 * both / np.maximum(pairs, 1)
    summed: Array = np.where(pairs > 0, points, 0.0).sum(axis=-1)
    return summed


_COLUMNS = ("correct", "rows", "both", "pairs")
_MEANS = {
    "accuracy": (("correct", "rows"), "rows"),
    "accuracy_plus": (("both", "pairs"), "pairs"),
    "yes_ratio": (("yes", "rows"), "rows"),
}


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    "perception" (at most 2000) and "cognition" (at most 800) are sums of the categories' "score" (at most 200), which
    is 100 accuracy + 100 accuracy_plus; accuracy_plus counts images. Plain accuracies are over all questions or images.
    Of fewer categories (a limit) the sums are over those with a judged image.

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    if category and category not in CATEGORIES:
        raise ValueError(f"MME has no metric {name!r}")
    scope = category or "all"
    if base in _MEANS:
        columns, support = _MEANS[base]
        part = Part(tuple(f"{scope}.{column}" for column in columns), quotient, f"{scope}.{support}")
        return Metric(name, (part,), "mean")
    if base == "n_unparsed":
        return Metric(name, (Part((f"{scope}.unparsed",), total, f"{scope}.rows"),), "count")
    if base == "score" and category:
        summed: tuple[str, ...] = (category,)
    elif not category and base in _SUMS:
        summed = _SUMS[base]
    else:
        raise ValueError(f"MME has no metric {name!r}")
    needed = tuple(f"{each}.{column}" for each in summed for column in _COLUMNS)
    return Metric(name, (Part(needed, _points, f"{category or base}.pairs"),))


SCHEME = Scheme(metric, pair_units)
