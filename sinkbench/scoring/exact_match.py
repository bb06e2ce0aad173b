"""Exact match with the one right answer (GQA), under the rules by which published harnesses make texts comparable.

Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional Question Answering" (CVPR
2019). Its accuracy compares strings; how an answer becomes one is a named parser, and a result must name it.
"""

import string
from collections.abc import Callable
from functools import cache

from sinkbench.errors import unknown_name
from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total

NAMES = ("exact_match", "n_unparsed")

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _original(text: str) -> str:
    """LLaVA: without trailing periods, in lower case; its answer files hold no space around an answer."""
    return text.strip().rstrip(".").lower()


def _lmms_eval(text: str) -> str:
    """lmms-eval: without any ASCII punctuation, in lower case."""
    return text.strip().lower().translate(_WITHOUT_PUNCTUATION)


def _vlmevalkit(text: str) -> str:
    """VLMEvalKit: in lower case; "Yes." is not "yes"."""
    return text.lower().strip()


PARSERS: dict[str, Callable[[str], str]] = {
    "original": _original,
    "lmms_eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}


def score(text: str, answer: str, parser: str = "original") -> Score:
    """Judge one answer; one of which the rule leaves nothing is wrong and counted as unparsed.

    Args:
        text: The model's answer.
        answer: The right one, read by the same rule.
        parser: A key of `PARSERS`.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    read, truth = PARSERS[parser](text), PARSERS[parser](answer)
    correct = float(bool(read) and read == truth)
    return Score(
        parsed=read or None,
        score=correct,
        counts={"n": 1.0, "correct": correct, "unparsed": float(not read)},
    )


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    Raises:
        ValueError: There is no such metric.
    """
    if name == "exact_match":
        return Metric(name, (Part(("correct", "n"), quotient, "n"),), "mean")
    if name == "n_unparsed":
        return Metric(name, (Part(("unparsed",), total, "n"),), "count")
    raise ValueError(f"exact match has no metric {name!r}")


SCHEME = Scheme(metric)
