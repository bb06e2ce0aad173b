"""Boards with numbers of six digits."""

import gzip
import json
from pathlib import Path

import pytest
import round_board

from sinkbench.errors import UsageError
from sinkbench.leaderboard.files import read_board

RESULTS = Path(__file__).parents[2] / "results"


def test_floats_have_six_digits_and_nothing_else_changes():
    given = {"a": [0.1234567, -1234567.8, 2.0, None], "n": 12345678, "s": "0.1234567", "yes": True}
    assert round_board.rounded(given) == {
        **{"a": [0.123457, -1234570.0, 2.0, None], "n": 12345678, "s": "0.1234567", "yes": True}
    }


@pytest.mark.parametrize("name", ["methods", "pruning"])
def test_the_committed_boards_are_what_it_writes(name, tmp_path, monkeypatch):
    committed = RESULTS / name / "board.json.gz"
    (tmp_path / "board.json").write_text(json.dumps(read_board(committed)))
    monkeypatch.setattr("sys.argv", ["round_board", str(tmp_path / "board.json"), str(tmp_path / "out" / "b.json.gz")])
    round_board.main()
    written = tmp_path / "out" / "b.json.gz"
    assert gzip.decompress(written.read_bytes()) == gzip.decompress(committed.read_bytes())


def test_what_is_no_board_is_refused(tmp_path, monkeypatch):
    (tmp_path / "board.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["round_board", str(tmp_path / "board.json"), str(tmp_path / "out.json.gz")])
    with pytest.raises(UsageError, match="no board"):
        round_board.main()
    assert not (tmp_path / "out.json.gz").exists()
