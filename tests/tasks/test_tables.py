"""Tables: parquet, JSON, JSON lines and TSV become the same documents, and what is broken is told."""

import base64
import json

import pytest
from hub_data import embedded, jpeg, write_parquet

from sinkbench.errors import UsageError
from sinkbench.tasks import hub
from sinkbench.tasks.images import ImageFiles, open_images
from sinkbench.tasks.layout import FAULT, Layout
from sinkbench.tasks.tables import check_table, read_table

SETTINGS = {
    "task": "colours",
    "hub": "somebody/colours",
    "hub_fallback": "",
    "files": "data/test-*.parquet",
    "columns": {"question": "string", "answer": ["red", "blue"], "hint": "string?"},
    "id": ["part", "number"],
    "cluster": "scene",
}


def rows(n=3):
    return [
        {
            "part": "a",
            "number": index,
            "scene": f"scene {index // 2}",
            "question": f"what colour is {index} ?",
            "answer": "red",
            "hint": None,
            "other": 7,
        }
        for index in range(n)
    ]


def parquet(folder, changes=(), name="data/test-00000-of-00001.parquet"):
    from datasets import Image, Value

    kinds = {"number": Value("int32"), "other": Value("int64"), "image": Image()}
    table = [{**row, "image": embedded(jpeg(index))} for index, row in enumerate(rows())]
    for index, change in changes:
        table[index] |= change
    features = {column: kinds.get(column, Value("string")) for column in table[0]}
    return write_parquet(folder, name, table, features)


def listed(settings, folder):
    return list(read_table(settings, folder))


def check_documents(documents, tmp_path):
    assert [each["id"] for each in documents] == ["a-0", "a-1", "a-2"]
    assert [each["cluster"] for each in documents] == ["scene 0", "scene 0", "scene 1"]
    assert [each[FAULT] for each in documents] == [""] * 3
    assert [each["question"] for each in documents] == [row["question"] for row in rows()]
    files = ImageFiles(tmp_path / "written")
    assert [files.refer(each)[0].load().size for each in documents] == [(32, 24)] * 3
    assert len({files.refer(each)[0].key for each in documents}) == 3
    assert [image.size for each in documents for image in open_images(each)] == [(32, 24)] * 3


