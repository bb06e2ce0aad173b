"""Packed files are read as if they were plain, and a plain one beside it wins."""

import gzip

import pytest

from sinkbench.paths import read_packed


def test_a_packed_file_stands_for_the_plain_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("grün\n".encode()))
    assert read_packed(path) == "grün\n"
    path.write_text("plain")
    assert read_packed(path) == "plain"
    with pytest.raises(FileNotFoundError, match=r"other\.jsonl"):
        read_packed(tmp_path / "other.jsonl")
