"""Files of answers: every form gives the same rows, and damaged ones are named."""

import gzip
import json
import sys

import pytest

from sinkbench.errors import UsageError
from sinkbench.importing.formats import read_answers

ROWS = [{"question_id": "1", "text": "Yes, a dog.\nReally\u2028so"}, {"question_id": "2", "text": "No"}]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", lines(ROWS), "JSON lines"),
        ("a.jsonl", "\ufeff" + lines(ROWS).replace("\n", "\r\n\n"), "JSON lines"),
        ("a.txt", lines(ROWS), "JSON lines"),
        ("a.json", json.dumps(ROWS), "JSON"),
        ("a.tsv", 'question_id\ttext\n1\t"Yes, a dog.\nReally\u2028so"\n2\tNo\n', "TSV"),
        ("a.csv", 'question_id,text\n1,"Yes, a dog.\nReally\u2028so"\n2,No\n', "CSV"),
    ],
)
def test_forms(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content.encode())
    sheet = read_answers(tmp_path / name)
    assert (sheet.rows, sheet.format) == (ROWS, kind)


def test_answers_by_id_and_a_single_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"v1_0": "two", "v1_1": "three"}))
    assert read_answers(tmp_path / "a.json").rows == [
        {"question_id": "v1_0", "answer": "two"},
        {"question_id": "v1_1", "answer": "three"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": "1", "text": "Yes"}))
    assert read_answers(tmp_path / "a.jsonl").rows == [{"question_id": "1", "text": "Yes"}]


def test_a_packed_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    assert read_answers(tmp_path / "a.jsonl.gz").rows == ROWS


def logged(**changes):
    """As lm-eval 0.4.13 logs a sample."""
    return {
        "doc_id": 0,
        "doc": {"id": "random-1", "question": "Is there a dog?", "answer": "yes"},
        "target": "yes",
        "arguments": {"gen_args_0": {"arg_0": "USER: <image>Is there a dog? ASSISTANT:", "arg_1": {}}},
        "resps": [["Yes"]],
        "filtered_resps": ["yes"],
        "filter": "none",
        **changes,
    }


def test_logged_samples(tmp_path):
    (tmp_path / "samples_pope.jsonl").write_text(lines([logged(), logged(filter="strip"), logged(resps=[["No"]])]))
    sheet = read_answers(tmp_path / "samples_pope.jsonl")
    assert sheet.format == "samples of lm-eval or lmms-eval"
    assert [row["resps"] for row in sheet.rows] == ["Yes", "No"]
    assert sheet.rows[0] == {
        "id": "random-1",
        "question": "Is there a dog?",
        "answer": "yes",
        "prompt": "USER: <image>Is there a dog? ASSISTANT:",
        "resps": "Yes",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [({"doc": None}, "`doc_id` is a position"), ({"resps": [["Yes", "No"]]}, "sample 1 holds 2 answers")],
)
def test_samples_that_cannot_be_used(tmp_path, change, words):
    (tmp_path / "a.jsonl").write_text(lines([logged(**change)]))
    with pytest.raises(UsageError, match=words):
        read_answers(tmp_path / "a.jsonl")


def test_excel(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (the extra xlsx)")
    book = openpyxl.Workbook()
    for line in (("index", "question", "prediction"), (17, "Is there a dog?", "Yes"), (18.0, "Is it red?", None)):
        book.active.append(line)
    book.save(tmp_path / "a.xlsx")
    sheet = read_answers(tmp_path / "a.xlsx")
    assert sheet.format == "Excel"
    assert [list(row.values()) for row in sheet.rows] == [[17, "Is there a dog?", "Yes"], [18, "Is it red?", None]]
    (tmp_path / "b.xlsx").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="no readable Excel file"):
        read_answers(tmp_path / "b.xlsx")


def test_excel_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(UsageError, match="needs openpyxl") as refused:
        read_answers(tmp_path / "a.xlsx")
    assert "pip install 'sinkbench[xlsx]'" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "holds no answers"),
        ("a.tsv", b"question_id\ttext\n", "holds no answers"),
        ("a.jsonl", b'{"text": "Yes"}\n{"text"', "line 2: no valid JSON"),
        ("a.json", b"[1, 2]", "no list of JSON objects"),
        ("a.json", b"3", "no list of JSON objects"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as refused:
        read_answers(tmp_path / name)
    assert refused.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_answers(tmp_path / "none.jsonl")
