"""What of runs is committed: their board, and every run.json in one file.

    python tools/pack_runs.py runs/demo results/demo

writes board.json.gz, board.md and runs.jsonl.gz (a line each run.json, with the run's folder under "directory").
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

from sinkbench.leaderboard.board import build
from sinkbench.leaderboard.files import write_board
from sinkbench.leaderboard.table import markdown


def records(folder: Path) -> list[dict[str, Any]]:
    """The run.json of every run below a folder, by directory."""
    named = ((file.parent.relative_to(folder), file) for file in sorted(folder.rglob("run.json")))
    return [{"directory": name.as_posix(), **json.loads(file.read_text("utf-8"))} for name, file in named]


def write_records(rows: list[dict[str, Any]], path: Path) -> None:
    """Write them; equal records give equal bytes."""
    lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    board = build(arguments.runs)
    write_board(board, arguments.results / "board.json.gz")
    (arguments.results / "board.md").write_text(markdown(board), "utf-8")
    write_records(records(arguments.runs), arguments.results / "runs.jsonl.gz")


if __name__ == "__main__":
    main()
