"""AMBER, discriminative part: existence, attribute and relation questions, most of which are to be denied.

Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation" (2023). The positive
class is "no": precision over predicted no, recall over true no. Every existence question is to be denied, so that its
precision is 1 wherever there is any.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np

from sinkbench.errors import unknown_name
from sinkbench.scoring import pope
from sinkbench.scoring.metric import Array, Metric, Part, Scheme, Score, quotient, ratio, total
from sinkbench.scoring.pope import Answer, Reading

TYPES = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""From the annotations' types to the dimension, and for attributes to the part of it."""

DIMENSIONS = ("existence", "attribute", "relation")
_SCOPES = (*DIMENSIONS, "state", "number", "action")
_NUMBERS = ("f1", "accuracy", "precision", "recall")

NAMES = (
    *_NUMBERS,
    *(f"{scope}/{name}" for scope in _SCOPES for name in _NUMBERS),
    "dimension_accuracy",
    "yes_ratio",
    "n_unparsed",
)

COUNTER = 0.001
"""At which the published scorer's denominators start."""

EPSILON = {"existence": 0.001}
"""What the published scorer adds to precision + recall; elsewhere `_EPSILON`."""
_EPSILON = 0.0001


def _amber(text: str) -> Reading:
    """AMBER: the answer is Yes or No, in this spelling; white space around it is not looked at (our choice)."""
    answers: dict[str, Answer] = {"Yes": "yes", "No": "no"}
    found = answers.get(text.strip())
    return Reading(found, found is not None)


def _vlmevalkit(text: str) -> Reading:
    """VLMEvalKit: exactly one of the words yes and no anywhere."""
    return pope.parse(text, "yes", "vlmevalkit")


PARSERS: dict[str, Callable[[str], Reading]] = {"amber": _amber, "vlmevalkit": _vlmevalkit}


def parse(text: str, parser: str = "amber") -> Reading:
    """Read an answer by a named rule.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    return PARSERS[parser](text)


def score(text: str, label: Answer, kind: str, parser: str = "amber") -> Score:
    """Judge one answer; one that is neither yes nor no is wrong, and no predicted no.

    Args:
        text: The model's answer.
        label: The true answer.
        kind: A key of `TYPES`.
        parser: A key of `PARSERS`.
    """
    reading = parse(text, parser)
    denied, to_deny = reading.answer == "no", label == "no"
    correct = float(reading.answer == label)
    counts = {
        "n": 1.0,
        "correct": correct,
        "denied": float(denied),
        "to_deny": float(to_deny),
        "rightly_denied": float(denied and to_deny),
        "yes": float(reading.answer == "yes"),
        "unparsed": float(not reading.recognised),
    }
    return Score(
        parsed=reading.answer,
        score=correct,
        counts={f"{scope}.{name}": value for scope in ("all", *TYPES[kind]) for name, value in counts.items()},
    )


def share(sums: Array) -> Array:
    """Precision or recall from sums of (rightly denied, denied or to deny), (..., 2) -> (...).

    The denominator is larger by `COUNTER`, as in the published scorer. Undefined where it would be zero otherwise.
    """
    return ratio(sums[..., 0], (sums[..., 1] + COUNTER) * (sums[..., 1] > 0))


def f1(sums: Array, *, epsilon: float) -> Array:
    """F1 from sums of (rightly denied, denied, to deny), (..., 3) -> (...).

    2 P R / (P + R + epsilon), with P and R rounded to tenths of a per cent as in the published scorer; rounded likewise
    it is what that one prints. Undefined where P or R is.
    """
    rounded = [np.round(share(sums[..., [0, column]]), 3) for column in (1, 2)]
    precision, recall = rounded
    value: Array = 2 * precision * recall / (precision + recall + epsilon)
    return value


_MEANS = {"accuracy": ("correct", "n"), "yes_ratio": ("yes", "n")}
_SHARES = {"precision": ("rightly_denied", "denied"), "recall": ("rightly_denied", "to_deny")}


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    A dimension, or state, number or action, as prefix restricts it. Accuracies are plain means: the published scorer's
    start of the counters changes them by less than it prints. "dimension_accuracy" is the mean of the three dimensions'
    accuracies (VLMEvalKit's number).

    Raises:
        ValueError: There is no such metric.
    """
    prefix, _, base = name.rpartition("/")
    scope = prefix or "all"
    if prefix and (prefix not in _SCOPES or base not in _NUMBERS):
        raise ValueError(f"AMBER has no metric {name!r}")
    support = f"{scope}.n"
    if base in _MEANS:
        return Metric(name, (Part(_columns(scope, _MEANS[base]), quotient, support),), "mean")
    if base in _SHARES:
        return Metric(name, (Part(_columns(scope, _SHARES[base]), share, support),))
    if base == "f1":
        columns = _columns(scope, ("rightly_denied", "denied", "to_deny"))
        return Metric(name, (Part(columns, partial(f1, epsilon=EPSILON.get(prefix, _EPSILON)), support),))
    if base == "dimension_accuracy":
        parts = (Part(_columns(each, _MEANS["accuracy"]), quotient, f"{each}.n") for each in DIMENSIONS)
        return Metric(name, tuple(parts))
    if base == "n_unparsed":
        return Metric(name, (Part((f"{scope}.unparsed",), total, support),), "count")
    raise ValueError(f"AMBER has no metric {name!r}")


def _columns(scope: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{scope}.{name}" for name in names)


SCHEME = Scheme(metric)
