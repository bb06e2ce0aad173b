"""In-context learning: is the short answer the one that the demonstrations call for?

Rules of VL-ICL (Zong et al., "VL-ICL Bench", ICLR 2025) as its `evals/eval.py` has them. TrueMICL (Chen et al., COLM
2025, arXiv 2507.15807) lays its data out in the same way; its headline is the unweighted mean of its tasks.
"""

import re
from functools import cache

from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total

TASKS = (
    "operator_induction",
    "clock_math",
    "outlier_detection",
    "clevr_count",
    "sudoku",
    "palindrome",
    "character_classification",
)
"""TrueMICL's seven."""

BASES = ("accuracy", "contains")

PARSERS = ("vl_icl",)

_NUMBERED = ("operator_induction", "clevr_simple")
"""Parts of names whose answers are numbers. No task is called by the second, so counts are compared as they are."""

_NUMBER = re.compile(r"\d+")


def names(tasks: tuple[str, ...] = TASKS) -> tuple[str, ...]:
    """Every metric of a board over some of the tasks; those of a task by itself have no prefix."""
    each = [f"{task}/{base}" for base in BASES for task in tasks] if len(tasks) > 1 else []
    return (*BASES, *each, "n_unparsed")


def first_line(text: str) -> str:
    """The answer up to its first line break, else up to its first period; neither cuts at the very beginning."""
    stripped = text.strip()
    line, period = stripped.find("\n"), stripped.find(".")
    end = line if line > 0 else period
    return stripped[:end] if end > 0 else stripped


def parse(text: str, task: str) -> str:
    """What is compared: the first line, and of that the first number for operator induction.

    A minus sign and decimals are lost ("-7" counts as 7), as in the reference.

    Args:
        text: The model's answer.
        task: Its task, by whose name the rule is chosen.

    Returns:
        The words in lower case; empty where there are none, or no number.
    """
    line = first_line(text)
    if any(part in task for part in _NUMBERED):
        found = _NUMBER.search(line)
        line = found.group() if found else ""
    return line.lower()


def score(text: str, answer: str, task: str) -> Score:
    """Judge one answer: exact, and whether its first line holds the right one.

    Args:
        text: The model's answer.
        answer: The right one.
        task: A name of `TASKS`.
    """
    said, wanted = parse(text, task), answer.lower()
    exact = float(said == wanted)
    counts = {"n": 1.0, "accuracy": exact, "contains": float(wanted in first_line(text).lower())}
    counts["unparsed"] = float(not said)
    return Score(parsed=said or None, score=exact, counts={f"{task}.{name}": value for name, value in counts.items()})


@cache
def metric(name: str) -> Metric:
    """A metric by its name: "sudoku/accuracy" of one task, "accuracy" as the mean of the tasks' values.

    Raises:
        ValueError: There is no such metric.
    """
    task, _, base = name.rpartition("/")
    if base == "n_unparsed" and not task:
        return Metric(name, tuple(Part((f"{each}.unparsed",), total, f"{each}.n") for each in TASKS), "count")
    if base not in BASES or (task and task not in TASKS):
        raise ValueError(f"in-context learning has no metric {name!r}")
    parts = tuple(Part((f"{each}.{base}", f"{each}.n"), quotient, f"{each}.n") for each in ([task] if task else TASKS))
    return Metric(name, parts, "mean" if task else "ratio")


SCHEME = Scheme(metric)
