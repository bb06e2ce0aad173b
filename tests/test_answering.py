"""Runs of several methods in one command: one pass over the questions, a record of its own for each."""

import gc
import json
import pathlib
import tracemalloc
from itertools import islice

import pytest
from fakes import FakeBackend, FakeEngine, FakeTask, always, lines, record_of, right, stopping, vary, write_images

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.reporter import Reporter
from sinkbench.request import Request, Response
from sinkbench.spec import RunSpec
from sinkbench.store import RunStore


@pytest.fixture
def task(tmp_path):
    write_images(tmp_path / "data", 4)
    return FakeTask(tmp_path / "data")


@pytest.fixture
def greedy(tmp_path):
    return RunSpec(model="tiny", task="fake", output=tmp_path / "runs")


@pytest.fixture
def specs(greedy):
    return [greedy, vary(greedy, method="var"), vary(greedy, method="pai")]


def ids(start, end=12):
    return [f"fake/{i}" for i in range(start, end)]


def directories(folder):
    return {record_of(path.parent)["method"]["name"]: path.parent for path in folder.glob("*/run.json")}


def statuses(folder):
    return {name: record_of(directory)["status"] for name, directory in directories(folder).items()}


def test_methods_are_asked_together_and_recorded_apart(specs, task):
    wrong = {"greedy": {1}, "var": {2, 3}, "pai": {4, 5, 6}}
    backend = FakeBackend(task, {name: right(task, numbers) for name, numbers in wrong.items()})
    outcomes = runner.run(specs, backend=backend)
    (engine,) = backend.engines
    assert engine.read == ids(0)
    assert engine.asked == dict.fromkeys(wrong, ids(0))
    assert backend.calls.count("task") == 1
    for outcome, (name, numbers) in zip(outcomes, wrong.items(), strict=True):
        assert outcome.directory.name.startswith(f"tiny__{name}__fake__")
        assert outcome.record == record_of(outcome.directory)
        assert outcome.record["status"] == "success"
        assert {i for i, row in enumerate(lines(outcome.directory)) if row["score"] == 0} == numbers
        assert outcome.record["efficiency"].items() >= {"n_answers": 12, "shared_by": 3}.items()


def test_each_batch_is_on_disk_before_the_next_one(specs, task, tmp_path):
    on_disk = []

    def look(request):
        found = sorted((tmp_path / "runs").glob("*/samples.jsonl"))
        on_disk.append(sum(file.read_bytes().count(b"\n") for file in found))
        return "yes"

    runner.run(specs, backend=FakeBackend(task, look))
    assert on_disk == [i - i % 2 for i in range(36)]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError("device lost"), "error")]
)
def test_runs_that_break_off_go_on_where_each_of_them_stopped(specs, task, tmp_path, error, status):
    answerers = {"greedy": right(task, {2}), "var": stopping(right(task, {7}), 5, error), "pai": right(task)}
    with pytest.raises(type(error)):
        runner.run(specs, backend=FakeBackend(task, answerers))
    assert statuses(tmp_path / "runs") == dict.fromkeys(answerers, status)
    kept = {name: len(lines(directory)) for name, directory in directories(tmp_path / "runs").items()}
    assert kept == {"greedy": 6, "var": 4, "pai": 4}
    measured = {name: record_of(directory)["efficiency"] for name, directory in directories(tmp_path / "runs").items()}
    assert {name: figures["n_answers"] for name, figures in measured.items()} == kept

    backend = FakeBackend(task, {**answerers, "var": right(task, {7})})
    resumed = runner.run(specs, backend=backend)
    (engine,) = backend.engines
    assert engine.read == ids(4)
    assert engine.asked == {"greedy": ids(6), "var": ids(4), "pai": ids(4)}
    assert [outcome.record["efficiency"]["n_answers"] for outcome in resumed] == [6, 8, 8]
    others = [vary(spec, output=str(tmp_path / "other")) for spec in specs]
    whole = runner.run(others, backend=FakeBackend(task, {**answerers, "var": right(task, {7})}))
    assert [outcome.record["metrics"] for outcome in resumed] == [outcome.record["metrics"] for outcome in whole]


def test_a_sample_that_fails_under_one_method_is_retried_there_only(specs, task):
    def broken(request):
        return ValueError("too long") if request.id == "fake/4" else "yes"

    outcomes = runner.run(specs, backend=FakeBackend(task, {"greedy": right(task), "var": broken, "pai": right(task)}))
    assert [outcome.record["status"] for outcome in outcomes] == ["success", "incomplete", "success"]
    assert [outcome.n_failed for outcome in outcomes] == [0, 1, 0]
    assert outcomes[1].first_failure() == "fake/4: too long"

    backend = FakeBackend(task, right(task))
    outcomes = runner.run(specs, backend=backend)
    assert [outcome.reused for outcome in outcomes] == [True, False, True]
    assert backend.engines[0].asked == {"var": ["fake/4"]}
    assert outcomes[1].record["status"] == "success"
    # One retried sample says less about the cost than the twelve before it.
    assert outcomes[1].record["efficiency"].items() >= {"n_answers": 12, "shared_by": 3}.items()


