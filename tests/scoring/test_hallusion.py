"""HallusionBench: answers, questions over figures, and figures over questions."""

import random

import pytest
from nasty import check_scheme

from sinkbench.scoring import hallusion
from sinkbench.scoring.metric import evaluate, record


def values(answers, sizes=(2, 2)):
    """Metrics of answers by (category, figure, question); every true answer is yes.

    Args:
        answers: The model's answers.
        sizes: Figures of a question, questions of a figure.
    """
    records = []
    for index, ((category, figure, question), text) in enumerate(answers.items()):
        asked = (f"{category}-{question}", sizes[0])
        judged = hallusion.score(text, "yes", category, asked, sizes[1], "vlmevalkit")
        records.append(record(f"{index:03}", f"{category}-{figure}", judged))
    return {name: evaluate(hallusion.SCHEME, name, records) for name in hallusion.NAMES}


def test_accuracies_by_hand():
    """VD: question 0 right on both figures, question 1 wrong on figure 1. VS: all wrong, one without yes or no."""
    got = values(
        {
            ("VD", 0, 0): "Yes",
            ("VD", 0, 1): "Yes, they are.",
            ("VD", 1, 0): "yes",
            ("VD", 1, 1): "No",
            ("VS", 0, 0): "No",
            ("VS", 0, 1): "Maybe",
            ("VS", 1, 0): "No",
            ("VS", 1, 1): "yes and no",
        }
    )
    assert [got[f"VD/{name}"].value for name in ("aAcc", "qAcc", "fAcc")] == [0.75, 0.5, 0.5]
    assert [got[f"VS/{name}"].value for name in ("aAcc", "qAcc", "fAcc")] == [0, 0, 0]
    assert [got[name].value for name in ("aAcc", "qAcc", "fAcc")] == [3 / 8, 1 / 4, 1 / 4]
    assert [got[name].n for name in ("aAcc", "qAcc", "fAcc")] == [8, 4, 4]
    assert got["average"].value == pytest.approx((3 / 8 + 1 / 4 + 1 / 4) / 3)
    assert got["n_unparsed"].value == 2
    assert got["yes_ratio"].value == 3 / 8


def test_what_lacks_an_answer_is_not_judged_as_a_whole():
    got = values({("VD", 0, 0): "Yes", ("VD", 0, 1): "No", ("VD", 1, 0): "Yes"})
    assert (got["aAcc"].value, got["aAcc"].n) == (pytest.approx(2 / 3), 3)
    assert (got["qAcc"].value, got["qAcc"].n) == (1.0, 1)
    assert (got["fAcc"].value, got["fAcc"].n) == (0.0, 1)
    alone = values({("VD", 0, 0): "Yes"})
    assert alone["qAcc"].n == alone["fAcc"].n == 0


@pytest.mark.parametrize("parser", ["vlmevalkit", "pope", "opera_pai", "lmms_eval"])
def test_whatever_is_answered(parser):
    def judge(text, number):
        category = hallusion.CATEGORIES[number % 2]
        question = (f"{category}-{number // 4}", 2)
        figure = f"{category}-{number // 8}-{number // 2 % 2}"
        return hallusion.score(text, ("yes", "no")[number // 3 % 2], category, question, 2, parser), figure

    check_scheme(hallusion.SCHEME, hallusion.NAMES, judge, random.Random(0))


def test_unknown_metrics_are_refused():
    for name in ("accuracy", "VX/aAcc", "VD/score"):
        with pytest.raises(ValueError, match=name):
            hallusion.metric(name)
