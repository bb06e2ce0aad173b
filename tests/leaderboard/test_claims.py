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
    tables, _ = read_claims(file)
    found = compare({"rows": []}, tables)
    assert found
    assert {each.task for each in found} <= {spec.task for spec in specs}
    assert {each.method.partition(" ")[0] for each in found} <= {spec.method for spec in specs}
    assert all(0 < each.claimed <= 1 for each in found)


@pytest.mark.parametrize("name", [f.stem for f in sorted(PAPERS.glob("*.yaml")) if "claims:" in f.read_text()])
def test_the_claims_of_the_papers_name_methods_that_can_be_run(name):
    """With a run for each of them, every figure is measured."""
    tables, _ = read_claims(PAPERS / f"{name}.yaml")
    rows = []
    for each in tables:
        for row in each.rows:
            settings = row.get("params", {}) | ({"profile": row["profile"]} if "profile" in row else {})
            for column in each.metrics:
                task, metric = each.measure(column).task, each.measure(column).metric
                measured = run(row["method"], 0.5, model=each.model, task=task, **settings)
                rows.append({**measured, "metrics": {metric: {"value": 0.5}}})
                assert metric in task_info(task).metrics
    found = compare({"rows": rows}, tables)
    assert found
    assert {each.measured for each in found} == {0.5}
    assert all(0 < each.claimed < 1 for each in found)


def measured(method, value, delta=None, ci95=None, **changes):
    made = run(method, value)
    metric = {"value": value, "ci95": ci95, "delta": None if delta is None else {"value": delta}}
    return {**made, "metrics": {"f1": metric}, **changes}


def test_a_figure_is_within_half_the_interval_or_what_the_table_says():
    rows = [measured("greedy", 0.85, ci95=[0.83, 0.87]), measured("vhr", 0.80, delta=-0.05, ci95=[0.79, 0.83])]
    figures = [{"method": "greedy", "pope": 87.0}, {"method": "vhr", "pope": 77.9}]
    found = compare({"rows": rows}, [table(*figures)])
    assert [each.tolerance for each in found] == pytest.approx([0.02, 0.02])
    # 0.85 and 0.87 lie 0.02 apart, 0.80 and 0.779 lie 0.021 apart.
    assert [each.verdict for each in found] == ["within", "outside"]
    assert [each.claimed_delta for each in found] == [None, pytest.approx(-0.091)]
    assert [each.measured_delta for each in found] == [None, -0.05]
    found = compare({"rows": rows}, [table(*figures, tolerance=2.2)])
    assert [each.verdict for each in found] == ["within", "within"]
    assert found[0].tolerance == pytest.approx(0.022)


def test_without_an_interval_there_is_no_verdict():
    (found,) = compare({"rows": [measured("greedy", 0.85)]}, [table({"method": "greedy", "pope": 85.0})])
    assert (found.measured, found.tolerance, found.verdict) == (0.85, None, "not run")


def test_where_only_another_model_ran_differences_stand_side_by_side():
    rows = [
        measured("greedy", 0.70, model="tiny-llava", task="scenes_pope"),
        measured("vhr", 0.75, delta=0.05, model="tiny-llava", task="scenes_pope"),
        measured("vhr", 0.60, delta=-0.02, model="tiny-qwen", task="scenes_pope"),
        measured("vhr", 0.60, delta=0.5, model="tiny-internvl", task="scenes_pope", imported=True),
    ]
    claims = table({"method": "greedy", "pope": 80.0}, {"method": "vhr", "pope": 83.0})
    greedy, *vhr = compare({"rows": rows}, [claims], {"pope": "scenes_pope"})
    assert greedy.verdict == "not run"
    assert [(each.verdict, each.measured, each.measured_delta, each.other_task) for each in vhr] == [
        ("another model: tiny-llava", None, 0.05, "scenes_pope"),
        ("another model: tiny-qwen", None, -0.02, "scenes_pope"),
    ]
    assert [each.claimed_delta for each in vhr] == [pytest.approx(0.03)] * 2
    assert [each.verdict for each in compare({"rows": rows}, [claims])] == ["not run"] * 2


def test_a_table_may_have_several_metrics_of_a_task():
    metrics = {"f": {"task": "pope", "metric": "f1"}, "a": {"task": "pope", "metric": "accuracy"}}
    found = compare(
        {"rows": [measured("greedy", 0.85)]}, [table({"method": "greedy", "f": 80, "a": 70}, metrics=metrics)]
    )
    assert [(each.task, each.metric, each.measured) for each in found] == [
        ("pope", "f1", 0.85),
        ("pope", "accuracy", None),
    ]


def test_what_a_calibration_found_does_not_hide_a_run():
    made = measured("iri", 0.85)
    made["params"] |= {"rates_attn": [0.1] * 32, "rates_mlp": [0.2] * 32}
    (found,) = compare({"rows": [made]}, [table({"method": "iri", "pope": 85.0})])
    assert found.measured == 0.85
    made["params"]["k_sources"] = 5
    (found,) = compare({"rows": [made]}, [table({"method": "iri", "pope": 85.0})])
    assert found.measured is None
