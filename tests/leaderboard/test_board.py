import json
import shutil
from dataclasses import replace
from io import StringIO

import pytest
from fakes import FakeBackend, FakeTask, write_images

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.leaderboard import board as boards
from sinkbench.leaderboard import table
from sinkbench.leaderboard.compare import compare
from sinkbench.leaderboard.runs import find_runs
from sinkbench.schemas import validate
from sinkbench.spec import RunSpec
from sinkbench.store import RunStore

N = 60
WRONG = {"greedy": set(range(0, 30)), "var": set(range(24, 30)), "pai": set(range(0, 33))}
"""Questions that each method answers wrongly."""


def answerer(task, wrong):
    def answer(request):
        index = int(request.id.partition("/")[2])
        return task.label(index if index not in wrong else index + 1)

    return answer


@pytest.fixture
def runs(tmp_path):
    return maker(tmp_path, N)


def maker(tmp_path, n):
    """What makes runs over n questions about n / 3 images; methods answer each sixty alike."""
    write_images(tmp_path / "data", n // 3)
    task = FakeTask(tmp_path / "data", n=n)
    backend = FakeBackend(
        task,
        {name: answerer(task, {index for index in range(n) if index % N in wrong}) for name, wrong in WRONG.items()},
    )

    def make(*methods, **changes):
        specs = [RunSpec(model="tiny", task="fake", method=m, output=tmp_path / "runs", **changes) for m in methods]
        return runner.run(specs, backend=backend)

    make.folder = tmp_path / "runs"
    make.task = task
    return make


def edit(outcome, **changes):
    """Change top-level entries of a run.json."""
    record = json.loads((outcome.directory / "run.json").read_text())
    for key, value in changes.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    (outcome.directory / "run.json").write_text(json.dumps(record))


def rows(board):
    return {row["method"]: row for row in board["rows"]}


def test_a_board_holds_every_finished_run_and_keeps_to_its_schema(runs):
    runs("greedy", "var", "pai")
    board = boards.build(runs.folder)
    validate(board, "board")
    assert [row["method"] for row in board["rows"]] == ["greedy", "pai", "var"]
    assert rows(board)["var"]["metrics"]["random/accuracy"]["value"] == pytest.approx(18 / 20)
    assert rows(board)["greedy"]["metrics"]["f1"]["delta"] is None


def test_zero_one_scores_are_compared_by_mcnemar(runs):
    runs("greedy", "var")
    delta = rows(boards.build(runs.folder))["var"]["metrics"]["random/accuracy"]["delta"]
    # Of the 20 random questions greedy alone is wrong on 0, 3, ..., 21: p = 2 / 2**8.
    assert (delta["value"], delta["n_pairs"], delta["test"]) == (pytest.approx(8 / 20), 20, "mcnemar")
    assert delta["p"] == pytest.approx(2 / 2**8)
    assert delta["ci95"][0] < 8 / 20 < delta["ci95"][1]


def test_other_metrics_are_compared_by_the_paired_bootstrap(runs):
    runs("greedy", "var")
    row = rows(boards.build(runs.folder))["var"]
    delta = row["metrics"]["f1"]["delta"]
    greedy = rows(boards.build(runs.folder))["greedy"]
    assert delta["test"] == "paired_bootstrap"
    assert delta["value"] == pytest.approx(row["metrics"]["f1"]["value"] - greedy["metrics"]["f1"]["value"])
    assert delta["p"] < 0.05
    assert delta["ci95"][0] > 0


def test_counts_have_a_difference_but_no_test(runs):
    runs("greedy", "var")
    delta = rows(boards.build(runs.folder))["var"]["metrics"]["n_unparsed"]["delta"]
    assert delta == {"value": 0.0, "ci95": None, "p": None, "test": None, "n_pairs": N}


def test_p_values_are_adjusted_over_the_methods(runs):
    runs("greedy", "var", "pai")
    found = {m: row["metrics"]["random/accuracy"]["delta"] for m, row in rows(boards.build(runs.folder)).items()}
    assert found["var"]["p_holm"] == pytest.approx(2 * found["var"]["p"])
    assert found["pai"]["p_holm"] >= found["pai"]["p"]


def test_among_fifty_methods_a_clear_difference_by_the_bootstrap_is_still_found(tmp_path):
    """The bootstrap's smallest p must be small enough for Holm's adjustment."""
    runs = maker(tmp_path, 3 * N)
    runs("greedy")
    (var,) = runs("var")
    for index in range(49):
        copy = shutil.copytree(var.directory, runs.folder / f"copy-{index}")
        edit(replace(var, directory=copy), run_id=f"{index:064x}", method={"params": {"x": index}})
    for file in runs.folder.glob("*/run.json"):
        file.write_text(file.read_text().replace('"headline": "random/accuracy"', '"headline": "f1"'))
    deltas = [row["metrics"]["f1"]["delta"] for row in boards.build(runs.folder)["rows"]]
    found = [delta for delta in deltas if delta]
    assert len(found) == 50
    assert {delta["test"] for delta in found} == {"paired_bootstrap"}
    assert all(0 < delta["p"] < delta["p_holm"] < 0.05 for delta in found)


def test_only_p_values_of_the_bootstrap_are_made_finer(runs):
    runs("greedy", "var")
    samples = {run.method: run.samples() for run in find_runs(runs.folder)}
    for name, test in (("random/accuracy", "mcnemar"), ("f1", "paired_bootstrap")):
        usual, fine = (compare("pope", name, samples["greedy"], samples["var"], n_resamples=n) for n in (2000, 40_000))
        assert usual["test"] == fine["test"] == test
        assert (usual == fine) == (test == "mcnemar")
        assert fine["ci95"] == pytest.approx(usual["ci95"], abs=0.02)


def test_only_samples_that_both_answered_are_paired(runs):
    runs("greedy")
    (var,) = runs("var")
    store = RunStore(var.directory)
    unscored = {"score": None, "parsed": None, "cluster": None, "counts": None, "group": None}
    lost = {"text": None, "finish": "error", "error": "broken image", **unscored}
    kept = [{**row, **lost} if row["id"] in ("fake/0", "fake/3") else row for row in store.samples().values()]
    store.replace_samples(kept)
    delta = rows(boards.build(runs.folder))["var"]["metrics"]["random/accuracy"]["delta"]
    assert delta["n_pairs"] == 18
    assert delta["value"] == pytest.approx(6 / 18)


def test_runs_under_other_conditions_are_not_compared(runs):
    runs("greedy")
    runs("var", limit=30)
    board = boards.build(runs.folder)
    assert rows(board)["var"]["metrics"]["f1"]["delta"] is None
    assert len({row["conditions"] for row in board["rows"]}) == 2
    assert table.best_rows(board["rows"]) == set()


def test_another_baseline(runs):
    runs("greedy", "var")
    board = boards.build(runs.folder, baseline="var")
    assert board["rows"][0]["method"] == "var"
    assert rows(board)["greedy"]["metrics"]["random/accuracy"]["delta"]["value"] == pytest.approx(-8 / 20)


def test_cost_is_relative_to_the_baseline(runs):
    greedy, var = runs("greedy", "var")
    budget = {"visual_tokens_mean": 4.5, "prefill_macs": 1e9, "prompt_kv_bytes": 1e6, "peak_bytes": 12345}
    edit(var, efficiency={"answers_per_s": 50.0, **budget})
    edit(greedy, efficiency={"answers_per_s": 100.0})
    found = rows(boards.build(runs.folder))
    assert found["var"]["cost"] == {"answers_per_s": 50.0, "relative_time": 2.0, **budget}
    assert found["greedy"]["cost"] == {"answers_per_s": 100.0, "relative_time": 1.0, **dict.fromkeys(budget)}


def test_a_copy_of_a_run_counts_once_and_the_newest_wins(runs, tmp_path):
    (old,) = runs("greedy")
    copy = runs.folder / "copy" / old.directory.name
    copy.mkdir(parents=True)
    for name in ("run.json", "samples.jsonl"):
        (copy / name).write_text((old.directory / name).read_text())
    edit(old, updated="2000-01-01T00:00:00+00:00")
    (row,) = boards.build(runs.folder)["rows"]
    assert row["path"] == f"copy/{old.directory.name}"


def test_unfinished_runs_are_listed_apart(runs):
    _, var = runs("greedy", "var")
    edit(var, status="interrupted")
    record = json.loads((var.directory / "run.json").read_text())
    (var.directory / "run.json").write_text(json.dumps({**record, "metrics": {}}))
    board = boards.build(runs.folder)
    assert [row["method"] for row in board["rows"]] == ["greedy"]
    assert board["unfinished"] == [{"path": var.directory.name, "status": "interrupted"}]


def test_the_board_is_the_same_every_time(runs):
    runs("greedy", "var", "pai")
    assert boards.build(runs.folder) == boards.build(runs.folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"baseline": "gredy"}, "gredy"), ({"tasks": ["fakee"]}, "fakee")],
)
def test_unknown_names_are_explained(runs, arguments, expected):
    runs("greedy")
    with pytest.raises(UsageError, match=expected) as caught:
        boards.build(runs.folder, **arguments)
    assert "Did you mean" in caught.value.hint


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="no finished run") as caught:
        boards.build(tmp_path)
    assert "sinkbench eval" in caught.value.hint
    with pytest.raises(UsageError, match="does not exist"):
        boards.build(tmp_path / "absent")


