"""`sinkbench list methods`: all in brief at any width, one in full, both as JSON."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from sinkbench.cli.method_tables import TABLE_WIDTH, as_typed, show_method, show_methods
from sinkbench.methods import builtin_names, method_names
from sinkbench.methods.describe import describe, in_order


def printed(show, what, width):
    console = Console(file=StringIO(), width=width)
    show(what, console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize("width", [80, TABLE_WIDTH - 1, TABLE_WIDTH, 160])
def test_all_methods_are_told_whole_at_every_width(width):
    known = in_order(builtin_names())
    lines = printed(show_methods, known, width)
    text = "\n".join(lines)
    # Cells are broken between words alone, never cut.
    assert "…" not in text
    words = set(re.findall(r"[\w.-]+", text))
    for method in known:
        starts = [index for index, line in enumerate(lines) if line.strip().startswith(f"{method.name} ")]
        assert len(starts) == 1, method.name
        said = (method.summary, method.family, method.touches, method.cost, method.calibration)
        assert set(re.findall(r"[\w.-]+", " ".join(said))) <= words
        assert {profile.name for profile in method.profiles} <= words
        assert not method.paper or {method.paper.arxiv or "ICLR"} <= words


def test_a_wide_console_gets_one_row_for_each_method():
    header = next(line for line in printed(show_methods, in_order(["var", "pai"]), 160) if " name " in line)
    columns = ["name", "family", "arXiv or venue", "touches", "cost", "calibration", "profiles", "what it does"]
    assert re.split(r" {2,}", header.strip()) == columns


def test_costs_are_explained_where_they_occur():
    lines = printed(show_methods, in_order(["greedy", "var"]), 80)
    assert any(line.startswith("free: ") for line in lines)
    assert not any(line.startswith("branch: ") for line in lines)


@pytest.mark.parametrize("width", [80, 160])
def test_one_method_is_told_in_full(width):
    text = " ".join(" ".join(printed(show_method, describe("pai"), width)).split())
    for words in (
        "pai: amplifies image scores",
        "Liu et al.: Paying More Attention to Image",
        "ECCV 2024, arXiv 2407.21771",
        "code LALBJ/PAI@9bbd8bd",
        "edits suffix, decode",
        "branch: a second branch",
        "--set pai.PARAM=VALUE",
        "--set pai.profile=NAME",
        "float 0.5",
        "always or code",
        "llava-13b",
    ):
        assert words in text
    for meaning in ("before the softmax", "1 turns the branch off"):
        assert set(meaning.split()) <= set(re.findall(r"\w+", text))


def test_what_a_calibration_is_for_is_told_with_its_model():
    several = replace(
        describe("debias"), calibrated=("mine", "tiny-llava"), calibrated_for={"tiny-llava": ("fastv", "himap")}
    )
    lines = printed(show_method, several, 100)
    told = next(line for line in lines if line.startswith("calibrated for"))
    assert told.split(maxsplit=2)[2].strip() == "mine, tiny-llava (fastv, himap)"


def test_a_method_without_parameters_has_no_empty_tables():
    assert not any("--set" in line for line in printed(show_method, describe("greedy"), 80))


@pytest.mark.parametrize(
    ("value", "typed"),
    [(0.5, "0.5"), (True, "true"), ((), "[]"), ([1, 2], "[1, 2]"), ("code", "code"), ("", '""'), (None, "")],
)
def test_values_are_shown_as_one_types_them(value, typed):
    assert as_typed(value) == typed


def test_json_holds_all_methods_or_the_one(here):
    everything = json.loads(here("list", "methods", "--json").stdout)
    assert [method["name"] for method in everything] == [method.name for method in in_order(method_names())]
    one = json.loads(here("list", "methods", "var", "--json").stdout)
    assert one == next(method for method in everything if method["name"] == "var")
    assert one["paper"]["arxiv"] == "2503.03321"
    assert one["edits"] == ["suffix", "decode"]
    assert one["parameters"][0] == {
        "name": "tau",
        "kind": "float",
        "default": 20.0,
        "meaning": "A token is a sink where φ > tau.",
    }
    assert one["profiles"][1]["name"] == "paper"


def test_a_misspelt_method_is_a_usage_error(here):
    done = here("list", "methods", "vra")
    assert done.returncode == 2
    assert "unknown method 'vra'" in done.stderr
