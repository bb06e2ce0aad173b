"""The command line itself: quick, light, complete."""

import os
import subprocess
import sys
import time

import pytest

HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pydantic", "numpy", "PIL", "yaml", "jsonschema", "nltk"}
COMMANDS = "eval sweep score data list calibrate leaderboard report compare regress inspect bench doctor scenes"
OPTIONS = (
    *("--model", "-m", "--method", "-M", "--task", "-t", "--set", "--limit", "-L", "--batch-size", "-b", "--no-share"),
    *("--device", "--dtype", "--seed", "--config", "-c", "--output", "-o", "--data-dir", "--stage", "--fresh"),
)


def test_help_takes_less_than_half_a_second(sinkbench):
    def measure():
        start = time.perf_counter()
        done = sinkbench("--help")
        assert done.returncode == 0
        return time.perf_counter() - start

    assert min(measure() for _ in range(3)) < 0.5


def test_the_command_line_loads_nothing_heavy():
    code = "import sys, sinkbench.cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_is_listed_and_explains_itself(sinkbench, command):
    assert command in sinkbench("--help").stdout
    done = sinkbench(command, "--help")
    assert done.returncode == 0
    assert f"sinkbench {command}" in done.stdout


def test_eval_offers_what_the_readme_promises(sinkbench):
    shown = sinkbench("eval", "--help").stdout
    for option in OPTIONS:
        assert f" {option} " in shown


def test_the_version_is_the_packages(sinkbench):
    from sinkbench import __version__

    assert sinkbench("--version").stdout.startswith(f"sinkbench {__version__} ")


def test_no_colour_codes_reach_a_log(sinkbench):
    for done in (sinkbench("--help"), sinkbench("eval", "-m", "lava", "-t", "scenes_pope", env={"NO_COLOR": "1"})):
        assert "\x1b[" not in done.stdout + done.stderr


@pytest.mark.parametrize(("kind", "name"), [("tasks", "scenes_pope"), ("methods", "var"), ("models", "llava")])
def test_list_shows_the_names(sinkbench, kind, name):
    done = sinkbench("list", kind)
    assert done.returncode == 0
    assert name in done.stdout.split()


def test_doctor_says_what_can_run(sinkbench, tmp_path):
    done = sinkbench("doctor", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "threads" in lines["cpu"]
    assert lines["torch"].split()[1][0].isdigit()
    assert "not here" in lines["pope"]
    assert "llava-hf/llava-1.5-7b-hf" in lines["llava"]


def test_an_unexpected_error_is_one_panel_and_exit_code_one():
    code = (
        "from sinkbench.cli.failure import guarded\n"
        "def broken(): raise RuntimeError('device lost')\n"
        "import sys; sys.exit(guarded(broken))"
    )
    env = {key: value for key, value in os.environ.items() if key != "SINKBENCH_DEBUG"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "RuntimeError: device lost" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**env, "SINKBENCH_DEBUG": "1"}
    )
    assert "Traceback" in done.stderr
