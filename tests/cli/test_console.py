"""What is printed while a run goes on and when it is done."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sinkbench.cli import progress
from sinkbench.cli.tables import show_outcomes
from sinkbench.runner import Outcome


@pytest.fixture
def log(monkeypatch):
    """A console that is no terminal."""
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    return Console(file=StringIO(), width=100)


def work(console):
    with progress.ConsoleReporter(console) as reporter:
        reporter.run("tiny × var × pope")
        reporter.answering(10, 4)
        reporter.answered(3, 1)
        reporter.answered(3, 0)
        reporter.finished()
    return console.file.getvalue()


def test_a_log_gets_lines_with_what_is_done_and_left(log):
    first, last, *_ = work(log).splitlines()
    assert first.startswith("tiny × var × pope: 7/10 answered, ")
    assert first.endswith("s left, 1 failed")
    assert "/s" in first
    assert last.startswith("tiny × var × pope: 10/10 answered, ")
    assert "left" not in last


def test_a_log_is_not_flooded(log, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 60.0)
    assert len(work(log).splitlines()) == 1


def test_a_terminal_gets_a_bar():
    shown = work(Console(file=StringIO(), force_terminal=True, width=100))
    assert "10/10" in shown
    assert "1 failed" in shown


def metric(value, n=10, direction="higher", ci95=None):
    return {"value": value, "stderr": None, "ci95": ci95, "n": n, "direction": direction}


def outcome(method="var", stage="score", limit=None, **changes):
    record = {
        "status": "success",
        "stage": stage,
        "spec": {"model": "tiny", "method": method, "task": "pope", "limit": limit},
        "model": {"name": "tiny"},
        "method": {"name": method},
        "task": {"name": "pope", "headline": "accuracy", "n_run": 10, "n_failed": 0},
        "metrics": {
            "accuracy": metric(0.75, ci95=[0.5, 1.0]),
            "adversarial/accuracy": metric(0.625, 5),
            "chair_i": metric(0.125, direction="lower"),
            "n_unparsed": metric(12.0, direction="lower"),
        },
        "efficiency": {"answers_per_s": 12.34},
        "env": {"git": {"commit": None, "dirty": True}},
        **changes,
    }
    return Outcome(Path("runs") / "tiny__var__pope__00000000", record)


def shown(*outcomes):
    console = Console(file=StringIO(), width=120)
    show_outcomes(outcomes, console)
    return console.file.getvalue()


def cells(text, metric):
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [metric])


def test_a_result_shows_values_intervals_and_splits():
    text = shown(outcome())
    assert cells(text, "accuracy") == ["accuracy", "↑", "0.750", "[0.500,", "1.000]", "10", "0.625"]
    assert cells(text, "chair_i")[:3] == ["chair_i", "↓", "0.125"]
    assert cells(text, "n_unparsed")[2] == "12"
    assert "success, 10 of 10 answered, 12.3 answers/s, dirty source tree." in text
    assert "runs/tiny__var__pope__00000000" in text


@pytest.mark.parametrize(
    ("outcomes", "command"),
    [
        ([outcome("greedy", limit=5)], "sinkbench eval -m tiny -M var -t pope -L 5 -o runs"),
        ([outcome("var")], "sinkbench eval -m tiny -M greedy -t pope -o runs"),
        ([outcome("greedy"), outcome("var")], "sinkbench leaderboard runs"),
        ([outcome(stage="prepare", metrics={})], "--stage answer"),
        ([outcome(stage="answer", metrics={})], "--stage score"),
    ],
)
def test_the_next_command_is_named(outcomes, command):
    assert command in shown(*outcomes)
