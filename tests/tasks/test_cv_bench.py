"""CV-Bench: the hub's schema, the release, prompts, averages over sources, one group."""

import json
import shutil

import pytest
from choice_data import check_nasty, check_run, evaluate, fake_hub, parquet, prompts, scored
from hub_data import jpeg

from sinkbench.tasks import build_requests, check_data, documents, load_task, task_groups
from sinkbench.tasks.layout import FAULT

HUB = {
    "idx": "int64",
    "type": "string",
    "task": "string",
    "image": "image",
    "question": "string",
    "choices": "strings",
    "answer": "string",
    "prompt": "string",
    "filename": "string",
    "source": "string",
    "source_dataset": "string",
    "source_filename": "string",
    "target_class": "string",
}


def row(idx, side, task, source, answer, choices=("0", "1", "2"), name=None):
    lines = " ".join(f"({letter}) {text}" for letter, text in zip("ABCD", choices, strict=False))
    return {
        "idx": idx,
        "type": side,
        "task": task,
        "question": f"How many {idx}?",
        "choices": list(choices),
        "answer": f"({answer})",
        "prompt": f"How many {idx}? Select from the following choices.\n{lines}",
        "filename": f"img/{side}/{task.lower()}/{idx}.jpg",
        "source": source,
        "source_dataset": f"{source} v1",
        "source_filename": name or f"{source}_{idx}.jpg",
        "target_class": "chair",
    }


FLAT = [
    row(0, "2D", "Count", "ADE20K", "A", name="one.jpg"),
    row(1, "2D", "Relation", "ADE20K", "B", ("left", "right"), name="one.jpg"),
    row(2, "2D", "Count", "COCO", "C"),
]
DEEP = [row(3, "3D", "Depth", "Omni3D", "A", ("bed", "lamp")), row(4, "3D", "Distance", "Omni3D", "B", ("bed", "lamp"))]
RIGHT_2D = {"2D-0": "(A)", "2D-1": "B", "2D-2": "C"}
RIGHT = {**RIGHT_2D, "3D-3": "(A)", "3D-4": "B"}


def write(folder, changes=None):
    for name, rows in (("test_2d.parquet", FLAT), ("test_3d.parquet", DEEP)):
        parquet(folder, name, [{**each, **(changes or {}).get(each["idx"], {})} for each in rows], HUB)
    return folder


def test_the_hubs_copy(tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "nyu-visionx/CV-Bench"))
    for name, ids in (
        ("cvbench_2d", list(RIGHT_2D)),
        ("cvbench_3d", ["3D-3", "3D-4"]),
        ("cvbench_overall", list(RIGHT)),
    ):
        check_data(name)
        task = load_task(name)
        assert [document["id"] for document in documents(task)] == ids
        requests = list(build_requests(task, tmp_path / "images"))
        assert [len(request.images) for request in requests] == [1] * len(ids)
        assert requests[0].generation.max_new_tokens == 1024
        values, _ = scored(task, {id: RIGHT[id] for id in ids})
        assert {value for metric, value in values.items() if metric != "n_unparsed"} == {1.0}
    assert [document["cluster"] for document in documents(load_task("cvbench_2d"))] == [
        "one.jpg",
        "one.jpg",
        "COCO_2.jpg",
    ]


def test_the_older_copy_in_one_file(tmp_path):
    parquet(tmp_path, "test.parquet", [*FLAT, *DEEP], HUB)
    assert [document["id"] for document in documents(load_task("cvbench_2d", tmp_path))] == list(RIGHT_2D)
    assert [document["id"] for document in documents(load_task("cvbench_overall", tmp_path))] == list(RIGHT)


def test_prompts(tmp_path):
    write(tmp_path)
    own = "How many 1? Select from the following choices.\n(A) left (B) right"
    note = "Note: You only need to respond with A, B without providing any additional information.\n\n"
    assert prompts(load_task("cvbench_2d", tmp_path))["2D-1"] == f"<image>{note}{own}"
    assert prompts(load_task("cvbench_2d", tmp_path, {"prompt": "lmms-eval"}))["2D-1"] == f"<image>{note}{own}"
    assert prompts(load_task("cvbench_2d", tmp_path, {"prompt": "bare"}))["2D-1"] == f"<image>{own}"
    assert "respond with A, B, C without" in prompts(load_task("cvbench_overall", tmp_path))["2D-0"]


