"""Accuracy of multiple choice, and its averages over fine categories, sources and pairs."""

import random

import pytest
from choice_data import NASTY

from sinkbench.scoring import choice
from sinkbench.scoring.letters import PARSERS
from sinkbench.scoring.metric import evaluate, record

OPTIONS = {"A": "red", "B": "green"}


def right(*scopes):
    return choice.score("A", "A", OPTIONS, *scopes)


def wrong(*scopes):
    return choice.score("B", "A", OPTIONS, *scopes)


def records(scores):
    return [record(f"{number:03}", f"image {number // 2}", score) for number, score in enumerate(scores)]


def value(scheme, name, scores):
    return evaluate(scheme, name, records(scores)).value


def test_accuracy_of_all_and_of_a_category():
    scores = [right("x"), wrong("x"), right("y"), choice.score("perhaps", "A", OPTIONS, "y")]
    assert value(choice.SCHEME, "accuracy", scores) == 0.5
    assert value(choice.SCHEME, "x/accuracy", scores) == 0.5
    assert value(choice.SCHEME, "y/accuracy", scores) == 0.5
    assert evaluate(choice.SCHEME, "y/accuracy", records(scores)).n == 2
    assert value(choice.SCHEME, "n_unparsed", scores) == 1
    assert value(choice.SCHEME, "y/n_unparsed", scores) == 1


def test_nothing_is_right_where_there_is_no_right_answer():
    for answer in (None, ""):
        for text in NASTY:
            assert choice.score(text, answer, OPTIONS).score == 0
            assert choice.exact(text, answer).score == 0


@pytest.mark.parametrize(
    ("text", "answer", "score", "parsed"),
    [
        ("Three.", "three", 1, "three"),
        (" 3\n", "3", 1, "3"),
        ("3 cars", "3", 0, "3 cars"),
        ("", "3", 0, None),
        (".", "", 0, None),
        ("是。", "是。", 1, "是。"),
    ],
)
def test_short_answers(text, answer, score, parsed):
    judged = choice.exact(text, answer)
    assert (judged.score, judged.parsed, judged.counts["all.unparsed"]) == (score, parsed, float(parsed is None))


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("Science & Technology", "science_technology"),
        ("2D", "2d"),
        ("finegrained (x-y)", "finegrained_x_y"),
        (None, ""),
    ],
)
def test_categories_in_metric_names(name, scope):
    assert choice.scope(name) == scope


def test_cvbench_averages_its_sources():
    """ADE20K 1 of 2, COCO 3 of 4, Omni3D 1 of 4: 2D 0.625, overall 0.4375; by question 5 of 10."""
    scores = [right("2d", "ade20k"), wrong("2d", "ade20k")]
    scores += [right("2d", "coco")] * 3 + [wrong("2d", "coco")]
    scores += [right("3d", "omni3d")] + [wrong("3d", "omni3d")] * 3
    assert value(choice.CVBENCH, "2d/accuracy", scores) == 0.625
    assert value(choice.CVBENCH, "3d/accuracy", scores) == 0.25
    assert value(choice.CVBENCH, "accuracy", scores) == 0.4375
    assert value(choice.CVBENCH, "question_accuracy", scores) == 0.5
    assert value(choice.CVBENCH, "accuracy", scores[:6]) == 0.625
    assert value(choice.CVBENCH, "accuracy", scores[:2]) == 0.5
    assert value(choice.CVBENCH, "accuracy", scores[6:]) == 0.25
    assert evaluate(choice.CVBENCH, "accuracy", records(scores)).n == 10


def star(text, category, fine):
    return choice.mmstar(text, "A", OPTIONS, category, fine, "mmstar")


def test_mmstar_averages_its_fine_categories():
    """Math: geometry 1 of 1, numbers 1 of 3; coarse: emotion 0 of 2. All: mean of 1, 1/3, 0."""
    scores = [star("A", "math", "geometry"), star("A", "math", "numbers")]
    scores += [star("B", "math", "numbers")] * 2 + [star("B", "coarse perception", "image emotion")] * 2
    assert value(choice.MMSTAR, "accuracy", scores) == pytest.approx(4 / 9)
    assert value(choice.MMSTAR, "math/accuracy", scores) == pytest.approx(2 / 3)
    assert value(choice.MMSTAR, "coarse_perception/accuracy", scores) == 0
    assert value(choice.MMSTAR, "question_accuracy", scores) == pytest.approx(1 / 3)
    assert evaluate(choice.MMSTAR, "math/accuracy", records(scores)).n == 4
    assert value(choice.MMSTAR, "accuracy", [star("A", "math", "geometry"), star("a", "x", "y")]) == 1


def test_fine_categories_of_one_name_in_two_categories_are_kept_apart():
    scores = [star("A", "math", "other"), star("B", "logic", "other"), star("B", "logic", "other")]
    assert value(choice.MMSTAR, "math/accuracy", scores) == 1
    assert value(choice.MMSTAR, "logic/accuracy", scores) == 0
    assert value(choice.MMSTAR, "accuracy", scores) == pytest.approx(1 / 3)


def test_pairs():
    scores = [
        choice.paired(score, pair) for score, pair in zip((right(), right(), right(), wrong()), "1122", strict=True)
    ]
    assert value(choice.MMVP, "pair_accuracy", scores) == 0.5
    assert value(choice.MMVP, "accuracy", scores) == 0.75
    # A pair of which one question failed is judged by neither.
    assert evaluate(choice.MMVP, "pair_accuracy", records(scores[:3])) == (1.0, 1, False)
    assert evaluate(choice.MMVP, "accuracy", records(scores[:3])).n == 3


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        (choice.SCHEME, ("accuracy", "x/accuracy")),
        (choice.CVBENCH, ("accuracy", "2d/accuracy", "3d/accuracy", "question_accuracy")),
        (choice.MMSTAR, ("accuracy", "math/accuracy", "question_accuracy")),
        (choice.MMVP, ("pair_accuracy", "accuracy")),
    ],
)
@pytest.mark.parametrize("parser", PARSERS)
def test_any_answers_in_any_order_stay_in_range(scheme, names, parser):
    draw = random.Random(parser)
    scores = []
    for number in range(60):
        text, answer = draw.choice((*NASTY, "A", "B")), draw.choice("AB")
        if scheme is choice.MMSTAR:
            category, fine = draw.choice(("math", "logic")), draw.choice("xyz")
            scores.append(choice.mmstar(text, answer, OPTIONS, category, fine, parser))
        else:
            scopes = draw.choice((("2d", "coco"), ("2d", "ade20k"), ("3d", "omni3d"), ("x",)))
            judged = choice.score(text, answer, OPTIONS, *scopes, parser=parser)
            scores.append(choice.paired(judged, str(number // 2)) if scheme is choice.MMVP else judged)
    entries = records(scores)
    first = {name: evaluate(scheme, name, entries) for name in (*names, "n_unparsed")}
    assert all(0 <= first[name].value <= 1 for name in names)
    assert 0 <= first["n_unparsed"].value <= 60
    draw.shuffle(entries)
    assert {name: evaluate(scheme, name, entries) for name in first} == first


@pytest.mark.parametrize("scheme", [choice.SCHEME, choice.CVBENCH, choice.MMSTAR, choice.MMVP])
def test_unknown_metrics_are_refused(scheme):
    with pytest.raises(ValueError, match="f1"):
        scheme.metric("f1")