def test_a_method_that_does_not_fit_the_model_stops_all_before_the_first_answer(specs, task, tmp_path):
    class Picky(FakeBackend):
        def engine(self, adapter, methods, *arguments):
            if "var" in {method.name for method in methods.values()}:
                raise UsageError("var needs sink dimensions")
            return super().engine(adapter, methods, *arguments)

    with pytest.raises(UsageError, match="sink dimensions"):
        runner.run(specs, backend=Picky(task, always("yes")))
    assert statuses(tmp_path / "runs") == dict.fromkeys(("greedy", "var", "pai"), "error")
    assert list((tmp_path / "runs").glob("*/samples.jsonl")) == []


def test_questions_that_are_not_prepared_leave_other_runs_as_they_are(specs, task, tmp_path):
    (prepared,) = runner.run([vary(specs[0], stage="prepare", limit=2)], backend=FakeBackend(task, always("unused")))
    before = sorted(path.name for path in (tmp_path / "runs").iterdir())
    with pytest.raises(UsageError, match="no prepared run of tiny × greedy"):
        runner.run([vary(spec, stage="answer") for spec in specs], backend=FakeBackend(task, always("yes")))
    assert record_of(prepared.directory) == prepared.record
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == before


def test_a_score_stands_when_the_next_run_cannot_be_scored(specs, task, tmp_path):
    score, scored = task.score, []

    def failing(answers):
        if scored:
            raise RuntimeError("no dictionary")
        scored.append(score(answers))
        return scored[0]

    task.score = failing
    with pytest.raises(RuntimeError, match="no dictionary"):
        runner.run(specs, backend=FakeBackend(task, right(task)))
    assert statuses(tmp_path / "runs") == {"greedy": "success", "var": "error", "pai": "started"}
    assert record_of(directories(tmp_path / "runs")["pai"])["stage"] == "answer"


def test_runs_under_other_conditions_do_not_join(specs, task):
    greedy, var, _ = specs
    mixed = [vary(greedy, limit=3), greedy, vary(var, limit=3), var, vary(var, model="small")]
    backend = FakeBackend(task, always("yes"))
    outcomes = runner.run(mixed, backend=backend)
    assert [set(engine.asked) for engine in backend.engines] == [{"greedy", "var"}, {"greedy", "var"}, {"var"}]
    assert [len(engine.read) for engine in backend.engines] == [3, 12, 12]
    assert [o.record["spec"] for o in outcomes] == [spec.to_json() for spec in mixed]


def test_without_sharing_every_method_runs_alone(specs, task):
    shared = runner.run(specs, backend=FakeBackend(task, always("yes")))
    backend = FakeBackend(task, always("yes"))
    alone = runner.run([vary(spec, share_prefix=False) for spec in specs], backend=backend, fresh=True)
    assert [dict(engine.asked) for engine in backend.engines] == [{spec.method: ids(0)} for spec in specs]
    assert not any(engine.share_prefix for engine in backend.engines)
    assert [outcome.directory for outcome in alone] == [outcome.directory for outcome in shared]
    assert [outcome.record["efficiency"]["shared_by"] for outcome in alone] == [1, 1, 1]
    assert [outcome.record["spec"]["share_prefix"] for outcome in alone] == [False] * 3


def test_one_method_with_two_parameters_is_two_runs_of_one_pass(specs, task):
    var = specs[1]
    backend = FakeBackend(task, always("yes"))
    outcomes = runner.run([vary(var, params={"var.tau": 5}), vary(var, params={"var.tau": 7})], backend=backend)
    assert [len(lines(outcome.directory)) for outcome in outcomes] == [12, 12]
    assert backend.engines[0].read == ids(0)
    assert len(backend.engines[0].asked["var"]) == 24


def test_a_spec_that_is_given_twice_is_one_run(greedy, task):
    backend = FakeBackend(task, always("yes"))
    first, second = runner.run([greedy, greedy], backend=backend)
    assert first == second
    assert backend.engines[0].asked == {"greedy": ids(0)}


def test_copied_images_are_shared_between_runs_that_were_prepared_one_by_one(specs, task):
    for spec in specs:
        runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("unused")))
    backend = FakeBackend(task, always("yes"))
    runner.run([vary(spec, stage="answer") for spec in specs], backend=backend)
    assert backend.engines[0].read == ids(0)


def test_questions_about_an_image_that_changed_between_the_runs_are_each_asked(specs, task):
    greedy, var, _ = specs
    runner.run([vary(greedy, stage="prepare")], backend=FakeBackend(task, always("unused")))
    (task.folder / "1.png").write_bytes(b"other pixels")
    runner.run([vary(var, stage="prepare")], backend=FakeBackend(task, always("unused")))
    seen = {"greedy": {}, "var": {}}

    def looking(name):
        def answer(request):
            seen[name][request.id] = request.images[0].sha256
            return "yes"

        return answer

    backend = FakeBackend(task, {name: looking(name) for name in seen})
    outcomes = runner.run([vary(spec, stage="answer") for spec in (greedy, var)], backend=backend)
    assert len(backend.engines[0].read) == 15
    assert {id for id in seen["var"] if seen["var"][id] != seen["greedy"][id]} == set(ids(3, 6))
    for outcome in outcomes:
        hashes = {row["id"]: row["image_hash"] for row in lines(outcome.directory)}
        assert hashes == seen[outcome.record["method"]["name"]]


