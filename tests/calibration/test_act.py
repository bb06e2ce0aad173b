"""The calibrator of `act`: every head is tried alone, and those that help are taken."""

import pytest
from harness import adapter, image, request

from sinkbench.calibration import act
from sinkbench.calibration.act import FindHeads
from sinkbench.calibration.base import Bench, Question
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method
from sinkbench.methods.act import Act


class Scores:
    """A task whose score is what a table says of the answers."""

    def describe(self):
        return {"headline": "accuracy"}

    def score(self, answers):
        right = sum(text != "" for text in answers.values())
        return {"accuracy": {"value": right / len(answers), "direction": "higher"}}, {}


def questions(n: int) -> list[Question]:
    return [Question(request(str(i), "<image>\nis there a dog ?", image(i), max_new_tokens=2), "yes") for i in range(n)]


def bench(**changes) -> Bench:
    return Bench(adapter("llava"), changes.pop("method", Act(layers=(2, 3))), questions(2), Scores(), **changes)


def planted(monkeypatch, values, direction="higher"):
    """Let the heads have scores; returns the variants that were asked for."""
    asked = {}

    def scores(adapter, variants, task, requests, **_):
        asked.update(variants)
        asked["n"] = len(requests)
        return {name: {"accuracy": {"value": values.get(name, 0.5), "direction": direction}} for name in variants}

    monkeypatch.setattr(act, "score_variants", scores)
    return asked


def test_heads_that_help_alone_are_taken(monkeypatch):
    asked = planted(monkeypatch, {"2.1": 0.6, "3.0": 0.51, "3.2": 0.4})
    found = FindHeads(samples=1).measure(bench())
    heads = adapter("llava").info.n_heads
    assert set(asked) == {"greedy", "n", *(f"{layer}.{head}" for layer in (2, 3) for head in range(heads))}
    assert asked["n"] == 1
    assert asked["3.2"] == Act(layers=(2, 3), heads=("3.2",))
    assert found.params["heads"] == ["2.1", "3.0"]
    assert (found.params["threshold"], found.params["tau"]) == ("absolute", 0.1)
    assert found.evidence["gains"]["3.2"] == -0.1
    assert found.table[1] == ("2.1", "+0.1000")
    get_method("act", found.params).bind(adapter("llava").info)


def test_a_bound_on_the_gain_and_metrics_that_fall(monkeypatch):
    planted(monkeypatch, {"2.1": 0.6, "3.0": 0.51})
    assert FindHeads(gain=0.05).measure(bench()).params["heads"] == ["2.1"]
    planted(monkeypatch, {"2.1": 0.6, "3.0": 0.4}, "lower")
    assert FindHeads().measure(bench()).params["heads"] == ["3.0"]


def test_where_nothing_helps_the_message_says_what_to_try(monkeypatch):
    planted(monkeypatch, {"2.1": 0.4})
    with pytest.raises(SinkbenchError, match=r"no head .* raises accuracy") as failed:
        FindHeads().measure(bench())
    assert "act.all_heads=true" in failed.value.hint
    with pytest.raises(UsageError, match="samples"):
        FindHeads(samples=0)


def test_answers_are_really_made_under_each_head():
    """Random weights: all that is asserted is that every head was run, and that the bound decides."""
    with pytest.raises(SinkbenchError, match=r"plain: 1\.0000, 2 questions"):
        FindHeads(gain=1.0).measure(bench(method=Act(layers=(2,))))
