"""Rows of a task from JSON, JSON lines, TSV or a benchmark's own release, beside a folder of images."""

import base64
import binascii
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import read_packed
from sinkbench.tasks.layout import FAULT, IMAGE_FOLDERS, Layout, Row, row_ids
from sinkbench.tasks.rows import KINDS

_FILES = ("*.parquet", "*.jsonl", "*.json", "*.tsv")
_SHORTEST = 64
"""Characters from which on text that names no file is taken for an image in base64."""


def rows_of(folder: Path, layout: Layout) -> list[Row]:
    """Rows of a release or of files in the hub's schema, not checked."""
    from sinkbench.tasks.releases import RELEASES

    rows = RELEASES[layout.release](folder, layout) if layout.release else None
    if rows is None:
        files = sorted(path for pattern in _FILES for path in folder.glob(pattern))
        if not files:
            raise UsageError(f"{folder} holds no data of {layout.task}", layout.hint)
        rows = [row for path in files for row in read_file(path, layout)]
    rows = [_renamed(row, layout) for row in rows]
    rows = [row for row in rows if all(row.get(column) == value for column, value in layout.keep.items())]
    if not rows:
        raise UsageError(f"{folder} holds no rows of {layout.task}", layout.hint)
    for column, name in layout.fields.items():
        for row in rows:
            if isinstance(row.get(column), list):
                row[column] = [entry.get(name) if isinstance(entry, dict) else entry for entry in row[column]]
    return rows


def _renamed(row: Row, layout: Layout) -> Row:
    names = layout.new_names(row)
    return {names.get(name, name): value for name, value in row.items()}


def documents_of(folder: Path, layout: Layout) -> list[Row]:
    """Those rows, checked, with the common columns."""
    rows = rows_of(folder, layout)
    faults = [_fault(row, layout, number, folder) for number, row in enumerate(rows, start=1)]
    ids = row_ids([[row.get(column) for row in rows] for column in layout.id], len(rows), layout, folder)
    clusters = layout.clusters((row.get(layout.cluster.removesuffix("?")) for row in rows), ids)
    images = _Images(folder, layout, rows) if layout.image else None
    documents = []
    for row, id, cluster, fault in zip(rows, ids, clusters, faults, strict=True):
        common = {"id": id, "cluster": cluster, FAULT: fault}
        content = {key: row.get(key) for key in layout.named()}
        documents.append({**content, **common, **(images.of(row) if images else {})})
    return documents


def read_file(path: Path, layout: Layout) -> list[Row]:
    """Rows of a JSON list, JSON lines or a TSV file with a header.

    Raises:
        UsageError: It cannot be read or parsed; names the line.
    """
    text = read_text(path, layout)
    if path.suffix == ".tsv":
        return list(_tsv_rows(text))
    try:
        whole = json.loads(text)
        rows = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        rows = [_json_line(line, f"{path}, line {number}", layout) for number, line in _numbered(text)]
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UsageError(f"{path}, row {wrong}: expected a JSON object", layout.hint)
    return rows


def read_text(path: Path, layout: Layout) -> str:
    """A file's text, from the file or from PATH.gz.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return read_packed(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", layout.hint) from error


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    # Not splitlines: JSON strings may hold U+2028 and its kin.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _json_line(line: str, where: str, layout: Layout) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: no valid JSON ({error})", layout.hint) from error


def _tsv_rows(text: str) -> Iterator[Row]:
    """Cells that are empty are null; numbers stay text, since VLMEvalKit's tables do not say which columns hold any."""
    csv.field_size_limit(sys.maxsize)
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"):
        yield {key: value or None for key, value in row.items() if key is not None}


def _fault(row: Row, layout: Layout, number: int, folder: Path) -> str:
    """Why a row is broken: a null or an empty list. What is strange about a row is the whole data set's error."""
    if problem := strange(row, layout):
        raise UsageError(f"{folder}, row {number}: {problem}", layout.hint)
    nulls = [f"{column} is null" for column in _needed(layout) if row[column] is None]
    listed = [*layout.filled(), *([layout.image] if layout.image else [])]
    empty = [f"{column} is empty" for column in listed if row[column] == []]
    holes = [
        f"{column} holds a null"
        for column in layout.columns
        if isinstance(each := row.get(column), list) and None in each
    ]
    return next(iter([*nulls, *empty, *holes]), "")


