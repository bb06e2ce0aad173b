"""`sinkbench compare` on runs with hand-made answers."""

import json
import re

import pytest
from compared import Runs, directory

from sinkbench.schemas import validate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of runs: six of 20 headline questions are wrong in "worse", whose answers are nasty."""
    runs = Runs(tmp_path_factory.mktemp("compared"))
    nasty = " [/red] <script>alert(1)</script> | `x`"
    return {
        "base": runs.make("base", {"greedy": {1}}, words=nasty),
        "worse": runs.make("worse", {"greedy": {1, *range(0, 18, 3)}}, words=nasty),
        "two": runs.make("two", {"greedy": {1}, "var": {1}}),
        "var": runs.make("var", {"var": {1}}),
    }


def said(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_two_runs_are_compared_metric_by_metric_and_flips_are_listed(here, made, tmp_path):
    places = directory(made["base"]), directory(made["worse"])
    done = here("compare", *places, "--flips", 2, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "worse, random/accuracy p 0.031 (Holm). 60 pairs; flipped: 0 better in B ▲, 6 worse ▼" in said(done)
    assert "-0.300" in done.stdout
    assert set(re.findall(r"fake/\d+", done.stdout)) == {"fake/0", "fake/3"}
    assert "4 more: --flips 6" in done.stdout
    assert "<script>" in done.stdout, "as it was answered"
    comparison = json.loads((tmp_path / "out.json").read_text())
    validate(comparison, "comparison")
    assert len(comparison["cells"][0]["flips"]) == 6


def test_what_differs_between_two_runs_is_said(here, made):
    done = here("compare", directory(made["base"]), directory(made["var"], "var"))
    assert done.returncode == 0, done.stderr
    assert "method.name: greedy → var" in done.stdout


@pytest.mark.parametrize(
    ("pair", "what", "code"),
    [
        (("base", "base"), "different", 0),
        (("base", "worse"), "worse", 4),
        (("worse", "base"), "different", 4),
        (("worse", "base"), "worse", 0),
        (("two", "base"), "worse", 4),
        (("base", "two"), "different", 0),
    ],
)
def test_the_exit_code_is_4_where_it_is_asked_for(here, made, pair, what, code):
    done = here("compare", *(made[name] for name in pair), "--fail-if", what)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_folders_show_a_line_a_run_and_all_metrics_on_demand(here, made):
    done = here("compare", made["two"], made["two"])
    assert done.stdout.count("identical") == 2
    assert "yes_ratio" not in done.stdout
    assert here("compare", made["two"], made["two"], "--metrics").stdout.count("yes_ratio") == 2


def test_mistakes_are_named_with_what_to_type(here, made, tmp_path):
    folder = made["base"]
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "board.json"
    other.write_text("{}")
    for arguments, words in (
        ((folder.with_name("bsae"), folder), ("does not exist", "Did you mean", "base?")),
        ((folder, empty), ("no finished run below", "sinkbench regress --write")),
        ((folder, other), ("is no baseline file",)),
        ((folder, folder, "--fail-if", "wrose"), ("unknown value of --fail-if 'wrose'", "Did you mean worse?")),
        ((folder, folder, "--max-flips", "5"), ("is no share", "0.05 is 5 %")),
        ((folder, folder, "--alpha", "0"), ("is no level",)),
    ):
        done = here("compare", *arguments)
        for word in words:
            assert word in said(done)
        assert done.returncode == 2, said(done)
        assert "Traceback" not in done.stderr
