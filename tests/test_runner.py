import shutil
from pathlib import Path

import pytest
from fakes import FakeBackend, FakeTask, always, lines, record_of, right, stopping, vary, write_images

from sinkbench import runner
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.reporter import Reporter
from sinkbench.schemas import validate
from sinkbench.spec import RunSpec


@pytest.fixture
def task(tmp_path):
    write_images(tmp_path / "data", 4)
    return FakeTask(tmp_path / "data")


@pytest.fixture
def spec(tmp_path):
    return RunSpec(model="tiny", task="fake", output=tmp_path / "runs")


def requests(directory):
    return lines(directory, "requests.jsonl")


def test_a_run_leaves_requests_samples_and_a_record(spec, task):
    (outcome,) = runner.run([spec], backend=FakeBackend(task, right(task, wrong={3})))
    assert outcome.directory.name == f"tiny__greedy__fake__{outcome.record['run_id'][:8]}"
    assert record_of(outcome.directory) == outcome.record
    validate(outcome.record, "run")
    assert outcome.record["status"] == "success"
    assert outcome.record["task"]["n_run"] == 12
    assert outcome.record["metrics"]["random/accuracy"]["value"] == 0.75
    assert outcome.record["efficiency"]["n_answers"] == 12
    rows = lines(outcome.directory)
    for row in rows:
        validate(row, "sample")
    assert [row["id"] for row in rows] == [f"fake/{i}" for i in range(12)]
    assert [row["score"] for row in rows] == [float(i != 3) for i in range(12)]


def test_a_finished_run_is_reused_without_a_model(spec, task):
    (first,) = runner.run([spec], backend=FakeBackend(task, always("yes")))
    backend = FakeBackend(task, always("no"))
    (again,) = runner.run([spec], backend=backend)
    assert again.reused
    assert again.record == first.record
    assert backend.engines == []


def test_fresh_forgets_a_finished_run(spec, task):
    runner.run([spec], backend=FakeBackend(task, always("yes")))
    (outcome,) = runner.run([spec], backend=FakeBackend(task, always("no")), fresh=True)
    assert {row["text"] for row in lines(outcome.directory)} == {"no"}


def test_failed_samples_are_counted_kept_apart_and_retried(spec, task):
    def broken(request):
        return ValueError("image is broken") if request.id == "fake/4" else right(task)(request)

    (outcome,) = runner.run([spec], backend=FakeBackend(task, broken))
    assert outcome.record["status"] == "incomplete"
    assert outcome.n_failed == 1
    assert outcome.first_failure() == "fake/4: image is broken"
    assert outcome.record["metrics"]["random/accuracy"] == {
        "value": 1.0,
        "stderr": None,
        "ci95": None,
        "n": 4,
        "direction": "higher",
    }
    failed = next(row for row in lines(outcome.directory) if row["id"] == "fake/4")
    assert (failed["text"], failed["score"], failed["error"]) == (None, None, "image is broken")

    backend = FakeBackend(task, right(task))
    (mended,) = runner.run([spec], backend=backend)
    assert backend.engines[0].asked == {"greedy": ["fake/4"]}
    assert (mended.record["status"], mended.n_failed) == ("success", 0)
    assert len(lines(mended.directory)) == 12


