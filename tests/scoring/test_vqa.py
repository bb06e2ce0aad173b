"""The EvalAI answer processor and VQA accuracy."""

import json

import pytest

from sinkbench.scoring import vqa
from sinkbench.scoring.metric import evaluate, record


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Dog", "dog"),
        ("none", "0"),
        ("Ten", "10"),
        ("dont walk", "don't walk"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("Id've", "id've"),
        ("yall'd've", "y'all'd've"),
        ("macy's", "macy 's"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("st. john", "st john"),
        ("e-mail", "e mail"),
        ("- e-mail", "email"),
        ("what?", "what"),
        ("one\ttwo\nthree", "1 2 3"),
        ("a", ""),
        ("", ""),
    ],
)
def test_evalai_steps(text, normalised):
    assert vqa.evalai(text) == normalised


def test_vlmevalkit_keeps_a_period_after_a_digit_and_reads_digit_commas():
    assert vqa.vlmevalkit("3.") == "3."
    assert vqa.vlmevalkit("1,000-2") == "10002"
    assert vqa.evalai("1,000-2") == "1000 2"


def test_only_so_many_periods_are_removed():
    assert vqa.evalai("a." * 40).count(".") == 40 - 32


@pytest.mark.parametrize(
    ("agreeing", "accuracy"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_accuracy_by_number_of_agreeing_annotators(agreeing, accuracy):
    """With m of ten agreeing: (m min(1, (m-1)/3) + (10-m) min(1, m/3)) / 10."""
    assert vqa.vqa_accuracy("stop", ["stop"] * agreeing + ["go"] * (10 - agreeing)) == pytest.approx(accuracy)


def test_references_are_normalised_and_left_alone():
    references = ["The Stop.", "STOP", "stop", "Stop!", *["go"] * 6]
    before = list(references)
    assert vqa.vqa_accuracy("a stop", references) == 1.0
    assert references == before


def test_no_references_are_refused():
    with pytest.raises(ValueError, match="reference"):
        vqa.vqa_accuracy("stop", [])


def test_the_letter_a_agrees_with_itself_and_a_blank_answer_with_nothing():
    assert vqa.score("A", ["a"] * 10).score == 1.0
    blank = vqa.score("  \n", ["a"] * 10)
    assert (blank.score, blank.parsed, blank.counts["unparsed"]) == (0.0, None, 1.0)


def test_the_metric_is_the_mean():
    records = [record(str(i), str(i), vqa.score(text, ["stop"] * 10)) for i, text in enumerate(("Stop", "go", "", "x"))]
    assert evaluate(vqa.SCHEME, "vqa_accuracy", records) == (0.25, 4, False)
    assert evaluate(vqa.SCHEME, "n_unparsed", records).value == 1
    with pytest.raises(ValueError, match="bleu"):
        vqa.metric("bleu")


def test_the_published_strings(shared):
    rows = [json.loads(line) for line in (shared / "dev_cases/evalai_normalisation.jsonl").open()]
    assert len(rows) == 332
    for row in rows:
        assert vqa.evalai(row["input"]) == row["evalai"], row
        assert vqa.vlmevalkit(row["input"]) == row["vlmevalkit"], row
