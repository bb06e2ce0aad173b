"""The EvalAI answer processor and VQA accuracy."""

import json
import random

import pytest
from nasty import NASTY

from sinkbench.errors import UsageError
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


def test_lmms_eval_differs_in_the_first_word_steps_only():
    """A comma or question mark that joins two words becomes a space, and 's stays with its word."""
    assert (vqa.evalai("blue,red"), vqa.lmms_eval("blue,red")) == ("bluered", "blue red")
    assert (vqa.evalai("macy's"), vqa.lmms_eval("macy's")) == ("macy 's", "macy's")
    assert vqa.lmms_eval("1,000-2") == "10002"
    assert vqa.lmms_eval("3.") == "3"
    assert vqa.lmms_eval("The Two dogs.") == "2 dogs"


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


def test_parsers_reach_the_score():
    references = ["blue red"] * 10
    assert vqa.score("blue,red", references).score == 0.0
    judged = vqa.score("blue,red", references, "lmms_eval")
    assert (judged.score, judged.parsed) == (1.0, "blue red")
    with pytest.raises(UsageError, match="eval-ai"):
        vqa.score("blue", references, "eval-ai")


def test_accuracy_by_type_of_question():
    asked = [("2", ["2"] * 10, "number"), ("3", ["2"] * 10, "number"), ("no", ["no"] * 10, "yes/no")]
    records = [
        record(str(i), "", vqa.score(text, references, category=kind))
        for i, (text, references, kind) in enumerate(asked)
    ]
    values = {name: evaluate(vqa.SCHEME, name, records)[:2] for name in vqa.names(("yes/no", "number"))}
    assert values == {
        "vqa_accuracy": (pytest.approx(2 / 3), 3),
        "yes/no/vqa_accuracy": (1.0, 1),
        "number/vqa_accuracy": (0.5, 2),
        "n_unparsed": (0.0, 3),
    }


@pytest.mark.parametrize("parser", vqa.PARSERS)
@pytest.mark.parametrize("references", [["stop"] * 10, ["go", "", " ", "a", "👍", "12", "x", "y", "z", "stop"]])
def test_any_answer_is_scored_and_order_does_not_matter(parser, references):
    records = [record(str(i), str(i % 5), vqa.score(text, references, parser)) for i, text in enumerate(NASTY)]
    assert all(0 <= entry["score"] <= 1 for entry in records)
    first = [evaluate(vqa.SCHEME, name, records) for name in vqa.NAMES]
    assert 0 <= first[0].value <= 1
    assert first[1].value == 3
    random.Random(1).shuffle(records)
    assert [evaluate(vqa.SCHEME, name, records) for name in vqa.NAMES] == first
    for text in NASTY:
        assert vqa.score(text, [text] * 10, parser).score == float(bool(text.strip()))
