"""POPE: is the object there? Parsers of published harnesses, and binary metrics per split and averaged over splits.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (EMNLP 2023). The positive class is "yes".
Published numbers differ in how an answer becomes yes or no; each rule is a named parser, and a result must name it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sinkbench.errors import unknown_name
from sinkbench.scoring.metric import Array, Metric, Part, Scheme, Score, quotient, ratio, total
from sinkbench.scoring.vqa import strip_punctuation

Answer = Literal["yes", "no"]

SPLITS = ("random", "popular", "adversarial")

BINARY = ("accuracy", "f1", "precision", "recall", "yes_ratio")

NAMES = (*BINARY, *(f"{split}/{name}" for split in SPLITS for name in BINARY), "n_unparsed")
"""Every metric that a POPE task reports; a plain name is the mean over the splits, which are never pooled."""


@dataclass(frozen=True)
class Reading:
    """What a parser makes of an answer.

    Attributes:
        answer: "yes", "no", or None when the rule decides for neither.
        recognised: False when the text holds no yes and no negation that the rule knows, whatever it then decides.
    """

    answer: Answer | None
    recognised: bool


def _says_yes(text: str) -> bool:
    return re.search(r"\byes\b", text.lower()) is not None


def _by_negation(words: list[str], negations: frozenset[str], text: str) -> Reading:
    negated = any(word in negations for word in words)
    return Reading("no" if negated else "yes", negated or _says_yes(text))


def _pope(text: str, label: Answer) -> Reading:
    """POPE, LLaVA, VAR: the first sentence, commas deleted; yes unless one of its words is exactly No, no or not."""
    sentence = text.split(".", 1)[0].replace(",", "")
    return _by_negation(sentence.split(" "), frozenset({"No", "no", "not"}), sentence)


def _opera_pai(text: str, label: Answer) -> Reading:
    """OPERA, PAI: the whole text without periods and commas; yes unless a word is a negation or ends in n't."""
    words = text.replace(".", "").replace(",", "").split(" ")
    contracted = frozenset(word for word in words if word.endswith("n't"))
    return _by_negation(words, frozenset({"No", "not", "no", "NO"}) | contracted, text)


def _vcd(text: str, label: Answer) -> Reading:
    """VCD: right when the label is a substring of the text ("know" holds "no"), else counted as its opposite."""
    lowered = text.lower().strip()
    opposite: Answer = "no" if label == "yes" else "yes"
    return Reading(label if label in lowered else opposite, "yes" in lowered or "no" in lowered)


def _lmms_eval(text: str, label: Answer) -> Reading:
    """lmms-eval: the whole text is yes or no; "Yes." is neither."""
    word = text.strip().lower()
    if word == "yes":
        return Reading("yes", True)
    return Reading("no", True) if word == "no" else Reading(None, False)


def _vlmevalkit(text: str, label: Answer) -> Reading:
    """VLMEvalKit: exactly one of the words yes and no, after its normalisation of punctuation."""
    words = strip_punctuation(text.lower(), both_sides=True).split()
    if ("yes" in words) == ("no" in words):
        return Reading(None, False)
    return Reading("yes" if "yes" in words else "no", True)


PARSERS: dict[str, Callable[[str, Answer], Reading]] = {
    "pope": _pope,
    "opera_pai": _opera_pai,
    "vcd": _vcd,
    "lmms_eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}


def parse(text: str, label: Answer, parser: str = "pope") -> Reading:
    """Read an answer by a named rule.

    Args:
        text: The model's answer.
        label: The true answer; only `vcd` looks at it.
        parser: A key of `PARSERS`.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    return PARSERS[parser](text, label)


def score(text: str, label: Answer, split: str, parser: str = "pope") -> Score:
    """Judge one answer.

    An answer that the rule decides for neither side is wrong. It enters no cell of the confusion matrix, except under
    `vlmevalkit`, where precision, recall and F1 take it as a predicted "no".

    Args:
        text: The model's answer.
        label: The true answer.
        split: "random", "popular" or "adversarial".
        parser: A key of `PARSERS`.
    """
    reading = parse(text, label, parser)
    correct = float(reading.answer == label)
    counts = {"n": 1.0, "correct": correct, "unparsed": float(not reading.recognised)}
    if reading.answer is not None:
        cell = ("t" if reading.answer == label else "f") + ("p" if reading.answer == "yes" else "n")
        counts |= {cell: 1.0, "yes": float(reading.answer == "yes")}
    elif parser == "vlmevalkit" and label == "yes":
        counts["fn"] = 1.0
    return Score(
        parsed=reading.answer,
        score=correct,
        counts={f"{split}.{name}": value for name, value in counts.items()},
    )


def f1(sums: Array) -> Array:
    """F1 from sums of (tp, fp, fn), (..., 3) -> (...); undefined where precision or recall is."""
    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    defined = (tp + fp > 0) & (tp + fn > 0)
    return ratio(2 * tp, (2 * tp + fp + fn) * defined)


def share(sums: Array) -> Array:
    """Share tp / (tp + other) from sums of (tp, other), (..., 2) -> (...): precision with fp, recall with fn."""
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 1])


_STATISTICS = {
    "accuracy": (("correct", "n"), quotient),
    "f1": (("tp", "fp", "fn"), f1),
    "precision": (("tp", "fp"), share),
    "recall": (("tp", "fn"), share),
    "yes_ratio": (("yes", "n"), quotient),
    "n_unparsed": (("unparsed",), total),
}


@cache
def metric(name: str) -> Metric:
    """A metric by its name: "adversarial/f1" of one split, "f1" as the mean of the splits' values.

    Raises:
        ValueError: There is no such metric.
    """
    split, _, base = name.rpartition("/")
    if base not in _STATISTICS or (split and split not in SPLITS):
        raise ValueError(f"POPE has no metric {name!r}")
    columns, statistic = _STATISTICS[base]
    parts = tuple(
        Part(tuple(f"{prefix}.{column}" for column in columns), statistic, f"{prefix}.n")
        for prefix in ([split] if split else SPLITS)
    )
    if base == "n_unparsed":
        return Metric(name, parts, "count")
    return Metric(name, parts, "mean" if split and base in ("accuracy", "yes_ratio") else "ratio")


SCHEME = Scheme(metric)
