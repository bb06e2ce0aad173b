"""`sinkbench bench` as a user sees it."""

import json

import pytest

from sinkbench.cli.bench import bench
from sinkbench.errors import IncompleteError


@pytest.fixture(scope="module")
def measured(sinkbench, tmp_path_factory):
    """A quick run."""
    output = tmp_path_factory.mktemp("bench") / "results" / "tiny.json"
    done = sinkbench("bench", "--model", "tiny", "--method", "var", "-w", "pope,caption", "--quick", "-o", output)
    assert done.returncode == 0, done.stderr
    return done, output


def test_a_quick_run_is_recorded(measured):
    done, output = measured
    record = json.loads(output.read_text())
    assert record["status"] == "finished"
    assert record["command"].startswith("sinkbench bench --model tiny --method var")
    assert record["model"] == record["model"] | {"name": "tiny", "weights": "random", "dtype": "float32"}
    assert {"torch", "transformers"} <= record["env"]["packages"].keys()
    assert [row["method"] for row in record["rows"]] == ["greedy", "var"] * 3
    assert "transformers sdpa" in done.stdout
    assert "pope, batch 12, var: " in done.stderr


def test_show_prints_what_was_written(sinkbench, measured):
    done, output = measured
    shown = sinkbench("bench", "--show", output)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == done.stdout.partition("written:")[0].strip()
    markdown = sinkbench("bench", "--show", output, output, "--markdown").stdout
    assert markdown.count("### Speed: tiny, random weights, float32, cpu") == 2
    assert "| pope | greedy | 12 |" in markdown


def test_a_measurement_that_broke_makes_the_command_fail(measured, monkeypatch):
    record = json.loads(measured[1].read_text())
    record["rows"][1] |= {"error": "RuntimeError: lost", "broken": True}
    monkeypatch.setattr("sinkbench.bench.suite.run", lambda *_: record)
    with pytest.raises(IncompleteError, match="1 measurements failed; for example var: RuntimeError: lost"):
        bench(model="tiny")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no model is given", "llava-1.5-7b"]),
        (["-m", "llava-1.5-7"], ["'llava-1.5-7'", "llava-1.5-7b"]),
        (["-m", "tiny", "-M", "vra"], ["unknown method 'vra'", "var"]),
        (["-m", "tiny", "-w", "pop"], ["unknown workload 'pop'", "pope"]),
        (["-m", "tiny", "-b", "many"], ["--batch-size 'many'"]),
        (["-m", "tiny", "--caption-batch-size", "8,x"], ["--caption-batch-size '8,x'"]),
        (["-m", "tiny", "--image-size", "672"], ["--image-size '672'", "672x672"]),
        (["-m", "tiny", "--weights", "real"], ["'tiny'"]),
        (["-m", "tiny", "--flips", "3"], ["--flips", "--weights real"]),
        (["--show"], ["--show", "results/bench"]),
        (["--show", "absent.json"], ["absent.json"]),
    ],
)
def test_errors_say_what_to_type(sinkbench, arguments, words):
    done = sinkbench("bench", *arguments)
    message = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in message
