"""A whole benchmark on a tiny model: the numbers agree with each other, and nothing that was measured is lost."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from harness import model_folder

from sinkbench.bench import suite
from sinkbench.bench.record import read_record
from sinkbench.bench.tables import grids

ABSENT = ("lm_eval", "datasets", "pycocotools", "nltk", "textblob", "simplemma", "pydantic", "jsonschema")
"""What a bare GPU machine lacks."""


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture
def content(settings, tmp_path, said):
    settings = replace(settings, growth=True, end_to_end=2, repeats=1)
    return suite.run(settings, tmp_path / "tiny.json", said.append)


def test_the_numbers_agree_with_each_other(content, tmp_path, said):
    assert json.loads(json.dumps(content)) == read_record(tmp_path / "tiny.json")
    assert content["status"] == "finished"
    for row in content["rows"] + content["baselines"]:
        assert row["error"] == ""
        assert row["answers_per_s"] * row["seconds"]["median"] == pytest.approx(row["answers"])
        if row["tokens_per_s"]:
            decode = row["seconds"]["median"] - row["prefill_ms"] / 1e3 * row["answers"]
            assert decode > 0
    greedy, var = (row for row in content["rows"] if row["workload"] == "pope")
    assert (greedy["method"], var["method"]) == ("greedy", "var")
    assert var["ratio_to_greedy"]["answers_per_s"] == pytest.approx(var["answers_per_s"] / greedy["answers_per_s"])
    assert (greedy["answers"], greedy["image_tokens"]) == (6, 16)
    assert [b["method"] for b in content["baselines"] if b["workload"] == "pope"] == [
        "transformers eager",
        "transformers sdpa",
        "transformers sdpa",
    ]
    assert {row["workload"] for row in content["rows"]} == {"pope", "caption", "mixed", "growth"}
    assert {row["batch"] for row in content["rows"] if row["workload"] == "caption"} == {1, 2}
    (files,) = content["end_to_end"]
    assert files["ratio"] == pytest.approx(files["end_to_end_per_s"] / files["device_per_s"])
    assert len(said) == len(content["rows"]) + len(content["baselines"]) + 1

    titles = [grid.title.partition(":")[0] for grid in grids(content)]
    assert titles == ["Speed", "Overhead", "Growth", "From files to answers", "Against plain transformers", "Targets"]
    speed = grids(content)[0].markdown()
    assert f"| {greedy['workload']} | greedy | {greedy['batch']} |" in speed
    assert all(len(cells) == len(grid.columns) for grid in grids(content) for cells in grid.rows)


def test_out_of_memory_ends_a_row_and_not_the_benchmark(settings, monkeypatch):
    real = suite.measure

    def measure(engine, prepared, *rest):
        if "var" in engine.lanes and prepared.workload.name == "pope":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return real(engine, prepared, *rest)

    monkeypatch.setattr(suite, "measure", measure)
    settings = replace(settings, workloads=("pope", "caption"), baseline=False)
    content = suite.run(settings, None, lambda _: None)
    failed, *rest = [row for row in content["rows"] if row["method"] == "var"]
    assert failed["error"] == "out of memory: CUDA out of memory. Tried to allocate 2 GiB"
    assert not [row["error"] for row in rest if row["error"]]
    assert ["pope", "var", "6", failed["error"]] == list(grids(content)[0].rows[1])[:4]
    assert not next(t for t in content["targets"] if t["name"].startswith("pope"))["met"]


def test_a_row_that_breaks_is_told_with_its_traceback(settings, monkeypatch):
    def measure(*_):
        raise RuntimeError("lost\nmore")

    said = []
    monkeypatch.setattr(suite, "measure", measure)
    content = suite.run(replace(settings, workloads=("pope",)), None, said.append)
    assert [(row["error"], row["broken"]) for row in content["rows"]] == [("RuntimeError: lost", True)] * 2
    assert not [row["error"] for row in content["baselines"] if row["error"]]
    assert "Traceback" in said[0]


def test_an_interrupted_benchmark_keeps_what_it_has(settings, monkeypatch, tmp_path):
    def end(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "measure_plain", end)
    with pytest.raises(KeyboardInterrupt):
        suite.run(settings, tmp_path / "tiny.json", lambda _: None)
    kept = read_record(tmp_path / "tiny.json")
    assert [row["method"] for row in kept["rows"]] == ["greedy", "var"]
    assert kept["status"] == "started"


def test_flips_are_counted_on_real_weights(settings):
    settings = replace(settings, model="tiny-llava", weights="real", workloads=(), methods=(), flips=2)
    content = suite.run(replace(settings, dtype="bfloat16"), None, lambda _: None)
    (flips,) = content["flips"]
    assert flips["questions"] == sum(count["questions"] for count in flips["by_file"].values()) == 6
    assert flips["flipped"] == sum(count["flipped"] for count in flips["by_file"].values())
    assert content["model"]["weights"] == "real"


def test_it_needs_none_of_the_packages_of_tasks():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "from sinkbench.bench.suite import Settings, run\n"
        "run(Settings('tiny', workloads=('pope',), images=1, baseline=False, repeats=1), None, print)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pope, batch 18, greedy" in done.stdout


def test_pruning_at_several_budgets(settings, tmp_path, said):
    settings = replace(settings, methods=("fastv", "pyramiddrop", "uniform", "var"), workloads=(), repeats=1)
    content = suite.run(replace(settings, prune=(0.5, 4.0, 0.1)), tmp_path / "prune.json", said.append)
    rows = {(row["method"], row["keep"]): row for row in content["rows"]}
    assert {name for name, _ in rows} == {"greedy", "fastv", "pyramiddrop", "uniform"}, "var drops nothing"
    greedy, n = rows["greedy", 1.0], rows["greedy", 1.0]["visual_tokens_in"]
    assert (greedy["visual_tokens_mean"], greedy["answers"], n) == (n, 2, 16)
    assert rows["uniform", 4.0]["visual_tokens_by_layer"] == [4.0] * 4
    assert rows["fastv", 0.5]["visual_tokens_by_layer"] == [16.0, 16.0, 8.0, 8.0]
    assert rows["pyramiddrop", 0.5]["visual_tokens_mean"] <= 8
    assert "layers before the first drop" in rows["pyramiddrop", 0.1]["error"], "the other rows were measured"
    for (name, _), row in rows.items():
        if row["error"]:
            continue
        for ratio in ("prefill_macs", "prompt_kv_bytes"):
            assert row["ratio_to_greedy"][ratio] == pytest.approx(row[ratio] / greedy[ratio])
            assert (row["ratio_to_greedy"][ratio] < 1) == (name != "greedy")
    assert {(row["workload"], row["method"], row["batch"]) for row in content["baselines"]} == {
        ("prune", "transformers sdpa", 1),
        ("prune", "transformers sdpa", 2),
    }
    assert {entry["workload"] for entry in content["against_plain"]} == {"prune"}
    table = next(grid for grid in grids(content) if grid.title.startswith("Pruning"))
    assert all(len(cells) == len(table.columns) for cells in table.rows)
    assert content["targets"] == []


def test_images_have_the_size_that_was_asked_for(settings):
    def tokens(size):
        settings_ = replace(settings, methods=(), workloads=(), prune=(0.5,), baseline=False, image_size=size)
        (row,) = suite.run(replace(settings_, model=str(model_folder("llava_next"))), None, lambda _: None)["rows"]
        return row["visual_tokens_in"]

    assert tokens((32, 32)) != tokens((64, 32))
