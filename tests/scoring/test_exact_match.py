"""Exact match under three published rules."""

import random

import pytest
from nasty import NASTY

from sinkbench.errors import UsageError
from sinkbench.scoring import exact_match
from sinkbench.scoring.metric import evaluate, record


@pytest.mark.parametrize(
    ("text", "original", "lmms_eval", "vlmevalkit"),
    [
        ("yes", 1, 1, 1),
        ("Yes", 1, 1, 1),
        ("Yes.", 1, 1, 0),
        (" yes..\n", 1, 1, 0),
        ("yes!", 0, 1, 0),
        ("Yes, it is", 0, 0, 0),
        ("no", 0, 0, 0),
    ],
)
def test_rules(text, original, lmms_eval, vlmevalkit):
    expected = {"original": original, "lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}
    assert {parser: exact_match.score(text, "yes", parser).score for parser in exact_match.PARSERS} == expected


def test_the_right_answer_is_read_by_the_same_rule():
    assert exact_match.score("t shirt", "t-shirt").score == 0.0
    assert exact_match.score("tshirt", "t-shirt", "lmms_eval").score == 1.0
    assert exact_match.score("T-Shirt", "T-shirt").score == 1.0


@pytest.mark.parametrize("text", ["", " \n", ".", "..."])
def test_nothing_is_wrong_and_unparsed_even_where_nothing_is_right(text):
    score = exact_match.score(text, "..")
    assert (score.parsed, score.score, score.counts["unparsed"]) == (None, 0.0, 1.0)


def test_metrics():
    texts = ("Yes", "no", "", "yes.")
    records = [record(str(i), str(i), exact_match.score(text, "yes")) for i, text in enumerate(texts)]
    assert evaluate(exact_match.SCHEME, "exact_match", records) == (0.5, 4, False)
    assert evaluate(exact_match.SCHEME, "n_unparsed", records).value == 1
    with pytest.raises(ValueError, match="no metric 'f1'"):
        exact_match.metric("f1")


def test_an_unknown_parser_suggests_the_nearest():
    with pytest.raises(UsageError, match="lmms-eval") as refused:
        exact_match.score("yes", "yes", "lmms-eval")
    assert "lmms_eval" in refused.value.hint


@pytest.mark.parametrize("parser", exact_match.PARSERS)
def test_any_answer_is_scored_and_order_does_not_matter(parser):
    records = [record(str(i), str(i % 5), exact_match.score(text, "yes", parser)) for i, text in enumerate(NASTY)]
    assert {entry["score"] for entry in records} <= {0.0, 1.0}
    first = [evaluate(exact_match.SCHEME, name, records) for name in exact_match.NAMES]
    assert 0 <= first[0].value <= 1
    assert 0 < first[1].value <= len(NASTY)
    random.Random(1).shuffle(records)
    assert [evaluate(exact_match.SCHEME, name, records) for name in exact_match.NAMES] == first
    assert all(exact_match.score(text, text, parser).score in (0.0, 1.0) for text in NASTY)
