"""VL-ICL's rules on short answers, and the mean over tasks."""

import pytest
from nasty import NASTY

from sinkbench.scoring import in_context
from sinkbench.scoring.metric import evaluate, record


@pytest.mark.parametrize(
    ("text", "task", "parsed"),
    [
        (" Red\nBlue", "outlier_detection", "red"),
        ("Red. Blue", "outlier_detection", "red"),
        ("Red. Blue\nGreen.", "outlier_detection", "red. blue"),
        (".5", "sudoku", ".5"),
        ("470", "sudoku", "470"),
        ("The answer is 12, not 3", "operator_induction", "12"),
        ("-7", "operator_induction", "7"),
        ("1.5", "operator_induction", "1"),
        ("twelve", "operator_induction", ""),
        ("2 spheres", "clevr_count", "2 spheres"),
        ("", "sudoku", ""),
        ("\n\n", "operator_induction", ""),
    ],
)
def test_what_is_read(text, task, parsed):
    assert in_context.parse(text, task) == parsed


@pytest.mark.parametrize(
    ("text", "answer", "task", "exact", "contains"),
    [
        ("Flora", "flora", "character_classification", 1, 1),
        ("It is Flora", "Flora", "character_classification", 0, 1),
        ("12", "12", "operator_induction", 1, 1),
        ("= 12 of course", "12", "operator_induction", 1, 1),
        ("112", "12", "operator_induction", 0, 1),
        ("", "12", "operator_induction", 0, 0),
        ("no\nFlora", "Flora", "character_classification", 0, 0),
    ],
)
def test_exact_and_contained(text, answer, task, exact, contains):
    judged = in_context.score(text, answer, task)
    assert (judged.score, judged.counts[f"{task}.accuracy"], judged.counts[f"{task}.contains"]) == (
        exact,
        exact,
        contains,
    )


def records(answers):
    return [
        record(f"{index:02}", str(index), in_context.score(text, answer, task))
        for index, (text, answer, task) in enumerate(answers)
    ]


ANSWERS = [
    ("8", "8", "operator_induction"),
    ("9", "8", "operator_induction"),
    ("seven", "8", "operator_induction"),
    ("470", "470", "sudoku"),
]


def test_the_headline_is_the_mean_of_the_tasks_and_not_of_the_rows():
    found = records(ANSWERS)
    assert evaluate(in_context.SCHEME, "accuracy", found).value == pytest.approx((1 / 3 + 1) / 2)
    assert evaluate(in_context.SCHEME, "operator_induction/accuracy", found).value == pytest.approx(1 / 3)
    assert evaluate(in_context.SCHEME, "n_unparsed", found).value == 1
    for name in in_context.names():
        assert str(evaluate(in_context.SCHEME, name, found)) == str(evaluate(in_context.SCHEME, name, found[::-1]))


@pytest.mark.parametrize("task", in_context.TASKS)
@pytest.mark.parametrize("text", NASTY)
def test_no_answer_breaks_it(text, task):
    found = records([(text, "12", task), ("12", "12", task)])
    assert 0 <= found[0]["score"] <= 1
    for name in in_context.BASES:
        assert 0.5 <= evaluate(in_context.SCHEME, name, found).value <= 1


def test_unknown_metrics():
    for name in ("f1", "chess/accuracy", "sudoku/n_unparsed"):
        with pytest.raises(ValueError, match="no metric"):
            in_context.metric(name)