def test_parquet_of_the_hub(tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "datasets--somebody--colours"
    parquet(cache / "snapshots" / "abc123")
    parquet(cache / "snapshots" / "def456", [(0, {"question": "another ?"})])
    (cache / "refs").mkdir()
    (cache / "refs" / "v1").write_text("abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    check_table({**SETTINGS, "revision": "v1"}, None, "colours")
    check_documents(listed({**SETTINGS, "revision": "v1"}, None), tmp_path)
    assert listed({**SETTINGS, "revision": "def456"}, None)[0]["question"] == "another ?"


def test_parquet_of_a_folder(tmp_path):
    parquet(tmp_path / "data", name="any.parquet")
    check_table(SETTINGS, tmp_path / "data", "colours")
    check_documents(listed(SETTINGS, tmp_path / "data"), tmp_path)


def write_files(folder):
    folder.mkdir()
    (folder / "images").mkdir()
    table = []
    for index, row in enumerate(rows()):
        (folder / "images" / f"{index}.jpg").write_bytes(jpeg(index))
        table.append({**row, "image": f"{index}.jpg"})
    return table


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_beside_images(tmp_path, kind):
    table = write_files(tmp_path / "data")
    text = json.dumps(table) if kind == "json" else "".join(json.dumps(row) + "\n" for row in table)
    (tmp_path / "data" / f"colours.{kind}").write_text(text)
    check_table(SETTINGS, tmp_path / "data", "colours")
    check_documents(listed(SETTINGS, tmp_path / "data"), tmp_path)


def test_tsv_with_images_in_base64(tmp_path):
    header = ["index", "part", "number", "scene", "question", "answer", "image"]
    lines = ["\t".join(header)]
    for index, row in enumerate(rows()):
        content = base64.b64encode(jpeg(index)).decode()
        lines.append("\t".join([str(index), *(str(row[column]) for column in header[1:-1]), content]))
    (tmp_path / "colours.tsv").write_text("\n".join(lines) + "\n")
    check_documents(listed(SETTINGS, tmp_path), tmp_path)


def test_an_image_cell_may_name_the_row_that_has_it(tmp_path):
    table = [{**row, "index": index, "image": base64.b64encode(jpeg(1)).decode()} for index, row in enumerate(rows(1))]
    table.append({**table[0], "number": 9, "index": 1, "image": "0"})
    (tmp_path / "colours.json").write_text(json.dumps(table))
    files = ImageFiles(tmp_path / "written")
    assert len({files.refer(each)[0].key for each in listed(SETTINGS, tmp_path)}) == 1


def test_several_images(tmp_path):
    table = write_files(tmp_path / "data")
    table[0]["image"] = ["0.jpg", "1.jpg"]
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    documents = listed(SETTINGS, tmp_path / "data")
    files = ImageFiles(tmp_path / "written")
    assert [len(files.refer(each)) for each in documents] == [2, 1, 1]
    assert files.refer(documents[0])[1] == files.refer(documents[1])[0]


def test_rows_to_keep(tmp_path):
    parquet(tmp_path / "data", [(1, {"part": "b"})])
    settings = {**SETTINGS, "keep": {"part": "a"}}
    assert [each["id"] for each in listed(settings, tmp_path / "data")] == ["a-0", "a-2"]
    table = write_files(tmp_path / "files")
    table[1]["part"] = "b"
    (tmp_path / "files" / "colours.json").write_text(json.dumps(table))
    assert [each["id"] for each in listed(settings, tmp_path / "files")] == ["a-0", "a-2"]


def test_a_null_is_the_rows_fault_alone(tmp_path):
    parquet(tmp_path / "data", [(1, {"answer": None}), (2, {"image": None})])
    assert [each[FAULT] for each in listed(SETTINGS, tmp_path / "data")] == ["", "answer is null", "image is null"]
    table = write_files(tmp_path / "files")
    table[1]["answer"], table[2]["image"] = None, None
    (tmp_path / "files" / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    assert [each[FAULT] for each in listed(SETTINGS, tmp_path / "files")] == ["", "answer is null", "image is null"]


def test_a_row_without_any_image(tmp_path):
    from datasets import Image, List, Value

    table = [{**row, "image": [embedded(jpeg(index))] * index} for index, row in enumerate(rows())]
    features = {"number": Value("int32"), "other": Value("int64"), "image": List(Image())}
    features = {column: features.get(column, Value("string")) for column in table[0]}
    write_parquet(tmp_path / "data", "data/test-0.parquet", table, features)
    assert [each[FAULT] for each in listed(SETTINGS, tmp_path / "data")] == ["image is null", "", ""]
    table = write_files(tmp_path / "files")
    table[1]["image"] = []
    (tmp_path / "files" / "colours.json").write_text(json.dumps(table))
    assert [each[FAULT] for each in listed(SETTINGS, tmp_path / "files")] == ["", "image is empty", ""]


def test_columns_by_other_names(tmp_path):
    settings = {**SETTINGS, "rename": {"says": "answer", "asks": "question"}}
    parquet(tmp_path / "data")
    assert listed(settings, tmp_path / "data") == listed(SETTINGS, tmp_path / "data")
    table = [{("asks" if key == "question" else key): value for key, value in row.items()} for row in rows()]
    written = write_files(tmp_path / "files")
    named = [{**row, "image": image["image"]} for row, image in zip(table, written, strict=True)]
    (tmp_path / "files" / "colours.json").write_text(json.dumps(named))
    check_table(settings, tmp_path / "files", "colours")
    check_documents(listed(settings, tmp_path / "files"), tmp_path)


def test_rows_without_id_are_numbered_and_stand_for_themselves(tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key not in ("id", "cluster")}
    parquet(tmp_path / "data")
    (tmp_path / "files").mkdir()
    table = [{**row, "image": f"{index}.jpg"} for index, row in enumerate(rows())]
    (tmp_path / "files" / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "files" / "colours.json").write_text(json.dumps(table))
    for folder in ("data", "files"):
        found = [(each["id"], each["cluster"]) for each in listed(settings, tmp_path / folder)]
        assert found == [("0", "0"), ("1", "1"), ("2", "2")]


def test_an_optional_column_that_the_first_row_lacks(tmp_path):
    table = write_files(tmp_path / "data")
    del table[0]["hint"]
    table[1]["hint"] = "Look."
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    assert [each["hint"] for each in listed(SETTINGS, tmp_path / "data")] == [None, "Look.", None]


def test_a_cluster_that_may_be_absent(tmp_path):
    parquet(tmp_path / "data", [(1, {"scene": None})])
    for column, clusters in (("scene?", ["scene 0", "a-1", "scene 1"]), ("place?", ["a-0", "a-1", "a-2"])):
        found = listed({**SETTINGS, "cluster": column}, tmp_path / "data")
        assert [each["cluster"] for each in found] == clusters
        assert [each[FAULT] for each in found] == [""] * 3


def test_a_missing_file_fails_its_own_sample(tmp_path):
    table = write_files(tmp_path / "data")
    (tmp_path / "data" / "images" / "1.jpg").unlink()
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    references = [ImageFiles(tmp_path).refer(each)[0] for each in listed(SETTINGS, tmp_path / "data")]
    assert [bool(reference.sha256) for reference in references] == [True, False, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": "green"}, "column 'answer' must be one of red, blue, not 'green'"),
        ({"question": 3}, "column 'question' must be a string, not 3"),
        ({"number": 0}, "holds part and number a-0 more than once"),
    ],
)
def test_what_is_wrong_with_the_data_as_a_whole(tmp_path, change, words):
    table = write_files(tmp_path / "data")
    table[1] |= change
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    for read in (
        lambda: check_table(SETTINGS, tmp_path / "data", "colours"),
        lambda: listed(SETTINGS, tmp_path / "data"),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            read()
        assert "--data-dir" in refused.value.hint


def test_folders_without_the_data(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        check_table(SETTINGS, tmp_path / "none", "colours")
    with pytest.raises(UsageError, match="holds no data of colours"):
        check_table(SETTINGS, tmp_path, "colours")
    table = write_files(tmp_path / "data")
    del table[0]["scene"]
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match="row 1: column 'scene' is missing"):
        check_table(SETTINGS, tmp_path / "data", "colours")
    (tmp_path / "data" / "colours.json").write_text("{1}")
    with pytest.raises(UsageError, match="line 1: no valid JSON"):
        check_table(SETTINGS, tmp_path / "data", "colours")
    parquet(tmp_path / "hub")
    with pytest.raises(UsageError, match="columns place are missing"):
        check_table({**SETTINGS, "cluster": "place"}, tmp_path / "hub", "colours")


def test_parquet_that_is_damaged_within(tmp_path):
    path = parquet(tmp_path, name="any.parquet")
    content = bytearray(path.read_bytes())
    content[4:300] = bytes(296)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        listed(SETTINGS, tmp_path)


def test_scoring_needs_no_images(tmp_path):
    table = write_files(tmp_path / "data")
    (tmp_path / "data" / "colours.json").write_text(json.dumps(table))
    for image in (tmp_path / "data" / "images").iterdir():
        image.unlink()
    with pytest.raises(UsageError, match="none of the 3 images"):
        listed(SETTINGS, tmp_path / "data")
    documents = listed({**SETTINGS, "images_needed": False}, tmp_path / "data")
    assert [each["id"] for each in documents] == ["a-0", "a-1", "a-2"]


def test_line_separators_within_json_are_no_line_ends(tmp_path):
    table = write_files(tmp_path / "data")
    table[0]["question"] = "one\u2028two\x85three"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in table)
    (tmp_path / "data" / "colours.jsonl").write_text(lines, newline="")
    assert listed(SETTINGS, tmp_path / "data")[0]["question"] == "one\u2028two\x85three"


def test_a_layout_says_what_a_folder_must_hold():
    about = Layout.of(SETTINGS).about
    assert all(column in about for column in ("question", "answer", "image"))
