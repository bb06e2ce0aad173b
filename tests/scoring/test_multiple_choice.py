"""Letter extraction and circular evaluation."""

import random

import pytest

from sinkbench.scoring import multiple_choice
from sinkbench.scoring.letters import extract_letter
from sinkbench.scoring.metric import evaluate, record
from sinkbench.scoring.multiple_choice import ROTATION

OPTIONS = {"A": "top left", "B": "top right", "C": "bottom left", "D": "bottom right"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        ("b", None),
        ("B.", "B"),
        ("(C)", "C"),
        ("D: bottom right", "D"),
        ("B. top right", "B"),
        ("**A**", "A"),
        ("The answer is B.", "B"),
        ("The answer is: B", "B"),
        ("The correct answer is **D** because of the many things that stand there", "D"),
        ("the answer is c", "C"),
        ("the answer is a dog", None),
        ("I think that it must be A", "A"),
        ("A man stands on the left", None),
        ("A or B", None),
        ("D is where I would put it if I had to", None),
        ("It is at the top right", "B"),
        ("TOP RIGHT", "B"),
        ("top left or top right", None),
        ("top right " + "of the picture, where it has been for a very long time and will stay " * 2, None),
        ("Z", "Z"),
        ("Cannot determine the answer", "Z"),
        ("Sorry, I can't help with images of people yet.", "Z"),
        ("E", None),
        ("", None),
    ],
)
def test_extraction(answer, letter):
    assert extract_letter(answer, OPTIONS) == letter


def test_a_letter_without_option_is_no_choice():
    assert extract_letter("C", {"A": "yes", "B": "no"}) is None


@pytest.mark.parametrize("absent", ["", None, "nan", float("nan")])
def test_absent_options_are_dropped(absent):
    assert multiple_choice.options_of({"A": "red", "B": "0", "C": absent, "D": absent}) == {"A": "red", "B": "0"}


def rows_of(question, n_options, category, right):
    """Records of a question's rotations; `right[r]` says whether rotation r is answered rightly."""
    options = dict(zip("ABCD"[:n_options], ("red", "green", "blue", "purple"), strict=False))
    return [
        record(
            f"{question}-{r}",
            str(question),
            multiple_choice.score("A" if ok else "B", "A", options, question + r * ROTATION, category),
        )
        for r, ok in enumerate(right)
    ]


def value(name, records):
    return evaluate(multiple_choice.SCHEME, name, records)


def test_a_question_counts_only_if_every_rotation_is_right():
    records = rows_of(1, 4, "counting", [1, 1, 1, 1]) + rows_of(2, 4, "counting", [1, 1, 1, 0])
    records += rows_of(3, 2, "position", [0, 1]) + rows_of(4, 3, "position", [1, 1, 1])
    assert value("accuracy", records) == (0.5, 4, False)
    assert value("vanilla_accuracy", records) == (0.75, 4, False)
    assert value("row_accuracy", records) == (pytest.approx(11 / 13), 13, False)
    assert value("counting/accuracy", records) == (0.5, 2, False)
    assert value("position/vanilla_accuracy", records) == (0.5, 2, False)


def test_a_question_with_a_failed_rotation_is_left_out_and_not_wrong():
    records = rows_of(1, 4, "counting", [1, 1, 1, 1]) + rows_of(2, 4, "counting", [1, 1, 1, 1])[:-1]
    assert value("accuracy", records) == (1.0, 1, False)
    assert value("row_accuracy", records).n == 7


def test_a_constant_letter_scores_nothing_on_circular_questions():
    records = []
    for question in range(20):
        for r in range(4):
            score = multiple_choice.score("A", "ABCD"[r], OPTIONS, question + r * ROTATION, "scene")
            records.append(record(f"{question}-{r}", "x", score))
    assert value("accuracy", records).value == 0.0
    assert value("vanilla_accuracy", records).value == 1.0
    assert value("row_accuracy", records).value == 0.25


def test_unresolved_and_refused_answers_are_wrong_and_counted():
    records = [
        record(str(i), "x", multiple_choice.score(text, "A", OPTIONS, i, "scene"))
        for i, text in enumerate(("A", "perhaps", "Z", "top"))
    ]
    assert value("vanilla_accuracy", records).value == 0.25
    assert value("n_unparsed", records).value == 3


def test_circular_never_exceeds_vanilla_and_ignores_the_order():
    draw = random.Random(3)
    records = [
        row for q in range(60) for row in rows_of(q, 4, draw.choice("ab"), [draw.random() < 0.8 for _ in range(4)])
    ]
    names = ("accuracy", "vanilla_accuracy", "a/accuracy", "b/accuracy")
    first = {name: value(name, records) for name in names}
    assert first["accuracy"].value <= first["vanilla_accuracy"].value
    draw.shuffle(records)
    assert {name: value(name, records) for name in names} == first


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="f1"):
        multiple_choice.metric("f1")
