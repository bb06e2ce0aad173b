"""The JSON: complete after every entry, and read back only if it is one."""

import json

import pytest

from sinkbench.bench.record import Record, read_record
from sinkbench.errors import UsageError

HEADER = {"model": {"name": "tiny", "dtype": "float32"}, "device": "cpu"}


def entry(method, rate):
    return {
        "workload": "pope",
        "batch_size": 4,
        "batch": 4,
        "parameters": {},
        "method": method,
        "leaves_prefix": True,
        "answers_per_s": rate,
    }


def test_the_file_holds_every_entry_at_once(tmp_path):
    path = tmp_path / "results" / "tiny.json"
    record = Record(path, HEADER)
    assert read_record(path)["status"] == "started"
    for number, method in enumerate(("greedy", "var"), 1):
        record.add("rows", entry(method, 10.0 / number))
        assert len(read_record(path)["rows"]) == number
    assert read_record(path)["rows"][1]["ratio_to_greedy"]["answers_per_s"] == 0.5
    assert read_record(path)["targets"][0]["met"] is False
    record.finish()
    assert read_record(path)["status"] == "finished"
    assert [file.name for file in path.parent.iterdir()] == ["tiny.json"]


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = Record(None, HEADER)
    record.add("rows", entry("greedy", 1.0))
    assert record.content["rows"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Record(tmp_path / "file" / "tiny.json", HEADER)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"schema_version": 1}), json.dumps({"schema_version": 99})])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UsageError, match=r"other\.json"):
        read_record(tmp_path / "other.json")
