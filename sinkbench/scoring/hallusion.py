"""HallusionBench: the same questions on a figure and on edited versions of it.

Guan et al., "HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual Illusion in
Large Vision-Language Models" (CVPR 2024). aAcc counts answers, qAcc questions that are answered rightly on every figure
of their set, fAcc figures all of whose questions are. Answers are read by VLMEvalKit's rule: the paper asks GPT-4.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache

from sinkbench.scoring import pope
from sinkbench.scoring.metric import Metric, Part, Record, Scheme, Score, Unit, quotient, record_units, total
from sinkbench.scoring.pope import Answer

CATEGORIES = ("VD", "VS")
"""Visual dependent and visual supplement questions."""

_ACCURACIES = ("aAcc", "qAcc", "fAcc")

NAMES = (
    *_ACCURACIES,
    "average",
    *(f"{category}/{name}" for category in CATEGORIES for name in _ACCURACIES),
    "yes_ratio",
    "n_unparsed",
)

_OF_FIGURE = "in_figure"
"""Count that tells how many rows a figure has; no metric sums it."""


def score(text: str, label: Answer, category: str, question: tuple[str, int], in_figure: int, parser: str) -> Score:
    """Judge one answer; one that is neither yes nor no is wrong.

    The sample's cluster must be its figure.

    Args:
        text: The model's answer.
        label: The true answer.
        category: One of `CATEGORIES`.
        question: What is the same on all figures of a set, and the number of figures.
        in_figure: Questions on this figure.
        parser: A key of `sinkbench.scoring.pope.PARSERS`.
    """
    reading = pope.parse(text, label, parser)
    correct = float(reading.answer == label)
    counts = {
        "rows": 1.0,
        "correct": correct,
        "yes": float(reading.answer == "yes"),
        "unparsed": float(not reading.recognised),
    }
    scoped = {f"{scope}.{name}": value for scope in ("all", category) for name, value in counts.items()}
    return Score(
        parsed=reading.answer,
        score=correct,
        counts={**scoped, _OF_FIGURE: float(in_figure)},
        group=question,
    )


def grouped_units(records: Iterable[Record]) -> list[Unit]:
    """The rows; and one unit for each question, and one for each figure, of which all rows were answered.

    A question or figure with a failed or left-out row cannot be judged: it is left out, rather than wrong. A question
    belongs to the cluster of the first of its figures.
    """
    rows = list(records)
    questions = _gathered(rows, lambda row: str(row["group"][0] if row["group"] else row["id"]))
    figures = _gathered(rows, lambda row: row["cluster"])
    return [
        *record_units(rows),
        *(_unit(each, "question") for each in questions if len(each) == (each[0]["group"] or ("", 1))[1]),
        *(_unit(each, "figure") for each in figures if len(each) == each[0]["counts"][_OF_FIGURE]),
    ]


def _gathered(rows: Iterable[Record], key: Callable[[Record], str]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return list(groups.values())


def _unit(rows: list[Record], kind: str) -> Unit:
    right = float(all(row["score"] == 1.0 for row in rows))
    scopes = [column.removesuffix(".rows") for column in rows[0]["counts"] if column.endswith(".rows")]
    counts = {f"{scope}.{name}": value for scope in scopes for name, value in ((f"{kind}s", 1.0), (kind, right))}
    return Unit(rows[0]["cluster"], counts)


_MEANS = {
    "aAcc": ("correct", "rows"),
    "qAcc": ("question", "questions"),
    "fAcc": ("figure", "figures"),
    "yes_ratio": ("yes", "rows"),
}


@cache
def metric(name: str) -> Metric:
    """A metric by its name; "average" is the mean of the three accuracies, as VLMEvalKit reports it.

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    scope = category or "all"
    if category and category not in CATEGORIES:
        raise ValueError(f"HallusionBench has no metric {name!r}")
    if base in _MEANS:
        return Metric(name, (_mean(scope, base),), "mean")
    if base == "average":
        return Metric(name, tuple(_mean(scope, each) for each in _ACCURACIES))
    if base == "n_unparsed":
        return Metric(name, (Part((f"{scope}.unparsed",), total, f"{scope}.rows"),), "count")
    raise ValueError(f"HallusionBench has no metric {name!r}")


def _mean(scope: str, base: str) -> Part:
    right, rows = (f"{scope}.{column}" for column in _MEANS[base])
    return Part((right, rows), quotient, rows)


SCHEME = Scheme(metric, grouped_units)