def test_an_interrupted_run_goes_on_where_it_stopped(spec, task, tmp_path):
    backend = FakeBackend(task, stopping(right(task, {2, 7}), 5, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        runner.run([spec], backend=backend)
    (directory,) = (tmp_path / "runs").iterdir()
    assert record_of(directory)["status"] == "interrupted"
    assert [row["id"] for row in lines(directory)] == ["fake/0", "fake/1", "fake/2", "fake/3"]

    backend = FakeBackend(task, right(task, {2, 7}))
    (resumed,) = runner.run([spec], backend=backend)
    assert backend.engines[0].asked == {"greedy": [f"fake/{i}" for i in range(4, 12)]}
    (whole,) = runner.run([vary(spec, output=str(tmp_path / "other"))], backend=FakeBackend(task, right(task, {2, 7})))
    assert resumed.record["metrics"] == whole.record["metrics"]
    assert resumed.record["run_id"] == whole.record["run_id"]


def test_metrics_of_fewer_samples_do_not_outlive_a_retry(spec, task):
    def broken(request):
        return ValueError("broken") if request.id in ("fake/4", "fake/9") else "yes"

    (outcome,) = runner.run([spec], backend=FakeBackend(task, broken))
    with pytest.raises(KeyboardInterrupt):
        runner.run([spec], backend=FakeBackend(task, stopping(always("yes"), 1, KeyboardInterrupt())))
    assert outcome.record["metrics"]
    assert record_of(outcome.directory)["metrics"] == {}


def test_an_unexpected_error_is_recorded_and_passed_on(spec, task, tmp_path):
    with pytest.raises(RuntimeError, match="device lost"):
        runner.run([spec], backend=FakeBackend(task, stopping(always("yes"), 3, RuntimeError("device lost"))))
    (directory,) = (tmp_path / "runs").iterdir()
    written = record_of(directory)
    assert written["status"] == "error"
    assert (written["error"]["type"], written["error"]["message"]) == ("RuntimeError", "device lost")
    assert "raise error" in written["error"]["traceback"]
    assert len(lines(directory)) == 2


def test_an_engine_that_loses_a_request_is_a_bug_not_a_wrong_answer(spec, task):
    class Forgetful(FakeBackend):
        def engine(self, *arguments):
            engine = super().engine(*arguments)
            whole = engine.sweep
            engine.sweep = lambda requests, wanted: whole(list(requests)[1:], wanted)
            return engine

    with pytest.raises(SinkbenchError, match="1 requests without response, for example fake/0"):
        runner.run([spec], backend=Forgetful(task, always("yes")))


def test_a_wrong_name_in_the_last_run_costs_nothing(spec, task, tmp_path):
    backend = FakeBackend(task, always("yes"))
    with pytest.raises(UsageError, match="unknown method 'vra'"):
        runner.run([spec, vary(spec, method="vra")], backend=backend)
    assert set(backend.calls) == {"names"}
    assert not (tmp_path / "runs").exists()


def test_the_record_says_how_a_method_of_its_own_settings_answered(spec, task):
    sampled = vary(spec, method="sample", params={"sample.temperature": 0.5})
    plain, drawn = runner.run([spec, sampled], backend=FakeBackend(task, always("yes")))
    validate(drawn.record, "run")
    assert "generation" not in plain.record["method"]
    assert drawn.record["method"]["generation"] == {"do_sample": True, "temperature": 0.5}


def test_a_run_cannot_ask_for_what_its_method_decides(spec, task):
    for asked in ({"temperature": 0.7}, {"do_sample": False}):
        backend = FakeBackend(task, always("yes"))
        with pytest.raises(UsageError, match=f"sample answers with {next(iter(asked))}") as caught:
            runner.run([vary(spec, method="sample", generation=asked)], backend=backend)
        assert "Leave" in caught.value.hint
        assert not backend.engines
    runner.run(
        [vary(spec, method="sample", generation={"do_sample": True, "max_new_tokens": 3})],
        backend=FakeBackend(task, always("yes")),
    )


def test_cheap_checks_come_first(spec, task):
    backend = FakeBackend(task, always("yes"))
    runner.run([spec], backend=backend)
    assert backend.calls == ["names", "data", "model", "method", "task", "adapter tiny"]


def test_an_output_that_cannot_be_written_stops_before_the_model(spec, task, tmp_path):
    (tmp_path / "file").write_text("")
    backend = FakeBackend(task, always("yes"))
    with pytest.raises(UsageError, match="cannot be written"):
        runner.run([vary(spec, output=str(tmp_path / "file" / "runs"))], backend=backend)
    assert "model" not in backend.calls


def test_runs_of_one_model_share_its_weights(spec, task):
    backend = FakeBackend(task, always("yes"))
    runner.run([spec, vary(spec, method="var"), vary(spec, model="small")], backend=backend)
    assert [call for call in backend.calls if call.startswith("adapter")] == ["adapter tiny", "adapter small"]


def test_parameters_and_limits_make_runs_of_their_own(spec, task):
    specs = [
        vary(spec, method="var"),
        vary(spec, method="var", params={"var.tau": 5}),
        vary(spec, method="var", limit=3),
    ]
    outcomes = runner.run(specs, backend=FakeBackend(task, always("yes")))
    assert len({outcome.directory for outcome in outcomes}) == 3
    assert [outcome.record["method"]["params"]["tau"] for outcome in outcomes] == [20.0, 5, 20.0]
    assert [outcome.record["task"]["n_run"] for outcome in outcomes] == [12, 12, 3]


def test_overrides_reach_the_requests(spec, task):
    (outcome,) = runner.run([vary(spec, generation={"max_new_tokens": 2})], backend=FakeBackend(task, always("yes")))
    assert {request["generation"]["max_new_tokens"] for request in requests(outcome.directory)} == {2}


def test_answers_about_a_replaced_image_are_asked_again(spec, task):
    runner.run([spec], backend=FakeBackend(task, always("yes")))
    (task.folder / "1.png").write_bytes(b"other pixels")
    backend = FakeBackend(task, always("no"))
    (outcome,) = runner.run([spec], backend=backend)
    assert backend.engines[0].asked == {"greedy": ["fake/3", "fake/4", "fake/5"]}
    assert [row["text"] for row in lines(outcome.directory)] == ["yes"] * 3 + ["no"] * 3 + ["yes"] * 6


def test_a_run_does_not_mix_types_of_weights(spec, task):
    with pytest.raises(KeyboardInterrupt):
        runner.run([spec], backend=FakeBackend(task, stopping(always("yes"), 5, KeyboardInterrupt())))
    with pytest.raises(UsageError, match="begun in float32") as caught:
        runner.run([spec], backend=FakeBackend(task, always("yes"), dtype="bfloat16"))
    assert "--fresh" in caught.value.hint


class WithoutTasks(FakeBackend):
    """A machine that has the GPU and not lm-eval."""

    def check_data(self, spec):
        raise AssertionError("the answer stage must not look at the task's data")

    def task(self, spec):
        raise AssertionError("the answer stage must not load the task")


def test_stages_can_be_done_on_different_machines(spec, task, tmp_path):
    (prepared,) = runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("unused")))
    assert prepared.record["stage"] == "prepare"
    away = tmp_path / "elsewhere" / "runs"
    shutil.move(tmp_path / "runs", away)
    shutil.move(task.folder, tmp_path / "gone")

    backend = WithoutTasks(task, right(task, {1}))
    (answered,) = runner.run([vary(spec, stage="answer", output=str(away))], backend=backend)
    assert (answered.record["stage"], answered.record["status"]) == ("answer", "started")
    assert answered.record["metrics"] == {}
    images = [request["images"][0]["path"] for request in requests(answered.directory)]
    assert all((answered.directory / image).is_file() and not Path(image).is_absolute() for image in images)

    shutil.move(tmp_path / "gone", task.folder)
    (scored,) = runner.run([vary(spec, stage="score", output=str(away))], backend=FakeBackend(task, always("unused")))
    (whole,) = runner.run([spec], backend=FakeBackend(task, right(task, {1})))
    assert scored.record["status"] == "success"
    assert scored.record["metrics"] == whole.record["metrics"]
    assert scored.record["run_id"] == whole.record["run_id"]


