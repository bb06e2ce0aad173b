"""Published figures are matched with runs of the same model, method, parameters and task, and with no others."""

from pathlib import Path

import pytest

from sinkbench.errors import UsageError
from sinkbench.leaderboard.claims import ClaimTable, compare, read_claims
from sinkbench.methods import get_method
from sinkbench.spec import expand, read_config
from sinkbench.tasks import task_info

PAPERS = Path(__file__).parents[2] / "configs" / "papers"


def run(method, value, model="llava", task="pope", **params):
    full = {
        key: list(v) if isinstance(v, tuple) else v for key, v in get_method(method, params, model).params().items()
    }
    return {"model": model, "method": method, "params": full, "task": task, "metrics": {"f1": {"value": value}}}


def table(*rows, **changes):
    about = {"source": "a paper", "verified": "secondary", "model": "llava", "metrics": {"pope": "f1"}}
    return ClaimTable(**{**about, **changes}, rows=list(rows))


def test_a_figure_meets_the_run_with_its_parameters():
    rows = [
        run("greedy", 0.85),
        run("fastv", 0.7, keep=192),
        run("fastv", 0.5, keep=64),
        run("fastv", 0.1, model="x", keep=64),
    ]
    claims = table(
        {"method": "greedy", "pope": 85.9},
        {"method": "fastv", "profile": "64", "pope": 48.0},
        {"method": "fastv", "params": {"keep": 128}, "pope": 59.6},
    )
    found = compare({"rows": rows}, [claims])
    assert [(each.method, each.claimed, each.measured) for each in found] == [
        ("greedy", pytest.approx(0.859), 0.85),
        ("fastv (64)", pytest.approx(0.48), 0.5),
        ("fastv", pytest.approx(0.596), None),
    ]
    assert {each.verified for each in found} == {"secondary"}


def test_answers_that_were_imported_are_no_measurement():
    rows = [run("greedy", 0.85) | {"imported": True}]
    (found,) = compare({"rows": rows}, [table({"method": "greedy", "pope": 85.9})])
    assert found.measured is None


def test_figures_that_are_no_percentages():
    (found,) = compare({"rows": [run("greedy", 0.5)]}, [table({"method": "greedy", "pope": 0.6}, percent=False)])
    assert found.claimed == 0.6


def test_what_cannot_be_compared(tmp_path):
    with pytest.raises(UsageError, match="no metric for gqa"):
        compare({"rows": []}, [table({"method": "greedy", "gqa": 61.9})])
    with pytest.raises(UsageError, match="unknown method"):
        compare({"rows": []}, [table({"method": "fastw", "pope": 61.9})])
    (tmp_path / "none.yaml").write_text("model: llava\n")
    with pytest.raises(UsageError, match="has no claims"):
        read_claims(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text(
        "claims:\n  - {source: x, verified: maybe, model: m, metrics: {a: b}, rows: []}\n"
    )
    with pytest.raises(UsageError, match="malformed"):
        read_claims(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "file", [f for f in sorted(PAPERS.glob("*.yaml")) if "claims:" in f.read_text()], ids=lambda f: f.stem
)
def test_shipped_claims_name_methods_profiles_and_tasks_of_their_file(file):
    specs = expand(read_config(file))
    tables = read_claims(file)
    found = compare({"rows": []}, tables)
    assert found
    assert {each.task for each in found} <= {spec.task for spec in specs}
    assert {each.method.partition(" ")[0] for each in found} <= {spec.method for spec in specs}
    assert all(0 < each.claimed <= 1 for each in found)


@pytest.mark.parametrize("name", ["pruning_llava15", "pruning_llava_next"])
def test_the_claims_of_the_papers_name_methods_that_can_be_run(name):
    """With a run for each of them, every figure is measured."""
    tables = read_claims(PAPERS / f"{name}.yaml")
    rows = []
    for each in tables:
        for row in each.rows:
            settings = row.get("params", {}) | ({"profile": row["profile"]} if "profile" in row else {})
            for task, metric in each.metrics.items():
                measured = run(row["method"], 0.5, model=each.model, task=task, **settings)
                rows.append({**measured, "metrics": {metric: {"value": 0.5}}})
                assert metric in task_info(task).metrics
    found = compare({"rows": rows}, tables)
    assert found
    assert {each.measured for each in found} == {0.5}
    assert all(0 < each.claimed < 1 for each in found)
