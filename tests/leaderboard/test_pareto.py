"""Fronts and retained performance by hand; the picture of a board."""

import pytest
from PIL import Image

from sinkbench.errors import UsageError
from sinkbench.leaderboard import pareto
from sinkbench.leaderboard.retained import retained


def row(method, value, macs, *, task="pope", direction="higher", model="m", **params):
    metric = {"value": value, "ci95": None, "n": 5, "direction": direction, "delta": None}
    cost = {"answers_per_s": 1.0, "relative_time": None, "prefill_macs": macs, "visual_tokens_mean": None}
    return {
        **{"model": model, "method": method, "params": params, "task": task, "conditions": f"{model}-{task}"},
        **{"headline": "f1", "metrics": {"f1": metric}, "cost": cost, "limit": None, "dirty": False, "n_failed": 0},
    }


def board(*rows):
    return {"baseline": "greedy", "rows": list(rows)}


def names(rows):
    return [r["method"] for r in rows]


def test_the_front_holds_what_nothing_beats():
    rows = [row("greedy", 0.9, 100), row("a", 0.8, 50), row("b", 0.8, 60), row("c", 0.85, 70), row("d", 0.7, 70)]
    assert names(pareto.front(rows, "macs")) == ["a", "c", "greedy"]
    assert names(pareto.front([*rows, row("e", 0.95, 40)], "macs")) == ["e"]


def test_where_less_is_better():
    rows = [
        row(name, value, macs, direction="lower") for name, value, macs in (("g", 0.1, 9), ("a", 0.3, 3), ("b", 0.4, 5))
    ]
    assert names(pareto.front(rows, "macs")) == ["a", "g"]


def test_of_equal_costs_the_better_and_of_equal_scores_the_cheaper():
    assert names(pareto.front([row("a", 0.5, 5), row("b", 0.6, 5), row("c", 0.6, 6)], "macs")) == ["b"]


def test_runs_without_the_cost_are_left_out():
    assert pareto.front([row("a", 0.5, None)], "macs") == []
    assert names(pareto.front([row("a", 0.5, None), row("b", 0.1, 1)], "macs")) == ["b"]
    assert pareto.front([row("a", 0.5, 3)], "tokens") == []


def test_the_table_names_parameters():
    lines = pareto.table(
        board(row("greedy", 0.9, 1e12), row("x", 0.8, 1e9, keep=0.5), row("x", 0.7, 1e8, keep=0.1)), "macs"
    )
    assert lines == [
        ("pope", "m", "x (keep=0.1)", "1e+08", "0.700"),
        ("pope", "m", "x (keep=0.5)", "1e+09", "0.800"),
        ("pope", "m", "greedy", "1e+12", "0.900"),
    ]


def test_the_picture(tmp_path):
    shown = board(
        row("greedy", 0.9, 9), row("x", 0.8, 5, keep=0.5), row("x", 0.7, 3, keep=0.1), row("greedy", 1, 2, task="b")
    )
    pareto.draw(shown, "macs", tmp_path / "new" / "pareto.png")
    with Image.open(tmp_path / "new" / "pareto.png") as image:
        assert image.width > 300
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    with pytest.raises(UsageError, match="compared by tokens"):
        pareto.draw(shown, "tokens", tmp_path / "none.png")


def test_retained_performance_is_the_mean_of_ratios():
    shown = board(
        *(
            row("greedy", 0.8, 9),
            row("greedy", 0.5, 9, task="mcq"),
            row("greedy", 0.2, 9, task="chair", direction="lower"),
        ),
        *(row("x", 0.6, 5, keep=0.5), row("x", 0.5, 5, task="mcq", keep=0.5), row("x", 0.4, 3, keep=0.1)),
        *(row("x", 0.1, 3, task="chair", direction="lower", keep=0.1), row("x", 0.9, 1, model="other", keep=0.1)),
    )
    found = {(entry["method"], entry["params"].get("keep")): entry for entry in retained(shown)}
    assert found["greedy", None]["percent"] == 100
    assert found["x", 0.5]["percent"] == pytest.approx(100 * (0.75 + 1.0) / 2)
    assert found["x", 0.5]["tasks"] == ["mcq", "pope"]
    assert (found["x", 0.5]["label"], found["greedy", None]["label"]) == ("x (keep=0.5)", "greedy")
    assert found["x", 0.1]["percent"] == pytest.approx(50)
    assert {entry["model"] for entry in retained(shown)} == {"m"}, "without the whole model's score there is no ratio"


def test_the_published_average_of_sparsevlm_at_192_tokens():
    """Lineage A of pruning_protocol §8: eight tasks, 95.5 % retained."""
    whole = (61.9, 64.7, 58.1, 1862, 85.9, 69.5, 78.5, 58.2)
    pruned = (57.6, 62.5, 53.7, 1721, 83.6, 69.1, 75.6, 56.1)
    rows = [row("greedy", value, 9, task=str(task)) for task, value in enumerate(whole)]
    rows += [row("sparsevlm", value, 5, task=str(task)) for task, value in enumerate(pruned)]
    (found,) = (entry for entry in retained(board(*rows)) if entry["method"] == "sparsevlm")
    assert f"{found['percent']:.1f}" == "95.5"


def test_a_composition_has_its_first_parts_colour_and_a_line_of_its_own():
    looks = pareto._looks(["fastv", "fastv+debias", "greedy", "uniform"], "greedy")
    assert looks["fastv"]["color"] == looks["fastv+debias"]["color"] != looks["uniform"]["color"]
    assert looks["fastv"]["marker"] != looks["fastv+debias"]["marker"]
    assert looks["greedy"]["color"] == "black"