def test_markdown_marks_the_best_and_what_is_doubtful(runs):
    greedy, var = runs("greedy", "var")
    edit(greedy, env={"git": {"commit": "c" * 40, "dirty": True}})
    edit(var, env={"git": {"commit": "c" * 40, "dirty": False}})
    lines = table.markdown(boards.build(runs.folder)).splitlines()
    assert lines[0] == "### fake"
    greedy_line, var_line = (next(line for line in lines if f"| {name}" in line) for name in ("greedy", "var"))
    assert "| greedy * |" in greedy_line
    assert "| var |" in var_line
    assert "**0.900**" in var_line
    assert "+0.400" in var_line
    assert "**" not in greedy_line


def test_namesakes_are_told_apart_by_their_parameters(runs):
    runs("var", "greedy")
    runs("var", params={"var.tau": 5})
    board = boards.build(runs.folder)
    labels = {table.label(row, board["rows"]).rstrip("* ") for row in board["rows"]}
    assert labels == {"greedy", "var (tau=20.0)", "var (tau=5)"}


def test_a_lower_value_can_be_the_best():
    def row(run_id, value):
        metric = {"value": value, "direction": "lower"}
        return {"run_id": run_id, "conditions": "c", "headline": "chair_i", "metrics": {"chair_i": metric}}

    assert table.best_rows([row("a", 0.2), row("b", 0.1), row("c", 0.1)]) == {"b", "c"}
    assert table.best_rows([row("a", 0.2)]) == set()


