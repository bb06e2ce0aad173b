"""`sinkbench.evaluate`: runs as objects, and boards over exactly these runs."""

import json
import subprocess
import sys
from importlib.resources import files

import pytest
from fakes import FakeBackend, FakeTask, right, write_images

import sinkbench
from sinkbench import runner
from sinkbench.errors import IncompleteError, UsageError
from sinkbench.schemas import validate


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """`evaluate` with a backend of twelve yes/no questions; by default the third answer is wrong."""
    write_images(tmp_path / "data", 4)
    task = FakeTask(tmp_path / "data")

    def evaluate(method="greedy", answer=None, **settings):
        backend = FakeBackend(task, answer or right(task, wrong={3}))
        monkeypatch.setattr(runner, "LocalBackend", lambda: backend)
        return sinkbench.evaluate("tiny", method, "fake", output=tmp_path / "runs", **settings)

    return evaluate


def test_a_run_as_an_object(ask, tmp_path):
    (run,) = ask()
    assert (run.model, run.method, run.task, run.n_failed, run.reused) == ("tiny", "greedy", "fake", 0, False)
    assert run.directory.parent == tmp_path / "runs"
    assert run.record == json.loads((run.directory / "run.json").read_text())
    assert run.headline is run.metrics["random/accuracy"]
    # Four questions are of the random split; number 3 is one of them.
    assert (run.headline.value, run.headline.n, run.headline.direction) == (0.75, 4, "higher")
    rows = list(run.samples())
    assert [row["id"] for row in rows] == [f"fake/{number}" for number in range(12)]
    assert [row["score"] for row in rows] == [float(number != 3) for number in range(12)]


def test_several_methods_are_a_sequence_in_order(ask):
    runs = ask(["greedy", "var", "pai"])
    assert [run.method for run in runs] == ["greedy", "var", "pai"]
    assert len(runs) == 3
    assert runs[-1].method == "pai"
    assert [run.method for run in runs[1:]] == ["var", "pai"]


def test_the_board_is_of_exactly_these_runs(ask):
    ask(["greedy", "var"])
    runs = ask(["greedy", "pai"])
    board = runs.board()
    validate(board, "board")
    assert [row["method"] for row in board["rows"]] == ["greedy", "pai"]
    assert board["rows"][1]["path"] == runs[1].directory.name
    delta = board["rows"][1]["metrics"]["random/accuracy"]["delta"]
    assert (delta["value"], delta["n_pairs"]) == (0.0, 4)
    assert delta["p"] == delta["p_holm"], "one comparison, nothing to adjust for"
    with pytest.raises(UsageError, match="unknown baseline 'greedy'"):
        runs[1:].board()


def test_another_baseline(ask):
    board = ask(["greedy", "pai"], baseline="pai").board()
    assert board["baseline"] == "pai"
    assert [row["method"] for row in board["rows"]] == ["pai", "greedy"]


def test_the_same_call_again_reuses(ask):
    (first,) = ask()
    (again,) = ask(answer=lambda _: "never asked")
    assert again.reused
    assert again.directory == first.directory
    (fresh,) = ask(answer=lambda _: "yes", fresh=True)
    assert {row["text"] for row in fresh.samples()} == {"yes"}


def test_samples_without_an_answer_are_an_error_unless_they_may_be(ask):
    def broken(request):
        return ValueError("image is broken") if request.id == "fake/4" else "yes"

    with pytest.raises(IncompleteError, match="1 samples failed; for example fake/4: image is broken"):
        ask(answer=broken)
    (run,) = ask(answer=broken, strict=False)
    assert run.n_failed == 1
    assert [row["error"] for row in run.samples() if row["error"]] == ["image is broken"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"method": "gredy"}, "unknown method 'gredy'"),
        ({"params": {"vra.tau": 5}}, "'vra.tau' belongs to no method"),
        ({"limit": 0}, "limit"),
        ({"generation": {"max_tokens": 3}}, "max_tokens"),
        ({"batch_size": "huge"}, "batch_size"),
    ],
)
def test_settings_are_checked_as_on_the_command_line(ask, settings, problem):
    with pytest.raises(UsageError, match=problem):
        ask(**settings)


def test_a_task_is_needed():
    with pytest.raises(UsageError, match="no task is given"):
        sinkbench.evaluate("tiny-llava")


def test_settings_reach_the_run(ask):
    (run,) = ask("pai", params={"pai.alpha": 0.25}, limit=6, seed=3, generation={"max_new_tokens": 2}, batch_size=2)
    spec = run.record["spec"]
    assert (spec["limit"], spec["seed"], spec["batch_size"]) == (6, 3, 2)
    assert spec["generation"]["max_new_tokens"] == 2
    assert run.record["method"]["params"]["alpha"] == 0.25
    assert len(list(run.samples())) == 6


def test_progress_goes_to_stderr_when_it_is_asked_for(ask, capsys):
    ask()
    assert capsys.readouterr() == ("", "")
    ask(progress=True, fresh=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "tiny" in shown.err


def test_the_import_is_cheap():
    script = (
        "import sys, sinkbench; print(sinkbench.__version__, dir(sinkbench).count('attach'));"
        "heavy = {'torch', 'transformers', 'lm_eval', 'numpy', 'pydantic'} & set(sys.modules); assert not heavy, heavy;"
        "sinkbench.evaluate; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == ([sinkbench.__version__, "1"], "")


def test_every_exported_name_is_there():
    assert all(getattr(sinkbench, name) is not None for name in sinkbench.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'evalaute'"):
        sinkbench.evalaute  # noqa: B018


def test_the_package_says_that_it_is_typed():
    assert (files("sinkbench") / "py.typed").is_file()