def test_averages(tmp_path):
    """ADE20K 1 of 2, COCO 0 of 1, Omni3D 1 of 2."""
    write(tmp_path)
    given = {"2D-0": "0", "2D-1": "A", "2D-2": "perhaps", "3D-3": "A. bed", "3D-4": "A"}
    values, parsed = scored(load_task("cvbench_overall", tmp_path), given)
    assert parsed == {"2D-0": "A", "2D-1": "A", "2D-2": None, "3D-3": "A", "3D-4": "A"}
    assert (values["2d/accuracy"], values["3d/accuracy"], values["accuracy"]) == (0.25, 0.5, 0.375)
    assert (values["ade20k/accuracy"], values["coco/accuracy"]) == (0.5, 0)
    assert (values["count/accuracy"], values["depth/accuracy"], values["distance/accuracy"]) == (0.5, 1, 0)
    assert (values["question_accuracy"], values["n_unparsed"]) == (0.4, 1)
    alone, _ = scored(load_task("cvbench_2d", tmp_path), {id: given[id] for id in RIGHT_2D})
    assert (alone["accuracy"], alone["question_accuracy"]) == (0.25, pytest.approx(1 / 3))
    alone, _ = scored(load_task("cvbench_3d", tmp_path), {id: given[id] for id in ("3D-3", "3D-4")})
    assert alone["accuracy"] == 0.5


def test_parsers(tmp_path):
    write(tmp_path)
    for parser, accuracy in (("vlmevalkit", 0.0), ("leading_letter", 1.0), ("first_letter", 1.0)):
        task = load_task("cvbench_3d", tmp_path, {"parser": parser})
        assert scored(task, {"3D-4": "B is what I would take for the nearer one"})[0]["accuracy"] == accuracy


def test_lm_eval_averages_the_group(tmp_path):
    """Always A: 2D mean(1/2, 0), 3D 1/2."""
    write(tmp_path)
    found = evaluate("cvbench", tmp_path, "A")
    assert found["results"]["cvbench_2d"]["accuracy,none"] == 0.25
    assert found["groups"]["cvbench"]["accuracy,none"] == 0.375
    assert task_groups()["cvbench"] == ("cvbench_2d", "cvbench_3d")


def test_broken_rows(tmp_path):
    write(tmp_path, {0: {"answer": None}, 1: {"image": None}, 2: {"choices": None}})
    task = load_task("cvbench_2d", tmp_path)
    faults = ["answer is null", "image is null", "choices is null"]
    assert [document[FAULT] for document in documents(task)] == faults
    assert [request.fault for request in build_requests(task, tmp_path / "images")] == faults


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("cvbench_overall", tmp_path), RIGHT)


@pytest.mark.parametrize("prefix", ["img/", ""])
def test_the_release(tmp_path, prefix):
    folder = tmp_path / "release"
    for name, rows in (("test_2d.jsonl", FLAT), ("test_3d.jsonl", DEEP)):
        for each in rows:
            path = folder / each["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(each["idx"]))
        named = [
            # Boxes are of one kind in the one file and of another in the other.
            {**each, "filename": prefix + each["filename"].removeprefix("img/"), "bbox": [1] if "2d" in name else "no"}
            for each in rows
        ]
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in named))
    shutil.rmtree(folder / "img/3D/distance")
    write(tmp_path / "hub")
    check_data("cvbench_2d", folder)
    for name, right in (("cvbench_2d", RIGHT_2D), ("cvbench_overall", RIGHT)):
        release, hub = load_task(name, folder), load_task(name, tmp_path / "hub")
        assert prompts(release) == prompts(hub)
        assert scored(release, right) == scored(hub, right)
        found = [bool(request.images[0].sha256) for request in build_requests(release, tmp_path)]
        assert found == [id != "3D-4" for id in right]


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("cvbench_overall", tmp_path / "data", tmp_path / "runs")
