"""MMStar: the hub's schema, prompts, its own rule, means over fine categories."""

import pytest
from choice_data import check_nasty, check_run, fake_hub, kinds, parquet, prompts, scored
from hub_data import embedded, jpeg, write_parquet

from sinkbench.tasks import build_requests, check_data, documents, load_task
from sinkbench.tasks.layout import FAULT

HUB = {
    "index": "int64",
    "question": "string",
    "image": "image",
    "answer": "string",
    "category": "string",
    "l2_category": "string",
}
LETTER = "Answer with the option's letter from the given choices directly"
CATEGORIES = [
    ("coarse perception", "image emotion"),
    ("coarse perception", "image emotion"),
    ("coarse perception", "image style & quality"),
    ("science & technology", "geography & earth science & agriculture"),
]
ROWS = [
    {
        "index": index,
        "question": f"Which is {index}?\nOptions: A: one, B: two, C: three, D: four ",
        "answer": "ABCD"[index],
        "category": category,
        "l2_category": fine,
    }
    for index, (category, fine) in enumerate(CATEGORIES)
]
RIGHT = {"0": "A", "1": "B", "2": "C", "3": "D"}


def write(folder, changes=None):
    return parquet(folder, "mmstar.parquet", [{**row, **(changes or {}).get(row["index"], {})} for row in ROWS], HUB)


def test_the_hubs_copy(tmp_path, monkeypatch):
    """With its column of structs, which the task does not need."""
    from datasets import Value

    meta = {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"}
    table = [{**row, "image": embedded(jpeg(row["index"])), "meta_info": meta} for row in ROWS]
    features = {**kinds(HUB), "meta_info": {key: Value("string") for key in meta}}
    write_parquet(fake_hub(monkeypatch, tmp_path / "hub", "Lin-Chen/MMStar"), "mmstar.parquet", table, features)
    check_data("mmstar")
    task = load_task("mmstar")
    assert [document["id"] for document in documents(task)] == list(RIGHT)
    assert len({request.images[0].key for request in build_requests(task, tmp_path / "images")}) == 4
    values, _ = scored(task, RIGHT)
    assert values["accuracy"] == values["science_technology/accuracy"] == values["question_accuracy"] == 1.0
    assert values["math/accuracy"] is None


def test_prompts(tmp_path):
    write(tmp_path)
    asked = "<image>Which is 0?\nOptions: A: one, B: two, C: three, D: four"
    assert prompts(load_task("mmstar", tmp_path))["0"] == f"{asked}\n{LETTER}"
    assert prompts(load_task("mmstar", tmp_path, {"prompt": "lmms-eval"}))["0"] == f"{asked}\n{LETTER}"
    assert prompts(load_task("mmstar", tmp_path, {"prompt": "bare"}))["0"] == asked


def test_means_over_fine_categories(tmp_path):
    """Emotion 1 of 2, style 1 of 1, geography 0 of 1."""
    write(tmp_path)
    values, parsed = scored(load_task("mmstar", tmp_path), {"0": "(a)", "1": "It is B", "2": "Option C", "3": "C"})
    assert parsed == {"0": "A", "1": None, "2": "C", "3": "C"}
    assert values["accuracy"] == pytest.approx(0.5)
    assert values["coarse_perception/accuracy"] == pytest.approx(0.75)
    assert values["science_technology/accuracy"] == 0
    assert (values["question_accuracy"], values["n_unparsed"]) == (0.5, 1)
    values, _ = scored(load_task("mmstar", tmp_path, {"parser": "vlmevalkit"}), {"1": "It is B", "3": "d"})
    assert values["question_accuracy"] == 0.5


def test_broken_rows(tmp_path):
    write(tmp_path, {0: {"answer": None}, 1: {"image": None}, 2: {"question": None}})
    task = load_task("mmstar", tmp_path)
    faults = ["answer is null", "image is null", "question is null", ""]
    assert [document[FAULT] for document in documents(task)] == faults
    assert [request.fault for request in build_requests(task, tmp_path / "images")] == faults
    assert scored(task, {"3": "D"})[0]["accuracy"] == 1.0


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("mmstar", tmp_path), RIGHT)


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("mmstar", tmp_path / "data", tmp_path / "runs")