def test_copied_images_are_named_by_content_and_there_once(spec, task, tmp_path):
    (task.folder / "3.png").write_bytes((task.folder / "0.png").read_bytes())
    runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("unused")))
    runner.run([vary(spec, stage="prepare", method="var")], backend=FakeBackend(task, always("unused")))
    copies = list((tmp_path / "runs" / "images").iterdir())
    assert len(copies) == 3
    assert all(len(copy.stem) == 64 for copy in copies)


def test_answering_needs_a_prepared_run(spec, task):
    with pytest.raises(UsageError, match="no prepared run") as caught:
        runner.run([vary(spec, stage="answer")], backend=FakeBackend(task, always("yes")))
    assert "--stage prepare" in caught.value.hint


def test_questions_that_one_run_prepared_serve_all_methods(spec, task):
    runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("unused")))
    others = [vary(spec, method=name, stage="answer") for name in ("var", "pai")]
    for outcome in runner.run(others, backend=WithoutTasks(task, right(task, {1}))):
        assert outcome.record["stage"] == "answer"
        assert len(lines(outcome.directory)) == len(requests(outcome.directory)) == 12
        assert requests(outcome.directory)[0]["images"][0]["path"].startswith("..")
    (scored,) = runner.run([vary(spec, method="var", stage="score")], backend=FakeBackend(task, always("unused")))
    (whole,) = runner.run(
        [vary(spec, method="var", output=f"{spec.output}-2")], backend=FakeBackend(task, right(task, {1}))
    )
    assert scored.record["metrics"] == whole.record["metrics"]
    assert scored.record["run_id"] == whole.record["run_id"]
    with pytest.raises(UsageError, match="no prepared run"):
        runner.run([vary(spec, method="var", limit=3, stage="answer")], backend=FakeBackend(task, always("yes")))


