"""What looking costs: the arms run the same prompts, take turns, and are compared with the plain prefill."""

from dataclasses import replace

import pytest

from sinkbench.bench import inspection, suite
from sinkbench.bench.inspection import ARMS, measure_inspection
from sinkbench.bench.measure import prepare
from sinkbench.bench.tables import grids
from sinkbench.bench.workloads import inspect
from sinkbench.engine.batching import Budget, plan_batches
from sinkbench.inspection import collect


@pytest.fixture
def prepared(tiny, images):
    return prepare(tiny, inspect(images), lambda prompts: plan_batches(prompts, Budget(2)))


def test_arms_take_turns(tiny, prepared, clock):
    found = measure_inspection(tiny, prepared, clock, 2)["arms"]
    assert tuple(found) == ARMS
    assert clock.given == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert [arm["seconds"]["median"] for arm in found.values()] == [4.5, 9.0, 18.0]
    assert [arm["time_ratio"] for arm in found.values()] == [1, 2, 4]
    assert {arm["memory_ratio"] for arm in found.values()} == {None}


def test_every_arm_sees_the_same_batches(tiny, prepared, clock, monkeypatch):
    """Of images that were preprocessed before; the last arm looks at all but heads and maps."""
    seen, observe = [], inspection.observe

    def spied(adapter, probe, prompts, **options):
        for batch in observe(adapter, probe, prompts, **options):
            seen.append((type(probe).__name__, len(batch.prompts), len(batch.state)))
            yield batch

    for module in (inspection, collect):
        monkeypatch.setattr(module, "observe", spied)
    monkeypatch.setattr(type(tiny), "preprocess", None)
    measure_inspection(tiny, prepared, clock, 1)
    once = [name for name, _, _ in seen[: len(seen) // 2]]
    assert once == ["Intervention"] * 3 + ["Probe"] * 6
    assert [size for _, size, _ in seen[:3]] == [size for _, size, _ in seen[3:6]] == [2, 2, 1]
    assert {kept for name, _, kept in seen if name == "Intervention"} == {0}


def test_a_record_tells_of_it(settings, tmp_path):
    settings = replace(settings, workloads=("inspect",), prompts=3, repeats=1)
    content = suite.run(settings, tmp_path / "tiny.json", lambda _: None)
    (entry,) = content["inspection"]
    assert (entry["answers"], entry["error"]) == (3, "")
    assert not content["rows"]
    assert [grid.title.partition(":")[0] for grid in grids(content)] == ["What looking costs", "Targets"]
    assert [row[1] for row in grids(content)[0].rows] == list(ARMS)
    assert [target["at_most"] for target in content["targets"]] == [1.3, 1.3]


def test_looking_that_fails_misses_the_targets(settings, monkeypatch):
    def fails(*_):
        raise RuntimeError("lost")

    monkeypatch.setattr(suite, "measure_inspection", fails)
    content = suite.run(replace(settings, workloads=("inspect",), prompts=2), None, lambda _: None)
    assert content["inspection"][0]["error"] == "RuntimeError: lost"
    assert [target["met"] for target in content["targets"]] == [False] * 4
    assert grids(content)[0].rows[0][4] == "RuntimeError: lost"
