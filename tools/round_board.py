"""What of a large board is committed: its numbers rounded.

    python tools/round_board.py board.json results/methods/board.json.gz

writes the board with six significant digits, which is half as large once compressed.
"""

import argparse
from pathlib import Path
from typing import Any

from sinkbench.leaderboard.files import read_board, write_board

DIGITS = 6


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """The same with every float, at whatever depth, to so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    return [rounded(entry, digits) for entry in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    write_board(rounded(read_board(arguments.board)), arguments.output)


if __name__ == "__main__":
    main()
