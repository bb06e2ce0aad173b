"""Boards and what is made of them as files: written whole or not at all, read only if they keep to the schema."""

import gzip
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.schemas import validate

_HINT = "Give a file that `sinkbench leaderboard DIR --json FILE` wrote, or the folder of the runs."


def read_board(path: Path) -> dict[str, Any]:
    """A board from a JSON file, compressed if its name ends in .gz.

    Raises:
        UsageError: It cannot be read, or is no board.
    """
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        board: dict[str, Any] = json.loads(text)
        validate(board, "board")
    except (OSError, EOFError) as error:
        raise UsageError(f"board {path} cannot be read: {getattr(error, 'strerror', None) or error}", _HINT) from error
    except ValueError as error:
        raise UsageError(f"{path} is no board: {error}", _HINT) from error
    return board


def write_board(board: Mapping[str, Any], path: Path) -> None:
    """Write a board as JSON; compressed, compact and the same to the last byte every time if the name ends in .gz.

    Raises:
        UsageError: It cannot be written.
    """
    if path.suffix == ".gz":
        compact = json.dumps(board, separators=(",", ":"), ensure_ascii=False)
        write_bytes(path, gzip.compress(compact.encode(), mtime=0))
    else:
        write_text(path, json.dumps(board, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, hint: str = "Choose another file.") -> None:
    """Replace a file at once, so that nobody sees half of it; its folder is made.

    Args:
        path: The file.
        content: All of it.
        hint: What to do where it cannot be written.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # A pipe or a terminal.
            path.write_bytes(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint) from error
