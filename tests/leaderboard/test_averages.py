"""Means over tasks by hand, and the joint bootstrap of tasks that share images."""

import numpy as np
import pytest

from sinkbench.leaderboard import averages as module
from sinkbench.leaderboard.averages import averages, joint_bootstrap
from sinkbench.leaderboard.compare import Pairs
from sinkbench.leaderboard.stats import paired_bootstrap
from sinkbench.scoring.metric import Metric, Part, Unit, quotient

ACCURACY = Metric("accuracy", (Part(("right", "n"), quotient, "n"),), "mean")


def unit(cluster, right):
    return Unit(cluster, {"right": float(right), "n": 1.0})


def pairs(differences, prefix):
    """One question an image; the method is right (1) or wrong (-1) where the baseline is not, or alike (0)."""
    first = [unit(f"{prefix}{i:03}", d < 0) for i, d in enumerate(differences)]
    second = [unit(f"{prefix}{i:03}", d > 0) for i, d in enumerate(differences)]
    return Pairs(ACCURACY, (first, second))


def test_one_task_is_the_paired_bootstrap():
    alone = pairs(np.random.default_rng(0).integers(-1, 2, 60), "a")
    assert joint_bootstrap([alone]) == paired_bootstrap(*alone.tables, alone.statistic)


def test_tasks_without_common_images_add_their_variances():
    """stderr of a mean of two independent differences: sqrt(s1^2 + s2^2) / 2."""
    generator = np.random.default_rng(1)
    one, other = pairs(generator.integers(-1, 2, 300), "a"), pairs(generator.choice([0, 0, 0, 1], 300), "b")
    errors = [paired_bootstrap(*each.tables, each.statistic).stderr for each in (one, other)]
    joint = joint_bootstrap([one, other])
    assert joint.stderr == pytest.approx(np.hypot(*errors) / 2, rel=0.06)
    assert joint.n == 300


def test_tasks_on_the_same_images_are_not_counted_twice():
    """The same differences on the same images are one experiment: as wide as alone, not sqrt(2) narrower."""
    differences = np.random.default_rng(2).integers(-1, 2, 300)
    task = pairs(differences, "a")
    alone = paired_bootstrap(*task.tables, task.statistic)
    together = joint_bootstrap([task, task])
    assert (together.delta, together.low, together.high) == pytest.approx((alone.delta, alone.low, alone.high))


def row(method, task, value, *, direction="higher", conditions="c", model="m", run_id=None, **changes):
    metric = {"value": value, "direction": direction}
    about = {"model": model, "method": method, "params": {}, "task": task, "conditions": f"{conditions}-{task}"}
    marks = {"n_failed": 0, "dirty": False, "headline": "x", "run_id": run_id or f"{method}-{task}"}
    return {**about, **marks, "metrics": {"x": metric}, **changes}


@pytest.fixture(autouse=True)
def no_deltas(monkeypatch):
    monkeypatch.setattr(module, "_delta", lambda *_: None)


def test_methods_are_averaged_over_the_same_tasks_only():
    rows = [
        *(row("greedy", task, value) for task, value in (("a", 0.5), ("b", 0.7))),
        *(row("var", task, value) for task, value in (("a", 0.6), ("b", 0.9))),
        row("pai", "a", 0.99),
    ]
    (entry,) = averages(rows, {}, "greedy")
    assert entry["metrics"] == {"a": "x", "b": "x"}
    assert {each["method"]: each["value"] for each in entry["rows"]} == pytest.approx({"greedy": 0.6, "var": 0.75})
    assert entry["left_out"] == [{"method": "pai", "params": {}, "missing": ["b"]}]


def test_other_conditions_directions_and_scales_are_kept_apart():
    rows = [
        *(row("greedy", task, 0.5) for task in ("a", "b")),
        *(row("greedy", task, 0.2, direction="lower") for task in ("c", "d")),
        row("greedy", "mme", 1500.0),
        *(row("var", task, 0.6) for task in ("a", "b")),
        row("var", "mme", 1600.0),
        # Of another set of samples: no mean with the others.
        row("pai", "a", 0.9, conditions="limit"),
        row("pai", "b", 0.9),
    ]
    higher, lower = averages(rows, {}, "greedy")
    assert (higher["direction"], lower["direction"]) == ("higher", "lower")
    assert set(higher["metrics"]) == {"a", "b"}
    assert set(lower["metrics"]) == {"c", "d"}
    assert [each["method"] for each in higher["rows"]] == ["greedy", "var"]
    assert higher["left_out"] == [{"method": "pai", "params": {}, "missing": ["a"]}]


def test_one_task_or_no_baseline_makes_no_mean():
    assert averages([row("greedy", "a", 0.5), row("var", "a", 0.5)], {}, "greedy") == []
    assert averages([row("var", "a", 0.5), row("var", "b", 0.5)], {}, "greedy") == []


def test_marks_of_any_run_are_the_means():
    rows = [row("greedy", "a", 0.5, dirty=True), row("greedy", "b", 0.5, n_failed=2, imported=True)]
    (found,) = averages(rows, {}, "greedy")[0]["rows"]
    assert (found["dirty"], found["n_failed"], found["imported"]) == (True, 2, True)
