"""Cells that fail, that are done before, and what the log says; with a backend that has no models."""

import json
from collections import Counter

import pytest
from fakes import FakeBackend, FakeTask, always, record_of, right, stopping, vary, write_images

from sinkbench.errors import UsageError
from sinkbench.reporter import Reporter
from sinkbench.spec import RunSpec
from sinkbench.sweep.log import SweepLog
from sinkbench.sweep.run import Watch, sweep


@pytest.fixture
def task(tmp_path):
    write_images(tmp_path / "data", 4)
    return FakeTask(tmp_path / "data")


@pytest.fixture
def specs(tmp_path):
    greedy = RunSpec(model="tiny", task="fake", output=tmp_path / "runs")
    return [
        vary(greedy, model=model, method=method) for model in ("tiny", "small") for method in ("greedy", "var", "pai")
    ]


def statuses(cells):
    return [cell.status for cell in cells]


def stored(folder):
    """How often each sample of each run was stored, by the log."""
    events = SweepLog(folder).events()
    return Counter((event["run"], id) for event in events if event["event"] == "stored" for id in event["ids"])


class Recorder(Watch):
    def __init__(self):
        self.groups, self.begun, self.ended = [], [], []

    def planned(self, groups):
        self.groups = [[spec.method for spec in group] for group in groups]

    def group(self, specs):
        self.begun.append([spec.method for spec in specs])
        return Reporter()

    def finished(self, cell):
        self.ended.append((cell.title, cell.status))


def test_runs_of_one_model_are_answered_together_and_logged(specs, task, tmp_path):
    backend, watch = FakeBackend(task, right(task)), Recorder()
    cells = sweep(specs, backend=backend, watch=watch)
    assert statuses(cells) == ["done"] * 6
    assert [cell.spec for cell in cells] == specs
    assert watch.groups == watch.begun == [["greedy", "var", "pai"]] * 2
    assert watch.ended == [(f"{spec.model} × {spec.method} × fake", "done") for spec in specs]
    assert len(backend.engines) == 2
    assert stored(tmp_path / "runs") == {
        (cell.outcome.directory.name, f"fake/{i}"): 1 for cell in cells for i in range(12)
    }
    assert statuses(sweep(specs, backend=FakeBackend(task, always("unused")))) == ["reused"] * 6


def test_a_method_that_fails_stops_neither_its_group_nor_the_others(specs, task, tmp_path):
    class Picky(FakeBackend):
        def engine(self, adapter, methods, *arguments):
            if {method.name for method in methods.values()} == {"var"} or len(methods) > 1:
                raise RuntimeError("no sink dimensions")
            return super().engine(adapter, methods, *arguments)

    cells = sweep(specs, backend=Picky(task, right(task)))
    assert statuses(cells) == ["done", "failed", "done"] * 2
    assert cells[1].error == "RuntimeError: no sink dimensions"
    assert record_of(cells[0].outcome.directory)["metrics"]["f1"]["value"] == 1.0
    events = [event for event in SweepLog(tmp_path / "runs").events() if event["event"] == "cell"]
    assert [event["status"] for event in events] == ["done", "failed", "done"] * 2


def test_a_run_that_cannot_begin_is_a_failed_cell_and_a_wrong_name_stops_all(specs, task, tmp_path):
    class NoWeights(FakeBackend):
        def check_model(self, preset):
            if preset.name == "small":
                raise UsageError("the weights of small are not here", "Fetch them.")

    backend, watch = NoWeights(task, right(task)), Recorder()
    cells = sweep(specs, backend=backend, watch=watch)
    assert statuses(cells) == ["done"] * 3 + ["failed"] * 3
    assert (cells[3].error, cells[3].hint) == ("the weights of small are not here", "Fetch them.")
    assert watch.groups == [["greedy", "var", "pai"]]

    with pytest.raises(UsageError, match="unknown method 'vra'"):
        sweep([*specs, vary(specs[0], method="vra")], backend=FakeBackend(task, always("unused")))


def test_samples_that_fail_make_a_cell_incomplete_and_are_retried(specs, task, tmp_path):
    def broken(request):
        return ValueError("too long") if request.id == "fake/4" else "yes"

    answerers = {"greedy": right(task), "var": broken, "pai": right(task)}
    cells = sweep(specs[:3], backend=FakeBackend(task, answerers))
    assert statuses(cells) == ["done", "incomplete", "done"]
    assert cells[1].error == "1 samples failed; for example fake/4: too long"
    assert statuses(sweep(specs[:3], backend=FakeBackend(task, right(task)))) == ["reused", "done", "reused"]
    assert stored(tmp_path / "runs")[cells[1].outcome.directory.name, "fake/4"] == 2


def test_an_interrupted_sweep_goes_on_where_it_stopped(specs, task, tmp_path):
    answerers = {"greedy": right(task), "var": stopping(right(task), 5, KeyboardInterrupt()), "pai": right(task)}
    with pytest.raises(KeyboardInterrupt):
        sweep(specs, backend=FakeBackend(task, answerers))
    cells = sweep(specs, backend=FakeBackend(task, right(task)))
    assert statuses(cells) == ["done"] * 6
    assert set(stored(tmp_path / "runs").values()) == {1}
    assert sum(stored(tmp_path / "runs").values()) == 6 * 12


def test_a_value_of_the_grid_that_is_the_default_is_the_same_cell(specs, task, tmp_path):
    same = [specs[1], vary(specs[1], params={"var.tau": 20.0})]
    cells = sweep(same, backend=FakeBackend(task, right(task)))
    assert statuses(cells) == ["done", "done"]
    assert cells[0].outcome.directory == cells[1].outcome.directory
    assert [cell.spec for cell in cells] == same
    assert set(stored(tmp_path / "runs").values()) == {1}


def test_the_log_skips_a_line_that_was_cut_off(tmp_path):
    log = SweepLog(tmp_path)
    log.write("begin", cells=1)
    with open(log.path, "a") as file:
        file.write('{"event": "sto')
    assert [event["event"] for event in log.events()] == ["begin"]
    assert json.loads(log.path.read_text().splitlines()[0])["cells"] == 1
