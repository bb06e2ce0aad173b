"""`sinkbench sweep` as a user meets it, and its table."""

import json
from io import StringIO

import pytest
from rich.console import Console

from sinkbench.cli.sweep_table import SweepTable
from sinkbench.spec import RunSpec
from sinkbench.sweep.run import Cell


@pytest.fixture
def config(tmp_path, model, scenes):
    """A random LLaVA, of which nobody knows sink dimensions."""
    settings = {
        "model": str(model),
        "method": ["greedy", "var", "image_scale"],
        "task": "scenes_pope",
        "grid": {"image_scale.factor": [1.1, 1.5]},
        "data_dir": str(scenes),
        "device": "cpu",
        "output": str(tmp_path / "runs"),
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(settings))
    return file


def said(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_a_cell_that_fails_is_told_with_its_reason_and_the_others_are_done(here, config, tmp_path):
    done = here("sweep", config)
    assert done.returncode == 3
    assert "4 cells: 3 done, 1 failed." in said(done)
    assert "× var × scenes_pope: " in said(done)
    assert "sink" in said(done).partition("failed: ")[2]
    assert "1 of the cells failed" in said(done)
    assert f"Next: sinkbench leaderboard {tmp_path / 'runs'}" in said(done)
    again = here("sweep", config)
    assert again.returncode == 3
    assert "4 cells: 3 reused, 1 failed." in said(again)
    good = here("sweep", config, "-M", "greedy,image_scale")
    assert good.returncode == 0, "the grid of a method that is left out is left out too"
    assert "3 cells: 3 reused." in said(good)
    board = here("leaderboard", tmp_path / "runs")
    assert "image_scale (factor=1.5)" in said(board)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--executor", "rai"], ("unknown executor 'rai'", "Did you mean ray?")),
        (["--workers", "2"], ("--workers are for Ray", "Add --executor ray.")),
        (["-M", "vra,image_scale"], ("unknown method 'vra'", "var")),
        (["--set", "gift.gamma=2"], ("belongs to no method",)),
    ],
)
def test_mistakes_say_what_to_type(here, config, tmp_path, arguments, words):
    done = here("sweep", config, *arguments)
    assert done.returncode == 2
    for word in words:
        assert word in said(done)
    assert not list(tmp_path.glob("runs/*__*"))


def test_a_missing_or_malformed_file_is_named(here, tmp_path):
    done = here("sweep", tmp_path / "absent.yaml")
    assert done.returncode == 2
    assert "absent.yaml cannot be read" in said(done)
    (tmp_path / "bad.yaml").write_text("{model: tiny-llava, task: scenes_pope, grid: {var.tau: 3}}")
    done = here("sweep", tmp_path / "bad.yaml")
    assert done.returncode == 2
    assert "grid: var.tau holds 3, not a list of values" in said(done)


def test_the_table_tells_what_runs_what_is_done_and_what_failed():
    specs = [RunSpec(model=model, task="pope", method=method) for model in "ab" for method in ("greedy", "var")]
    console = Console(file=StringIO(), width=100)
    table = SweepTable(console)
    table.planned([specs[:2], specs[2:]])
    first = table.group(specs[:2])
    first.answering(20, 0)
    first.answered(10, 1)
    table.finished(Cell(specs[0], "done"))
    assert table.summary().startswith("1/4 cells done, 1 running, 0 failed; ")
    assert " left" in table.summary()
    table.finished(Cell(specs[1], "failed", error="no sink dimensions"))
    assert table.summary().startswith("2/4 cells done, 0 running, 1 failed; ")
    shown = Console(file=StringIO(), width=100, record=True)
    shown.print(table.table())
    rows = [line.split() for line in shown.export_text().splitlines() if line.strip()]
    assert ["b", "pope", "0/2"] in rows
    assert any(row[:5] == ["a", "pope", "2/2", "10/20", "2"] for row in rows)
    assert "failed: a × var × pope: no sink dimensions" in console.file.getvalue()
