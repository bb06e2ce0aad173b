"""What there is of a task's data: counted, named, and not stopping at the first fault."""

import json

import pytest
from hub_data import embedded, jpeg
from pope_folder import image_name, pope_questions, write_lines, write_pope
from scenes_folder import read_rows, truncate, write_rows, write_scenes
from table_task import colour_rows, fake_hub, install, write_colours

from sinkbench.errors import UsageError
from sinkbench.tasks import hub, load_task, task_fingerprint
from sinkbench.tasks.checkup import check_up


@pytest.fixture
def colours(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path / "tasks")
    return tmp_path / "data"


def test_a_whole_table(colours):
    write_colours(colours)
    found = check_up("colours", colours, decode=True)
    assert found.is_whole
    assert [(name, rows) for name, rows, _ in found.files] == [("data/test-00000-of-00001.parquet", 4)]
    assert (found.n_rows, found.n_images, found.values) == (4, 4, {"answer": {"red": 2, "blue": 2}})
    assert found.fingerprint == task_fingerprint(load_task("colours", colours))


def test_broken_rows_and_images_of_a_table(colours):
    write_colours(colours, {1: {"answer": None}, 2: {"image": embedded(jpeg(1)[:400])}, 3: {"question": None}})
    found = check_up("colours", colours)
    assert found.broken == {"a-1": "answer is null", "a-3": "question is null"}
    assert not found.undecodable
    assert not found.is_whole
    found = check_up("colours", colours, decode=True)
    assert list(found.undecodable) == ["image of a-2"]
    assert (found.n_images, found.missing) == (4, [])


def test_every_strange_row_of_a_table_is_named(colours):
    (colours / "images").mkdir(parents=True)
    rows = [{**row, "image": f"{index}.jpg"} for index, row in enumerate(colour_rows(5))]
    rows[1]["answer"], rows[3]["question"] = "green", 3
    del rows[4]["scene"]
    (colours / "colours.json").write_text(json.dumps(rows))
    found = check_up("colours", colours)
    assert found.errors == [
        "row 2: column 'answer' must be one of red, blue, not 'green'",
        "row 4: column 'question' must be a string, not 3",
        "row 5: column 'scene' is missing (found: part, number, question, answer, hint, image)",
    ]
    assert (found.fingerprint, found.n_rows) == ("", 0)
    assert [(name, n) for name, n, _ in found.files] == [("colours.json", 5)]


def test_missing_images_of_a_table(colours):
    (colours / "images").mkdir(parents=True)
    (colours / "images" / "0.jpg").write_bytes(jpeg(0))
    write_lines(colours / "colours.jsonl", [{**row, "image": f"{i % 3}.jpg"} for i, row in enumerate(colour_rows())])
    found = check_up("colours", colours)
    assert (found.n_images, found.missing) == (3, ["1.jpg", "2.jpg"])
    assert (found.n_rows, found.broken, found.errors) == (4, {}, [])


def test_a_folder_that_is_no_data(colours):
    colours.mkdir()
    found = check_up("colours", colours)
    assert found.errors == [f"{colours} holds no data of colours"]
    with pytest.raises(UsageError, match="does not exist"):
        check_up("colours", colours / "none")


def test_the_hub_cache_is_looked_at_and_nothing_is_fetched(colours, monkeypatch, tmp_path):
    snapshot = fake_hub(monkeypatch, tmp_path / "hub")
    found = check_up("colours")
    assert found.is_whole
    assert (found.place, found.n_rows) == (snapshot, 4)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="cache does not hold the data of colours") as refused:
        check_up("colours")
    assert "sinkbench data export colours --out DIR" in refused.value.hint


def test_a_shard_that_is_not_there(colours, monkeypatch, tmp_path):
    files = write_colours(colours, shards=2)
    files[1].unlink()
    found = check_up("colours", colours)
    assert found.errors == ["test-00001-of-00002.parquet is missing"]
    assert found.n_rows == 2


def test_a_broken_download_is_no_copy(colours, monkeypatch, tmp_path):
    snapshot = fake_hub(monkeypatch, tmp_path / "hub", shards=2)
    assert hub.cached_snapshot("somebody/colours", "data/test-*.parquet") == snapshot
    (snapshot / "data" / "test-00000-of-00002.parquet").unlink()
    assert hub.cached_snapshot("somebody/colours", "data/test-*.parquet") is None


def test_pope(tmp_path):
    write_pope(tmp_path)
    (tmp_path / image_name(0)).write_bytes(jpeg())
    found = check_up("pope", tmp_path)
    assert (found.n_rows, found.n_images, found.missing) == (12, 2, [image_name(1)])
    assert [(name, n) for name, n, _ in found.files] == [
        (f"coco_pope_{split}.json", 4) for split in ("adversarial", "popular", "random")
    ]


def test_every_strange_row_of_pope_is_named(tmp_path):
    rows = pope_questions("random")
    rows[0]["label"], rows[2]["text"] = "maybe", 3
    write_lines(write_pope(tmp_path) / "coco_pope_random.json", rows)
    errors = check_up("pope", tmp_path).errors
    assert len(errors) == 2
    assert "must be one of yes, no, not 'maybe'" in errors[0]
    assert "must be a string, not 3" in errors[1]


def test_scenes(tmp_path):
    folder = write_scenes(tmp_path / "scenes", 3)
    truncate(folder / "images" / "000002.jpg")
    (folder / "images" / "000003.jpg").unlink()
    assert check_up("scenes_pope", folder).missing == ["000003.jpg"]
    found = check_up("scenes_pope", folder, decode=True)
    assert list(found.undecodable) == ["000002.jpg"]
    assert found.values == {
        "answer": {"yes": 15, "no": 12},
        "category": {"random": 9, "popular": 9, "adversarial": 9},
    }
    rows = read_rows(folder / "pope.jsonl")
    rows[0]["answer"] = rows[5]["category"] = "?"
    write_rows(folder / "pope.jsonl", rows)
    assert [error.partition(":")[0] for error in check_up("scenes_pope", folder).errors] == [
        "pope.jsonl, line 1",
        "pope.jsonl, line 6",
    ]


def test_the_shipped_scenes_are_whole():
    found = check_up("scenes_text")
    assert found.is_whole
    assert found.n_rows > 0
