"""What a user sees for bad input: the thing named, the next step, no traceback, the right exit code."""

import json

import pytest
from scenes_folder import read_rows, truncate, write_rows

UNEXPECTED, USAGE, INCOMPLETE = 1, 2, 3


def fails(done, code, *words):
    """Check a failed command's exit code and one-screen message, whose lines may be broken anywhere."""
    message = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) < 24
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate"], ["evaluate", "eval"]),
        (["eval", "--modle", "tiny"], ["--modle", "--model"]),
        (["eval", "-t", "scenes_pope"], ["no model is given", "--model"]),
        (["eval", "-m", "llava"], ["no task is given", "sinkbench list tasks"]),
        (["eval", "-m", "llava", "-t", "scenes_poop"], ["unknown task 'scenes_poop'", "scenes_pope"]),
        (["eval", "-m", "lava", "-t", "scenes_pope"], ["unknown model 'lava'", "llava"]),
        (["eval", "-m", "llava", "-t", "scenes_pope", "-M", "gitf"], ["unknown method 'gitf'", "Did you mean gift"]),
        (["eval", "-m", "llava", "-t", "scenes_pope", "--set", "tau"], ["--set 'tau'", "METHOD.PARAM=VALUE"]),
        (["eval", "-m", "llava", "-t", "scenes_pope", "--set", "var.tau=5"], ["'var.tau'", "greedy"]),
        (["eval", "-m", "llava", "-t", "scenes_pope", "-b", "many"], ["batch_size", "many"]),
        (["eval", "-m", "llava", "-t", "scenes_pope", "-L", "0"], ["--limit", "1"]),
        (["eval", "-c", "absent.yaml"], ["absent.yaml", "--config"]),
        (["leaderboard", "absent"], ["absent", "does not exist"]),
    ],
    ids=lambda value: "-".join(value[:7]).replace("/", "_") if "eval" in value[:1] else None,
)
def test_usage_errors_name_the_thing_and_the_next_step(sinkbench, arguments, words):
    fails(sinkbench(*arguments), USAGE, *words)


def test_an_unknown_parameter_is_refused(sinkbench, model, scenes):
    done = sinkbench("eval", "-m", model, "-M", "var", "-t", "scenes_pope", "--data-dir", scenes, "--set", "var.tua=5")
    fails(done, USAGE, "unknown parameter 'var.tua'", "var.tau")


def test_a_parameter_of_the_wrong_type_is_refused(sinkbench, model, scenes):
    done = sinkbench("eval", "-m", model, "-M", "var", "-t", "scenes_pope", "--data-dir", scenes, "--set", "var.tau=x")
    fails(done, USAGE, "var.tau", "'x'", "float")


def test_a_missing_column_is_named(sinkbench, model, scenes):
    rows = read_rows(scenes / "pope.jsonl")
    del rows[4]["answer"]
    write_rows(scenes / "pope.jsonl", rows)
    done = sinkbench("eval", "-m", model, "-t", "scenes_pope", "--data-dir", scenes)
    fails(done, USAGE, "line 5", "'answer' is missing")


def test_an_output_that_cannot_be_written_is_named(sinkbench, model, scenes, tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "runs"
    done = sinkbench("eval", "-m", model, "-t", "scenes_pope", "--data-dir", scenes, "-o", output)
    fails(done, USAGE, "cannot be written", "--output")


def test_a_hub_out_of_reach_says_how_to_go_on(sinkbench, tmp_path):
    empty = {"HF_HOME": str(tmp_path / "cache")}
    done = sinkbench("eval", "-m", "llava", "-t", "scenes_pope", "--data-dir", _any(tmp_path), env=empty)
    fails(done, USAGE, "llava-hf/llava-1.5-7b-hf", "HF_HUB_OFFLINE", "--model DIR")
    done = sinkbench("eval", "-m", "llava", "-t", "pope", env=empty)
    fails(done, USAGE, "lmms-lab/POPE", "--data-dir")


def _any(tmp_path):
    from scenes_folder import write_scenes

    return write_scenes(tmp_path / "data", 1)


def test_a_truncated_image_fails_its_samples_and_no_others(sinkbench, model, scenes, tmp_path):
    truncate(scenes / "images" / "000002.jpg")
    done = sinkbench("eval", "-m", model, "-t", "scenes_pope", "--data-dir", scenes, "-o", tmp_path / "runs")
    fails(done, INCOMPLETE, "9 samples failed", "000002.jpg", "run the same command again")
    (directory,) = (tmp_path / "runs").iterdir()
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "incomplete"
    assert record["task"]["n_failed"] == 9
    assert record["metrics"]["accuracy"]["n"] == 27
    rows = read_rows(directory / "samples.jsonl")
    assert sum(row["text"] is not None for row in rows) == 27
    assert "accuracy" in done.stdout