def test_scoring_needs_answers(spec, task):
    runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("yes")))
    with pytest.raises(UsageError, match="12 of 12 samples have not been asked"):
        runner.run([vary(spec, stage="score")], backend=FakeBackend(task, always("yes")))


def test_answering_finds_the_run_with_its_own_parameters(spec, task):
    for tau in (5, 7):
        prepared = vary(spec, method="var", params={"var.tau": tau}, stage="prepare")
        runner.run([prepared], backend=FakeBackend(task, always("unused")))
    wanted = vary(spec, method="var", params={"var.tau": 7}, stage="answer")
    (outcome,) = runner.run([wanted], backend=WithoutTasks(task, always("yes")))
    assert outcome.record["method"]["params"]["tau"] == 7


def test_a_missing_image_fails_its_samples_only(spec, task):
    (task.folder / "2.png").unlink()

    def looks(request):
        return "yes" if Path(request.images[0].path).is_file() else ValueError("no such file")

    (outcome,) = runner.run([spec], backend=FakeBackend(task, looks))
    assert outcome.record["status"] == "incomplete"
    assert [row["id"] for row in lines(outcome.directory) if row["error"]] == ["fake/6", "fake/7", "fake/8"]


class Recorder(Reporter):
    def __init__(self):
        self.events = []

    def run(self, title):
        self.events.append(("run", title))

    def note(self, text):
        self.events.append(("note", text))

    def answering(self, total, done):
        self.events.append(("answering", total, done))

    def answered(self, n, failed):
        self.events.append(("answered", n, failed))

    def finished(self):
        self.events.append(("finished",))


def test_progress_is_reported(spec, task):
    with pytest.raises(KeyboardInterrupt):
        runner.run([spec], backend=FakeBackend(task, stopping(always("yes"), 9, KeyboardInterrupt())))
    reporter = Recorder()

    def one_broken(request):
        return ValueError("broken") if request.id == "fake/11" else "yes"

    runner.run([spec], backend=FakeBackend(task, one_broken), reporter=reporter)
    assert reporter.events == [
        ("run", "tiny × greedy × fake"),
        ("run", "tiny × greedy × fake"),
        ("note", "loading tiny"),
        ("answering", 12, 8),
        ("answered", 2, 0),
        ("answered", 2, 1),
        ("finished",),
    ]
