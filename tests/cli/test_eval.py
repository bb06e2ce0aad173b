"""`sinkbench eval` with the real engine on a tiny random model: kill and resume, stages apart, sweeps, boards."""

import json
import os
import signal
import subprocess
import time

import pytest
import yaml
from scenes_folder import write_scenes
from typer.testing import CliRunner

from sinkbench import runner
from sinkbench.cli.app import app
from sinkbench.spec import RunSpec

N = 144


@pytest.fixture(scope="module")
def settings(model, tmp_path_factory):
    """Of every run here: sixteen images, 144 questions, one at a time."""
    data = write_scenes(tmp_path_factory.mktemp("data") / "scenes", N // 9)
    return {
        "model": str(model),
        "task": "scenes_pope",
        "data_dir": str(data),
        "batch_size": 1,
        "generation": {"max_new_tokens": 4},
    }


@pytest.fixture(scope="module")
def whole(sinkbench, settings, tmp_path_factory):
    """An undisturbed run of greedy and pai from a config file with flags on top, and where it lies."""
    output = tmp_path_factory.mktemp("whole")
    config = output / "run.yaml"
    extra = {"method": ["var"], "params": {"pai.gamma": 1.2, "pai.alpha": 0.1}, "seed": 3}
    config.write_text(yaml.safe_dump({**settings, **extra}))
    done = sinkbench("eval", "-c", config, "-o", output, "-M", "greedy,pai", "--set", "pai.gamma=1.5", "--seed", "0")
    assert done.returncode == 0, done.stderr
    return done, output


@pytest.fixture
def command(settings, tmp_path):
    """The greedy run of `whole` on the command line, into another folder."""
    places = ["--data-dir", settings["data_dir"], "-o", str(tmp_path / "runs")]
    return ["eval", "-m", settings["model"], "-t", "scenes_pope", *places, "-b", "1", "--max-new-tokens", "4"]


def record(output, method="greedy"):
    (file,) = output.glob(f"*__{method}__*/run.json")
    return json.loads(file.read_text())


def test_flags_go_on_top_of_the_config_file(whole):
    _, output = whole
    params = record(output, "pai")["method"]["params"]
    assert (params["gamma"], params["alpha"]) == (1.5, 0.1)
    assert record(output)["spec"]["seed"] == 0
    assert record(output)["spec"]["generation"]["max_new_tokens"] == 4


def test_several_methods_run_in_one_process_and_are_shown(whole):
    done, output = whole
    assert record(output)["task"]["n_run"] == N
    assert "tiny-random × pai × scenes_pope" in done.stdout
    assert f"sinkbench leaderboard {output}" in done.stdout
    assert f"tiny-random × greedy, pai × scenes_pope: {2 * N}/{2 * N} answered" in " ".join(done.stderr.split())
    assert record(output)["efficiency"]["shared_by"] == record(output, "pai")["efficiency"]["shared_by"] == 2


def test_the_board_compares_them(sinkbench, whole, tmp_path):
    _, output = whole
    done = sinkbench("leaderboard", output, "--json", tmp_path / "board.json", "--markdown", tmp_path / "board.md")
    assert done.returncode == 0, done.stderr
    board = json.loads((tmp_path / "board.json").read_text())
    deltas = {row["method"]: row["metrics"]["accuracy"]["delta"] for row in board["rows"]}
    assert deltas["greedy"] is None
    assert deltas["pai"]["n_pairs"] == N
    assert "| pai" in (tmp_path / "board.md").read_text()
    assert all(row["cost"]["answers_per_s"] > 0 for row in board["rows"])
    done = sinkbench("leaderboard", output, "--no-cost", "--json", tmp_path / "board.json")
    assert done.returncode == 0, done.stderr
    without = json.loads((tmp_path / "board.json").read_text())
    times = ("answers_per_s", "relative_time")
    assert {row["cost"][name] for row in without["rows"] for name in times} == {None}
    assert all(row["cost"]["visual_tokens_mean"] > 0 for row in without["rows"])
    assert [row["metrics"] for row in without["rows"]] == [row["metrics"] for row in board["rows"]]


def test_runs_that_are_stopped_and_killed_resume_to_identical_metrics(sinkbench, whole, command, tmp_path):
    runs, methods = tmp_path / "runs", ("greedy", "pai")
    command += ["-M", "greedy,pai", "--set", "pai.gamma=1.5", "--set", "pai.alpha=0.1"]
    assert _end([sinkbench.script, *command], runs, 20, signal.SIGTERM) == 130
    assert [record(runs, method)["status"] for method in methods] == ["interrupted"] * 2
    assert _end([sinkbench.script, *command], runs, 80, signal.SIGKILL) == -signal.SIGKILL
    assert [record(runs, method)["status"] for method in methods] == ["started"] * 2
    kept = {file.parent.name.split("__")[1]: file.read_bytes().count(b"\n") for file in runs.glob("*/samples.jsonl")}
    assert 80 <= sum(kept.values()) < 2 * N
    assert abs(kept["greedy"] - kept["pai"]) <= 1

    done = sinkbench(*command)
    assert done.returncode == 0, done.stderr
    for method in methods:
        resumed, undisturbed = record(runs, method), record(whole[1], method)
        assert resumed["efficiency"]["n_answers"] == N - kept[method]
        assert resumed["metrics"] == undisturbed["metrics"]
        assert resumed["run_id"] == undisturbed["run_id"]


def _end(command, output, n, number):
    """Start a run, send it a signal when `n` samples are on disk; its exit code."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if sum(file.read_bytes().count(b"\n") for file in output.glob("*/samples.jsonl")) >= n:
            process.send_signal(number)
            return process.wait()
        time.sleep(0.002)
    process.kill()
    pytest.fail("the run did not get as far as it should before it was ended")


def test_the_answer_stage_needs_neither_lm_eval_nor_datasets(sinkbench, whole, settings, command, tmp_path):
    spec = RunSpec(**settings, output=tmp_path / "runs", stage="prepare")
    runner.run([spec])
    for name in ("lm_eval", "datasets", "pycocotools", "nltk", "simplemma"):
        absent = tmp_path / "absent" / f"{name}.py"
        absent.parent.mkdir(exist_ok=True)
        absent.write_text(f"raise ImportError('{name} is not here')\n")
    done = sinkbench(*command, "--stage", "answer", env={"PYTHONPATH": str(tmp_path / "absent")})
    assert done.returncode == 0, done.stderr
    assert record(tmp_path / "runs")["stage"] == "answer"
    runner.run([spec.model_copy(update={"stage": "score"})])
    assert record(tmp_path / "runs")["metrics"] == record(whole[1])["metrics"]


@pytest.mark.parametrize(("task", "limit"), [("scenes_pope", 18), ("scenes_chair", 3)])
def test_methods_answer_together_as_they_do_alone(tmp_path, task, limit):
    def texts(folder, together, **settings):
        settings |= {"model": "tiny-llava", "task": task, "limit": limit, "output": tmp_path / folder}
        specs = [RunSpec(method=method, **settings) for method in ("greedy", "pai", "var")]
        outcomes = runner.run(specs) if together else [runner.run([spec])[0] for spec in specs]
        files = (outcome.directory / "samples.jsonl" for outcome in outcomes)
        return [[json.loads(line)["text"] for line in file.read_text().splitlines()] for file in files]

    answers = texts("together", together=True)
    assert [len(of_method) for of_method in answers] == [limit] * 3
    assert texts("apart", together=False) == answers
    assert texts("unshared", together=True, share_prefix=False) == answers


def test_no_share_reaches_the_runs(monkeypatch):
    specs = []
    monkeypatch.setattr("sinkbench.runner.run", lambda given, **_: specs.extend(given) or [])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for flags in ([], ["--no-share"]):
        done = CliRunner().invoke(app, ["eval", "-m", "tiny-llava", "-t", "scenes_pope", *flags])
        assert done.exit_code == 0, done.output
    assert [spec.share_prefix for spec in specs] == [True, False]
