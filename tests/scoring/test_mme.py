"""MME's ways to read an answer, its pairs and its points."""

import random

import pytest
from nasty import check_scheme

from sinkbench.errors import UsageError
from sinkbench.scoring import mme
from sinkbench.scoring.metric import evaluate, record

YES, NO, NEITHER = "yes", "no", None

# Text, then the reading by mme, lmms_eval, vlmevalkit.
READINGS = [
    ("Yes", YES, YES, YES),
    ("No.", NO, NO, NO),
    (" yes, it is", YES, YES, YES),
    ("Not at all", NO, NO, NEITHER),
    ("None", NO, NO, NEITHER),
    ("The answer is yes", NEITHER, NEITHER, YES),
    ("..no", NO, NO, NO),
    ("...no", NEITHER, NO, NO),
    ("Y", NEITHER, YES, NEITHER),
    ("n.", NEITHER, NO, NEITHER),
    ("yeah", NEITHER, NEITHER, NEITHER),
    ("", NEITHER, NEITHER, NEITHER),
]


@pytest.mark.parametrize(("text", "own", "lmms_eval", "vlmevalkit"), READINGS)
def test_readings(text, own, lmms_eval, vlmevalkit):
    expected = {"mme": own, "lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}
    assert {parser: mme.parse(text, parser).answer for parser in mme.PARSERS} == expected


def test_an_unknown_parser_is_refused():
    with pytest.raises(UsageError, match="unknown parser"):
        mme.parse("yes", "mmee")


def scored(rows):
    """Records from (text, answer, category, image)."""
    return [
        record(f"{i:04}", image, mme.score(text, answer, *rest, image))
        for i, (text, answer, *rest, image) in enumerate(rows)
    ]


def values(rows):
    records = scored(rows)
    return {name: evaluate(mme.SCHEME, name, records) for name in mme.NAMES}


def pair(first, second, category, image):
    """Answers to the yes and the no question of an image."""
    return [(first, "Yes", category, image), (second, "No", category, image)]


def test_points_by_hand():
    """existence: 3 of 4 right, 1 of 2 images; OCR: 2 of 2, 1 of 1; code: 1 of 2, none of 1."""
    got = values(
        [
            *pair("Yes", "No", "existence", "a"),
            *pair("Yes", "Yes", "existence", "b"),
            *pair("yes.", "no.", "OCR", "c"),
            *pair("perhaps", "No", "code_reasoning", "d"),
        ]
    )
    assert got["existence/score"].value == 75 + 50
    assert got["OCR/score"].value == 200
    assert got["perception"].value == 325
    assert got["cognition"].value == got["code_reasoning/score"].value == 50
    assert (got["accuracy"].value, got["accuracy_plus"].value) == (0.75, 0.5)
    assert (got["existence/accuracy"].value, got["existence/accuracy_plus"].value) == (0.75, 0.5)
    assert got["yes_ratio"].value == 0.5
    assert got["n_unparsed"].value == 1
    assert (got["perception"].n, got["cognition"].n) == (3, 1)
    assert got["count/score"].n == 0


def test_right_everywhere_is_2800_points():
    got = values([row for category in mme.CATEGORIES for row in pair("Yes", "No", category, f"{category}/0")])
    assert (got["perception"].value, got["cognition"].value) == (2000, 800)


def test_one_answer_for_everything_earns_half_and_no_image():
    got = values([row for category in mme.CATEGORIES for row in pair("Yes", "Yes", category, f"{category}/0")])
    assert (got["perception"].value, got["cognition"].value, got["accuracy_plus"].value) == (500, 200, 0)


def test_an_image_with_one_failed_question_is_in_no_pair():
    whole = [*pair("Yes", "No", "count", "a"), *pair("No", "No", "count", "b")]
    got = values(whole[:3])
    assert (got["count/accuracy_plus"].value, got["count/accuracy_plus"].n) == (1.0, 1)
    assert got["count/accuracy"].value == pytest.approx(2 / 3)
    alone = values(whole[:1])
    assert alone["perception"].n == alone["count/score"].n == 0


def test_images_of_one_name_in_two_categories_are_two():
    got = values([*pair("Yes", "No", "count", "0001.jpg"), *pair("No", "No", "color", "0001.jpg")])
    assert (got["accuracy_plus"].value, got["accuracy_plus"].n) == (0.5, 2)


@pytest.mark.parametrize("parser", mme.PARSERS)
def test_whatever_is_answered(parser):
    def judge(text, number):
        category = mme.CATEGORIES[number // 2 % len(mme.CATEGORIES)]
        image = f"{number // 2}"
        return mme.score(text, ("Yes", "No")[number % 2], category, image, parser), image

    bounds = {"perception": 2000, "cognition": 800, "score": 200}
    check_scheme(mme.SCHEME, mme.NAMES, judge, random.Random(0), bounds)


def test_unknown_metrics_are_refused():
    for name in ("score", "count/perception", "dog/score", "f1"):
        with pytest.raises(ValueError, match=name):
            mme.metric(name)
