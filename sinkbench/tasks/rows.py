"""Rows of a task from JSON-lines files, with every complaint naming file, line and column."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import read_packed

Columns = Mapping[str, "str | list[str]"]
"""Column name to its kind, a key of `KINDS`, or to the list of its allowed values."""

KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "integer": ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "key": (
        "an integer or a string",
        lambda value: isinstance(value, int | str) and not isinstance(value, bool),
    ),
    "string": ("a string", lambda value: isinstance(value, str)),
    "strings": (
        "a list of strings",
        lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value),
    ),
    "texts": (
        "a string or a list of strings",
        lambda value: isinstance(value, str) or KINDS["strings"][1](value),
    ),
}


def read_rows(path: Path, columns: Columns, hint: str) -> list[dict[str, Any]]:
    """Read and check a JSON-lines file.

    Args:
        path: The file; blank lines are skipped.
        columns: What every row must hold; further columns are kept unchecked.
        hint: What the user should do about a bad file.

    Raises:
        UsageError: The file is missing or empty, a line is no JSON object, a column is missing or holds the wrong kind
            of value, or an id occurs twice.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[Any, int] = {}
    for number, line in enumerate(_lines(path, hint), start=1):
        if not line.strip():
            continue
        row = parse_row(line, f"{path}, line {number}", hint)
        for column, kind in columns.items():
            _check(row, column, kind, f"{path}, line {number}", hint)
        if "id" in columns:
            first = seen.setdefault(row["id"], number)
            if first != number:
                raise UsageError(f"{path}, line {number}: id {row['id']!r} was used in line {first} already", hint)
        rows.append(row)
    if not rows:
        raise UsageError(f"{path} holds no rows", hint)
    return rows


def row_problems(path: Path, columns: Columns, hint: str) -> list[str]:
    """Everything that `read_rows` would stop at, one line after the other.

    Raises:
        UsageError: The file is missing or cannot be read.
    """
    found = []
    for number, line in enumerate(_lines(path, hint), start=1):
        where = f"{path.name}, line {number}"
        try:
            if line.strip():
                row = parse_row(line, where, hint)
                for column, kind in columns.items():
                    _check(row, column, kind, where, hint)
        except UsageError as error:
            found.append(error.message)
    return found


def parse_row(line: str, where: str, hint: str) -> dict[str, Any]:
    """One JSON object from one line.

    Raises:
        UsageError: The line is no JSON object.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: no valid JSON ({error})", hint) from error
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected a JSON object, found {type(row).__name__}", hint)
    return row


def _lines(path: Path, hint: str) -> list[str]:
    try:
        # Not splitlines: JSON strings may hold U+2028 and its kin.
        return read_packed(path).split("\n")
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint) from error


def _check(row: Mapping[str, Any], column: str, kind: str | list[str], where: str, hint: str) -> None:
    if column not in row:
        raise UsageError(f"{where}: column {column!r} is missing (found: {', '.join(row)})", hint)
    value = row[column]
    if isinstance(kind, list):
        if value not in kind:
            raise UsageError(f"{where}: column {column!r} must be one of {', '.join(kind)}, not {value!r}", hint)
    elif not KINDS[kind][1](value):
        raise UsageError(f"{where}: column {column!r} must be {KINDS[kind][0]}, not {value!r}", hint)