def _needed(layout: Layout) -> list[str]:
    return [*layout.required(), *([layout.image] if layout.image else [])]


def strange(row: Row, layout: Layout) -> str:
    """Which column of a row is not there or of another kind; empty if none is."""
    for column in _needed(layout):
        if column not in row:
            return f"column {column!r} is missing (found: {', '.join(row)})"
    for column, kind in layout.columns.items():
        value = row.get(column)
        if value is None:
            continue
        if isinstance(kind, list):
            known, allowed = f"one of {', '.join(map(str, kind))}", value in kind
        else:
            known, fits = KINDS[kind.rstrip("?+")]
            allowed = fits([entry for entry in value if entry is not None] if isinstance(value, list) else value)
        if not allowed:
            return f"column {column!r} must be {known}, not {value!r}"
    return ""


class _Images:
    """Finds the images of rows: files beside the table, or base64 in it.

    Args:
        folder: The data's folder.
        layout: What the table is like.
        rows: All rows: in VLMEvalKit's tables an image cell may hold the index of the row that has the image.

    Raises:
        UsageError: There are files to be found, and none of them is there: the folder is the wrong one.
    """

    def __init__(self, folder: Path, layout: Layout, rows: Sequence[Row]) -> None:
        self.folder, self.column = folder, layout.image
        self._known: dict[str, str] = {}
        self.by_index = {str(row["index"]): row[layout.image] for row in rows if row.get("index") is not None}
        named = [name for row in rows for name in self._named(row) if not self._embedded(name)]
        if layout.images_needed and named and not any(self._found(name) for name in dict.fromkeys(named)):
            folders = ", ".join(f"{sub}/" for sub in IMAGE_FOLDERS if sub)
            raise UsageError(
                f"none of the {len({*named})} images is in {folder} or its {folders} (looked for {min(named)})",
                layout.hint,
            )

    def of(self, row: Row) -> Row:
        """The image columns of a document; a file that is missing fails its sample when it is opened."""
        named = self._named(row)
        contents = [self._embedded(name) for name in named]
        if named and all(contents):
            embedded = [{"bytes": content, "path": None} for content in contents]
            return {"image_path": "", "image": embedded[0] if len(embedded) == 1 else embedded}
        paths = [self._found(name) or str(self.folder / name) for name in named]
        return {"image_path": paths[0] if len(paths) == 1 else "", "image_paths": paths if len(paths) > 1 else []}

    def _named(self, row: Row) -> list[str]:
        value = row.get(self.column)
        each = value if isinstance(value, list) else [] if value is None else [value]
        return [str(self.by_index.get(str(name), name)) for name in each]

    def _found(self, name: str) -> str:
        """The path of an image's file; empty where there is none."""
        if name not in self._known:
            paths = (os.path.join(self.folder, sub, name) for sub in IMAGE_FOLDERS)
            self._known[name] = next(filter(os.path.isfile, paths), "")
        return self._known[name]

    def _embedded(self, name: str) -> bytes:
        """The content of base64; empty for anything else."""
        if len(name) < _SHORTEST or self._is_path(name):
            return b""
        try:
            return base64.b64decode(name, validate=True)
        except (binascii.Error, ValueError):
            return b""

    def _is_path(self, name: str) -> bool:
        return "." in name


def features_of(rows: Sequence[Row]) -> Any:
    """Features under which a list of documents becomes a table; None lets `datasets` see for itself."""
    from datasets import Dataset, Image, List

    if not any(row.get("image") for row in rows):
        return None
    several = any(isinstance(row.get("image"), list) for row in rows)
    plain = [{key: value for key, value in row.items() if key != "image"} for row in rows]
    features = Dataset.from_list(plain).features.copy()
    features["image"] = List(Image(decode=False)) if several else Image(decode=False)
    return features
