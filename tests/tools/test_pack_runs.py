"""What of runs is committed."""

import gzip
import json

import pack_runs


def test_records_come_back_with_their_folders_and_equal_bytes(tmp_path):
    for name in ("b", "a/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({"run_id": name, "note": "é"}))
    rows = pack_runs.records(tmp_path)
    assert rows == [
        {"directory": "a/c", "run_id": "a/c", "note": "é"},
        {"directory": "b", "run_id": "b", "note": "é"},
    ]
    for file in (tmp_path / "one.gz", tmp_path / "two.gz"):
        pack_runs.write_records(rows, file)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    written = gzip.decompress((tmp_path / "one.gz").read_bytes()).decode()
    assert [json.loads(line) for line in written.splitlines()] == rows
