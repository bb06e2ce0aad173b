"""SEED-Bench's images: the hub's schema, the release, prompts, the first letter."""

import json

import pytest
from choice_data import check_nasty, check_run, fake_hub, parquet, prompts, scored
from hub_data import embedded, jpeg

from sinkbench.errors import UsageError
from sinkbench.tasks import build_requests, check_data, documents, load_task
from sinkbench.tasks.layout import FAULT

HUB = {
    "answer": "string",
    "choice_a": "string",
    "choice_b": "string",
    "choice_c": "string",
    "choice_d": "string",
    "data_id": "string",
    "data_type": "string",
    "question": "string",
    "question_id": "string",
    "question_type_id": "int16",
    "image": "images",
}
FILE = "data/test-00000-of-00001.parquet"
LETTER = "Answer with the option's letter from the given choices directly."


def row(number, answer, kind=1, data_type="image", data_id="42_7"):
    choices = {f"choice_{letter}": f"{letter} {number}" for letter in "abcd"}
    return {
        **choices,
        "answer": answer,
        "data_id": data_id,
        "data_type": data_type,
        "question": f"What is {number}?",
        "question_id": str(number),
        "question_type_id": kind,
    }


ROWS = [row(101, "A"), row(102, "B", 9), row(103, "C", 10, "video", "v.mp4"), row(104, "D", 1, data_id="43_8")]
RIGHT = {"101": "A", "102": "B", "104": "D"}


def write(folder, changes=None):
    table = [{**entry, **(changes or {}).get(entry["question_id"], {})} for entry in ROWS]
    table[2]["image"] = [embedded(jpeg(frame)) for frame in range(3)]
    return parquet(folder, FILE, table, HUB)


def test_the_hubs_copy_without_its_videos(tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab/SEED-Bench"))
    check_data("seed_image")
    task = load_task("seed_image")
    assert [document["id"] for document in documents(task)] == list(RIGHT)
    assert [document["cluster"] for document in documents(task)] == ["42_7", "42_7", "43_8"]
    requests = list(build_requests(task, tmp_path / "images"))
    assert [len(request.images) for request in requests] == [1, 1, 1]
    assert requests[0].generation.max_new_tokens == 128
    values, _ = scored(task, RIGHT)
    assert values["accuracy"] == values["scene_understanding/accuracy"] == values["text_understanding/accuracy"] == 1
    assert values["visual_reasoning/accuracy"] is None


@pytest.mark.parametrize("profile", ["original", "lmms-eval"])
def test_prompts(tmp_path, profile):
    write(tmp_path)
    found = prompts(load_task("seed_image", tmp_path, {"prompt": profile}))
    assert found["101"] == f"<image>What is 101?\nA. a 101\nB. b 101\nC. c 101\nD. d 101\n{LETTER}"


def test_scores(tmp_path):
    write(tmp_path)
    values, parsed = scored(
        load_task("seed_image", tmp_path), {"101": "A. a", "102": "Apple", "104": "The answer is D"}
    )
    assert parsed == {"101": "A", "102": "A", "104": None}
    assert (values["accuracy"], values["n_unparsed"]) == (pytest.approx(1 / 3), 1)
    assert (values["scene_understanding/accuracy"], values["text_understanding/accuracy"]) == (0.5, 0)
    values, _ = scored(load_task("seed_image", tmp_path, {"parser": "vlmevalkit"}), {"104": "The answer is D"})
    assert values["accuracy"] == 1


def test_broken_rows(tmp_path):
    write(tmp_path, {"101": {"answer": None}, "102": {"image": None}, "104": {"image": [], "question_type_id": None}})
    task = load_task("seed_image", tmp_path)
    assert [document[FAULT] for document in documents(task)] == ["answer is null", "image is null", "image is null"]
    assert [request.fault for request in build_requests(task, tmp_path / "i")] == [
        "answer is null",
        "image is null",
        "image is null",
    ]
    assert scored(task, {"104": "D"})[0]["accuracy"] == 1


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("seed_image", tmp_path), RIGHT)


def test_the_release(tmp_path):
    folder = tmp_path / "release"
    (folder / "SEED-Bench-image").mkdir(parents=True)
    for number, name in enumerate(("42_7", "43_8")):
        (folder / "SEED-Bench-image" / name).write_bytes(jpeg(number))
    (folder / "SEED-Bench.json").write_text(
        json.dumps({"questions": ROWS, "question_type": {"Scene Understanding": 1}})
    )
    write(tmp_path / "hub")
    check_data("seed_image", folder)
    release, hub = load_task("seed_image", folder), load_task("seed_image", tmp_path / "hub")
    assert prompts(release) == prompts(hub)
    assert scored(release, RIGHT) == scored(hub, RIGHT)
    assert [request.images[0].load().size for request in build_requests(release, tmp_path)] == [(32, 24)] * 3


def test_a_damaged_release(tmp_path):
    (tmp_path / "SEED-Bench.json").write_text('{"questions": 3}')
    with pytest.raises(UsageError, match="no list of questions"):
        check_data("seed_image", tmp_path)


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("seed_image", tmp_path / "data", tmp_path / "runs")