def test_a_reused_run_is_free_while_the_others_are_answered(specs, task, tmp_path):
    (finished,) = runner.run(specs[:1], backend=FakeBackend(task, right(task)))
    free = []

    def try_locks(request):
        for directory in (tmp_path / "runs").iterdir():
            try:
                with RunStore(directory).locked():
                    free.append(directory)
            except UsageError:
                pass
        return "yes"

    runner.run(specs, backend=FakeBackend(task, try_locks))
    assert set(free) == {finished.directory}


class Listener(Reporter):
    def __init__(self):
        self.events = []

    def run(self, title):
        self.events.append(title)

    def note(self, text):
        self.events.append(text.partition(",")[0])

    def answering(self, total, done):
        self.events.append((total, done))

    def answered(self, n, failed):
        self.events.append((n, failed))


def test_progress_is_told_of_all_methods_at_once(specs, task):
    runner.run([vary(specs[0], limit=2)], backend=FakeBackend(task, right(task)))
    listener = Listener()
    runner.run([vary(spec, limit=2) for spec in specs], backend=FakeBackend(task, always("yes")), reporter=listener)
    alone = [f"tiny × {name} × fake" for name in ("greedy", "var", "pai")]
    opening = [alone[0], "finished before", alone[1], alone[2]]
    assert listener.events == [*opening, "tiny × var, pai × fake", "loading tiny", (4, 0), (2, 0), (2, 0)]


N, WINDOW, BATCH = 100_000, 4096, 512
TRACED = 25_000
"""Answers whose allocations are traced, which makes them six times as slow: the last ones."""
MEGABYTE = 2**20


class Steady(FakeEngine):
    """Reads as far ahead as the real engine, and keeps nothing."""

    def sweep(self, requests, wanted):
        rest = iter(requests)
        while window := list(islice(rest, WINDOW)):
            for start in range(0, len(window), BATCH):
                for name in self.answerers:
                    batch = [request for request in window[start : start + BATCH] if wanted(name, request)]
                    yield name, [Response(request.id, "yes") for request in batch]


class SteadyBackend(FakeBackend):
    def engine(self, adapter, methods, *arguments):
        return Steady(dict.fromkeys(methods, always("yes")), {})


class Gauge(Reporter):
    """Counts the requests in memory when the last answers begin, and measures what these allocate, in MiB."""

    left = N

    def answered(self, n, failed):
        if self.left > TRACED >= self.left - n:
            self.requests = sum(isinstance(thing, Request) for thing in gc.get_objects())
            tracemalloc.start()
        self.left -= n

    def finished(self):
        kept, peak = tracemalloc.get_traced_memory()
        # The interpreter's table of interned strings, which pathlib fills, doubles now and then: megabytes at once.
        paths = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, pathlib.__file__)])
        table = max((trace.size for trace in paths.traces), default=0)
        table = table if table > MEGABYTE else 0
        tracemalloc.stop()
        self.kept, self.peak = (kept - table) / MEGABYTE, (peak - table) / MEGABYTE


def test_a_large_task_is_answered_in_constant_memory(greedy, task):
    (run,) = runner.run([vary(greedy, stage="prepare")], backend=FakeBackend(task, always("unused")))
    request = lines(run.directory, "requests.jsonl")[0]
    with open(run.directory / "requests.jsonl", "w") as file:
        for i in range(N):
            message = {"role": "user", "text": f"<image>Is there a dog in image {i}? {500 * 'x'}"}
            file.write(json.dumps({**request, "id": f"fake/{i}", "messages": [message]}) + "\n")
    gauge = Gauge()
    (run,) = runner.run([vary(greedy, stage="answer")], backend=SteadyBackend(task, {}), reporter=gauge)
    assert run.record["efficiency"]["n_answers"] == N
    assert gauge.requests < 3 * WINDOW
    assert gauge.peak < 20
    assert gauge.kept < 1


def test_what_a_run_cost_is_on_disk_once_all_its_answers_are(specs, task, tmp_path):
    on_disk = {}

    def last(request):
        if request.id == "fake/11":  # var has the last batch; greedy's and pai's is still to come, or on disk.
            folders = directories(tmp_path / "runs")
            on_disk.update({name: record_of(folder)["efficiency"] for name, folder in folders.items()})
        return "yes"

    runner.run(specs, backend=FakeBackend(task, {"greedy": right(task), "var": last, "pai": right(task)}))
    assert {name: figures.get("n_answers") for name, figures in on_disk.items()} == {
        "greedy": 12,
        "var": None,
        "pai": None,
    }