def test_console_tables_fit_eighty_columns(runs):
    from rich.console import Console

    runs("greedy", "var", "pai")
    console = Console(width=80, record=True, file=StringIO())
    for rendered in table.rich_tables(boards.build(runs.folder)):
        console.print(rendered)
    text = console.export_text()
    assert "…" not in text
    assert "0.900" in text


def test_the_command_shows_fronts_and_what_is_retained(runs, tmp_path):
    from typer.testing import CliRunner

    from sinkbench.cli.app import app

    greedy, var, _ = runs("greedy", "var", "pai")
    edit(greedy, efficiency={"answers_per_s": 100.0, "prefill_macs": 5e9})
    # Parameters in run.json are in no order.
    edit(var, efficiency={"answers_per_s": 50.0, "prefill_macs": 2e9}, method={"params": {"tau": 1, "alpha": 2}})
    picture = tmp_path / "pareto.png"
    flags = ["--retained", "--no-cost", "--pareto", "macs", "--picture", str(picture)]
    shown = CliRunner().invoke(app, ["leaderboard", str(runs.folder), *flags], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "Retained of greedy's scores" in shown.output
    assert "100.0" in shown.output
    assert "Not beaten in score and macs" in shown.output
    assert "2e+09" in shown.output, "--no-cost leaves out times only"
    assert picture.stat().st_size > 1000
