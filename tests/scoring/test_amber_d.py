"""AMBER's discriminative scores with the constants of the published scorer."""

import random

import pytest
from nasty import check_scheme

from sinkbench.errors import UsageError
from sinkbench.scoring import amber_d
from sinkbench.scoring.metric import evaluate, record

EXISTENCE, STATE, NUMBER = (
    "discriminative-hallucination",
    "discriminative-attribute-state",
    "discriminative-attribute-number",
)
RELATION, OTHER_RELATION = "discriminative-relation", "relation"


@pytest.mark.parametrize(
    ("text", "own", "vlmevalkit"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        (" No\n", "no", "no"),
        ("No.", None, "no"),
        ("yes", None, "yes"),
        ("NO", None, "no"),
        ("No, there is no dog", None, "no"),
        ("Yes and no", None, None),
        ("", None, None),
    ],
)
def test_readings(text, own, vlmevalkit):
    assert amber_d.parse(text).answer == own
    assert amber_d.parse(text, "vlmevalkit").answer == vlmevalkit
    assert amber_d.score(text, "no", EXISTENCE).counts["all.unparsed"] == float(own is None)


def test_an_unknown_parser_is_refused():
    with pytest.raises(UsageError, match="unknown parser"):
        amber_d.parse("Yes", "ambre")


def values(rows):
    """Metrics from (text, label, type)."""
    records = [record(f"{i:05}", str(i // 3), amber_d.score(*row)) for i, row in enumerate(rows)]
    return {name: evaluate(amber_d.SCHEME, name, records) for name in amber_d.NAMES}


def printed(rows, epsilon=0.0001):
    """Accuracy, precision, recall and F1 in per cent as the published scorer prints them."""
    answered = [(text, label) for text, label, _ in rows]
    right = sum(text.lower() == label for text, label in answered)
    both = sum(text == "No" and label == "no" for text, label in answered)
    denied, to_deny = (sum(row[side] == word for row in answered) for side, word in ((0, "No"), (1, "no")))
    precision = round(both / (denied + 0.001) * 100, 1)
    recall = round(both / (to_deny + 0.001) * 100, 1)
    f1 = 2 * (precision / 100) * (recall / 100) / (precision / 100 + recall / 100 + epsilon) * 100
    return [round(right / (len(rows) + 0.001) * 100, 1), precision, recall, round(f1, 1)]


def shown(got, scope=""):
    return [round(100 * got[f"{scope}{name}"].value, 1) for name in ("accuracy", "precision", "recall", "f1")]


def test_a_hundred_questions_as_the_published_scorer_prints_them():
    rows = [("No", "no", STATE)] * 31 + [("Yes", "no", STATE)] * 19 + [("No", "yes", STATE)] * 8
    rows += [("Yes", "yes", STATE)] * 41 + [("yes", "yes", STATE)]
    got = values(rows)
    # P = 31/39 -> 79.5, R = 31/50 -> 62.0, F1 = 2 * .795 * .62 / 1.4151 -> 69.7; the last answer is in lower case.
    assert shown(got) == shown(got, "attribute/") == shown(got, "state/") == [72.0, 79.5, 62.0, 69.7]
    assert got["number/f1"].n == got["existence/f1"].n == 0
    assert got["n_unparsed"].value == 1


def test_existence_has_a_constant_of_its_own_and_full_precision():
    rows = [("No", "no", EXISTENCE)] * 70 + [("Yes", "no", EXISTENCE)] * 30
    got = values(rows)
    assert shown(got, "existence/") == printed(rows, 0.001) == [70.0, 100.0, 70.0, 82.3]
    assert got["existence/f1"].value == pytest.approx(2 * 0.7 / 1.701)
    assert got["f1"].value == pytest.approx(2 * 0.7 / 1.7001)


def test_both_types_of_relation_are_one_dimension_and_dimensions_are_averaged_for_accuracy():
    rows = [("Yes", "yes", RELATION), ("Yes", "no", OTHER_RELATION), ("No", "no", EXISTENCE), ("No", "no", NUMBER)]
    got = values([*rows, ("No", "no", STATE)])
    assert got["relation/accuracy"].value == 0.5
    assert got["attribute/accuracy"].n == 2
    assert got["accuracy"].value == 0.8
    assert got["dimension_accuracy"].value == pytest.approx((0.5 + 1 + 1) / 3)
    assert got["yes_ratio"].value == 0.4


def test_nothing_denied_is_zero_and_flagged():
    got = values([("Yes", "no", STATE), ("Yes", "yes", STATE)])
    assert [got[name].value for name in ("precision", "recall", "f1")] == [0, 0, 0]
    assert {name for name in ("accuracy", "precision", "recall", "f1") if got[name].undefined} == {"precision", "f1"}


def test_random_answers_as_the_published_scorer_prints_them():
    draw = random.Random(3)
    for _ in range(20):
        rows = [
            (draw.choice(("Yes", "No", "no idea")), draw.choice(("yes", "no")), draw.choice((STATE, NUMBER)))
            for _ in range(draw.randrange(150, 400))
        ]
        assert shown(values(rows)) == printed(rows)


@pytest.mark.parametrize("parser", amber_d.PARSERS)
def test_whatever_is_answered(parser):
    def judge(text, number):
        kind = list(amber_d.TYPES)[number % len(amber_d.TYPES)]
        return amber_d.score(text, ("yes", "no")[number // 7 % 2], kind, parser), str(number // 5)

    check_scheme(amber_d.SCHEME, amber_d.NAMES, judge, random.Random(0))


def test_unknown_metrics_are_refused():
    for name in ("f2", "colour/f1", "state/yes_ratio", "existence/n_unparsed"):
        with pytest.raises(ValueError, match=name):
            amber_d.metric(name)
