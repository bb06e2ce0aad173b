"""Data of a benchmark as a table: parquet in the hub's schema, or rows of JSON, JSON lines or TSV beside images.

A task's YAML says under `metadata` what the table is like (`Layout`); the functions here find it, check it and give it
columns that all tasks have in common. What a benchmark's own release looks like is told by a function of
`sinkbench.tasks.releases` that turns it into rows of the hub's schema.
"""

import base64
import binascii
import csv
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.judge import is_judging
from sinkbench.paths import read_packed
from sinkbench.tasks.cells import cells_of
from sinkbench.tasks.hub import check_hub, fetch
from sinkbench.tasks.rows import KINDS, Columns

FAULT = "fault"
"""Column that says why a row cannot be asked or judged; empty for all others. The sample is counted as failed."""

IMAGE_FOLDERS = ("", "images", "train_images", "val", "val2014", "val2017")
"""Where images are looked for in a folder."""

_FILES = ("*.parquet", "*.jsonl", "*.json", "*.tsv")
_SHORTEST = 64
"""Characters from which on text that names no file is taken for an image in base64."""

_OF_PLACES = ("hub", "hub_fallback", "revision", "lists")
"""Parameters that say where data come from; what is asked does not depend on them."""

KEEP_FAULTS = "keep_faults"
"""Setting under which rows with a fault stay in the data, for a caller that counts them."""

Row = dict[str, Any]
Release = Callable[[Path, "Layout"], list[Row] | None]
"""From a folder to rows of the hub's schema; None if the folder holds no such release."""


@dataclass(frozen=True)
class Layout:
    """What a table is like, from `metadata` of a task's YAML and the task's parameters.

    Attributes:
        task: Its task.
        hubs: Data-set ids on the hub, the preferred one first (`hub`, `hub_fallback`).
        revision: Commit, branch or tag there; empty takes the newest.
        files: Glob of the split's parquet files in the hub's repository.
        columns: What each row must hold, by kind (`rows.KINDS`) or list of values; a kind with "?" may be null or
            absent, and a row with an empty list of a kind with "+" has a fault. `columns_if` of the YAML adds columns
            that are needed where a parameter is true (`columns_if: {ocr: {ocr_tokens: strings}}`).
        fields: For a column with a list of objects, the field that is kept of each (`fields: {answers: answer}`).
        id: Columns that together tell rows apart, joined by "-"; none: rows are numbered from 0.
        cluster: The column by which rows share an image, with "?" if it may be absent; a row without one, and every row
            where this is empty, stands for itself.
        image: The column that holds the image or a list of them: embedded, in base64, or the name of a file; empty for
            data without images.
        image_files: Glob of parquet files that hold the images alone, under `image`, each with an "id" that the
            questions' `cluster` names; empty where the questions' own files hold them.
        keep: Values by column; other rows are left out (`keep: {data_type: image}`).
        rename: Other names under which copies of the data hold a column, to the name that the task knows.
        release: Name of a function of `sinkbench.tasks.releases`, or empty.
        about: What a folder given by `--data-dir` must hold, in words.
        settings: All of it, for releases whose rows depend on the task's parameters.
        images_needed: Refuse a folder that has none of the images; scoring needs none.
    """

    task: str
    hubs: tuple[str, ...]
    revision: str
    files: str
    columns: Columns
    fields: Mapping[str, str]
    id: tuple[str, ...]
    cluster: str
    image: str
    image_files: str
    keep: Mapping[str, Any]
    rename: Mapping[str, str]
    release: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    images_needed: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any], task: str = "") -> "Layout":
        """From the `metadata` of a task's YAML, the task's parameters laid over it."""
        hubs = (settings.get("hub", ""), settings.get("hub_fallback", ""))
        id = settings.get("id", ())
        added = [more for name, more in settings.get("columns_if", {}).items() if settings.get(name)]
        columns = {column: kind for each in (settings["columns"], *added) for column, kind in each.items()}
        shown = ", ".join(columns)
        image = settings.get("image", "image")
        return cls(
            task=task or settings.get("task", "this task"),
            hubs=tuple(hub for hub in hubs if hub),
            revision=settings.get("revision", ""),
            files=settings["files"],
            columns=columns,
            fields=settings.get("fields", {}),
            id=(id,) if isinstance(id, str) else tuple(id),
            cluster=settings.get("cluster", ""),
            image=image,
            image_files=settings.get("image_files", ""),
            keep=settings.get("keep", {}),
            rename=settings.get("rename", {}),
            release=settings.get("release", ""),
            about=settings.get("about", "")
            or f"parquet, JSON, JSON-lines or TSV files in the hub's schema ({shown}{', ' + image if image else ''})",
            settings=settings,
            images_needed=settings.get("images_needed", True),
        )

    @property
    def hint(self) -> str:
        """What to type."""
        return f"Give `--data-dir` a folder with {self.about}."

    def named(self) -> list[str]:
        """Columns that documents have, the image's left out."""
        return [name for name in dict.fromkeys([*self.columns, *self.id, self.cluster.removesuffix("?")]) if name]

    def required(self) -> list[str]:
        """Columns that must be there, the image's left out."""
        own = [name for name, kind in self.columns.items() if not (isinstance(kind, str) and kind.endswith("?"))]
        cluster = "" if self.cluster.endswith("?") else self.cluster
        return [name for name in dict.fromkeys([*own, *self.id, cluster]) if name]

    def new_names(self, found: Iterable[str]) -> dict[str, str]:
        """From each column that goes by another name to the task's name for it."""
        known = set(found)
        return {old: new for old, new in self.rename.items() if old in known and new not in known}

    def clusters(self, values: Iterable[Any], ids: Sequence[str]) -> list[str]:
        """The cluster of each row, from its value in the column or None."""
        return [id if value is None else str(value) for value, id in zip(values, ids, strict=True)]

    def filled(self) -> list[str]:
        """Columns with lists that must not be empty."""
        return [name for name, kind in self.columns.items() if isinstance(kind, str) and kind.endswith("+")]


def check_table(settings: Mapping[str, Any], data_dir: str | Path | None, task: str) -> None:
    """Make sure that the data can be read, without decoding images.

    Raises:
        UsageError: They cannot; names the file, line and column, or the hub ids that are out of reach.
    """
    layout = Layout.of(settings, task)
    if data_dir is None:
        for files in filter(None, (layout.files, layout.image_files)):
            check_hub(list(layout.hubs), files, task, layout.about, layout.revision)
        return
    folder = _folder(data_dir, layout)
    if parquet := _parquet_files(folder, layout):
        _check_schema(parquet, layout)
        _image_files(folder, parquet, layout)
    else:
        _documents(folder, layout)


def read_table(settings: Mapping[str, Any], data_dir: str | Path | None, task: str = "") -> Any:
    """The rows as a `datasets.Dataset`, in the order of the files.

    Beside the columns of the data: id (string), cluster (string), fault (see `FAULT`), and image_path: a file, or a
    cell of a parquet file (`cells`), or empty where the image is embedded under "image" ({"bytes", "path"} or a list of
    these); image_paths instead where there are several files. A row with a null in a column that may not be null, or
    without an image, has a fault.

    Args:
        settings: `metadata` of the task's YAML with the task's parameters.
        data_dir: A folder as `Layout.about` describes; None takes the hub's copy.
        task: For messages.

    Raises:
        UsageError: The data cannot be read.
    """
    from datasets import Dataset

    layout = Layout.of(settings, task)
    folder = fetch(list(layout.hubs), layout.files, layout.revision) if data_dir is None else _folder(data_dir, layout)
    if parquet := _parquet_files(folder, layout):
        _check_schema(parquet, layout)
        if data_dir is None and layout.image_files:
            folder = fetch(list(layout.hubs), layout.image_files, layout.revision)
        return _from_parquet(parquet, _image_files(folder, parquet, layout), layout)
    rows = _documents(folder, layout)
    return Dataset.from_list(rows, features=_features(rows))


def task_data(settings: Mapping[str, Any], data_dir: str | Path | None = None) -> dict[str, Any]:
    """What `custom_dataset` of a task's YAML returns: the rows, with the task's parameters among the columns.

    lm-eval knows no failed samples and would score a row with a fault as wrong, or break off. So such rows are left out
    with a warning, unless the settings have `KEEP_FAULTS`, as `load_task`'s do: sinkbench counts them.

    Raises:
        UsageError: The data cannot be read, or no row is sound.
    """
    data = read_table(settings, data_dir)
    if not settings.get(KEEP_FAULTS):
        data = _sound(data, Layout.of(settings))
    for name in settings.get("params", ()):
        if name not in _OF_PLACES and not is_judging(name):
            data = data.add_column(name, [settings[name]] * len(data))
    return {"test": data}


def _sound(data: Any, layout: Layout) -> Any:
    faults = data[FAULT][:]
    broken = [index for index, fault in enumerate(faults) if fault]
    if not broken:
        return data
    first = f"{data[broken[0]]['id']}: {faults[broken[0]]}"
    if len(broken) == len(faults):
        raise UsageError(f"every row is broken, for example {first}", layout.hint)
    logging.getLogger(__name__).warning("%d of %d rows are broken and left out: %s", len(broken), len(faults), first)
    return data.select([index for index, fault in enumerate(faults) if not fault])


def embeds_images(feature: Any) -> bool:
    """Whether a column of a `datasets.Dataset` holds images, one or a list a row."""
    return type(getattr(feature, "feature", feature)).__name__ == "Image"


def _folder(data_dir: str | Path, layout: Layout) -> Path:
    folder = Path(data_dir).absolute()
    if not folder.is_dir():
        raise UsageError(f"data folder {folder} does not exist", layout.hint)
    return folder


def _parquet_files(folder: Path, layout: Layout) -> list[Path]:
    """The split's files; a snapshot of the hub holds other configurations besides."""
    found = sorted(folder.glob(layout.files))
    if found or not layout.image_files:
        return found or sorted(folder.glob("*.parquet"))
    images = set(folder.glob(layout.image_files))
    return [path for path in sorted(folder.glob("*.parquet")) if path not in images and not _holds_images(path, layout)]


def _image_files(folder: Path, questions: Sequence[Path], layout: Layout) -> list[Path]:
    """The files that hold the images of the questions' files.

    Raises:
        UsageError: There are none, or they lack a column.
    """
    if not layout.image_files:
        return list(questions)
    found = sorted(folder.glob(layout.image_files))
    found = found or [path for path in sorted(folder.glob("*.parquet")) if _holds_images(path, layout)]
    if not found:
        raise UsageError(f"{folder} holds no images of {layout.task} ({layout.image_files})", layout.hint)
    _check_columns(found, ["id", layout.image], layout)
    return found


# Parquet


def _holds_images(path: Path, layout: Layout) -> bool:
    return layout.image in _columns_of(path, layout)


def _columns_of(path: Path, layout: Layout) -> list[str]:
    """Names of a file's columns, as the task knows them."""
    found = _own_columns(path, layout)
    renamed = layout.new_names(found)
    return [renamed.get(name, name) for name in found]


def _own_columns(path: Path, layout: Layout) -> list[str]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_schema

    try:
        return list(read_schema(path).names)
    except (OSError, ArrowInvalid) as error:
        raise UsageError(f"{path} is no readable parquet file: {error}", layout.hint) from error


def _check_schema(files: Sequence[Path], layout: Layout) -> None:
    own_image = [layout.image] if layout.image and not layout.image_files else []
    _check_columns(files, [*layout.required(), *own_image], layout)


def _check_columns(files: Sequence[Path], columns: Sequence[str], layout: Layout) -> None:
    for path in files:
        found = _columns_of(path, layout)
        missing = [column for column in columns if column not in found]
        if missing:
            raise UsageError(
                f"{path}: columns {', '.join(missing)} are missing (found: {', '.join(found)})", layout.hint
            )


def _from_parquet(files: Sequence[Path], image_files: Sequence[Path], layout: Layout) -> Any:
    """Read all columns but the images, which stay in their files until they are asked for."""
    from datasets import Dataset

    # By the task's name of a column the file's own.
    renamed = layout.new_names(own := _own_columns(files[0], layout))
    present = {renamed.get(name, name): name for name in own}
    wanted = [name for name in layout.named() if name in present]
    read = open_parquet(files, layout.hint, [present[name] for name in wanted or layout.named()])
    n_rows = len(read)
    read = read.with_format("arrow")[:].combine_chunks()
    columns = {name: _whole(read[present[name]]) for name in wanted}
    columns |= {name: _field(columns[name], field) for name, field in layout.fields.items() if name in columns}
    faults = _null_faults(columns, n_rows, layout)
    if layout.image:
        places = _places(columns, image_files, faults, layout)
    kept = list(range(n_rows))
    for column, value in layout.keep.items():
        found = columns[column].to_pylist()
        kept = [index for index in kept if found[index] == value]
    if not kept:
        raise UsageError(f"{files[0].parent} holds no rows of {layout.task}", layout.hint)
    columns = {name: column.take(kept) for name, column in columns.items()}
    _check_values(columns, layout, files[0].parent)
    ids = _ids([columns[column].to_pylist() for column in layout.id], len(kept), layout, files[0].parent)
    cluster = columns.get(layout.cluster.removesuffix("?"))
    taken = {
        "id": ids,
        "cluster": layout.clusters([None] * len(kept) if cluster is None else cluster.to_pylist(), ids),
        FAULT: [faults[index] for index in kept],
        **({"image_path": [places[index] for index in kept]} if layout.image else {}),
    }
    return Dataset.from_dict({**columns, **taken})


def open_parquet(files: Sequence[Path], hint: str, columns: Sequence[str] | None = None) -> Any:
    """Parquet files as one `datasets.Dataset`.

    Args:
        files: At least one.
        hint: What the user should do about a bad file.
        columns: Which to read; None reads all.

    Raises:
        UsageError: One is damaged beyond its schema, or their schemas differ.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return Dataset.from_parquet([str(path) for path in files], columns=list(columns) if columns else None)
    except DatasetGenerationError as error:
        raise UsageError(f"{files[0].parent} cannot be read: {error.__cause__ or error}", hint) from error


def _whole(column: Any) -> Any:
    """A column in one piece, so that rows keep their numbers."""
    import pyarrow

    return pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)


def _field(lists: Any, name: str) -> Any:
    """Of lists of objects the lists of one field; lists of plain values stay."""
    import pyarrow
    from pyarrow import compute

    if not pyarrow.types.is_struct(lists.type.value_type):
        return lists
    lengths = compute.list_value_length(lists).fill_null(0)
    offsets = pyarrow.array([0, *compute.cumulative_sum(lengths).to_pylist()], "int32")
    return pyarrow.ListArray.from_arrays(offsets, compute.struct_field(lists.flatten(), name), mask=lists.is_null())


def _check_values(columns: Mapping[str, Any], layout: Layout, folder: Path) -> None:
    """Columns with a list of values hold no others."""
    for column, kind in layout.columns.items():
        if isinstance(kind, list) and column in columns:
            found = columns[column].unique().to_pylist()
            strange = [value for value in found if value is not None and value not in kind]
            if strange:
                raise UsageError(
                    f"{folder}: column {column!r} must be one of {', '.join(map(str, kind))}, not {strange[0]!r}",
                    layout.hint,
                )


def _null_faults(columns: Mapping[str, Any], n_rows: int, layout: Layout) -> list[str]:
    """Why each row is broken, or "": a required column is null, a list holds a null or has no entry."""
    import pyarrow
    from pyarrow import compute

    faults = [""] * n_rows

    def blame(rows: Any, reason: str) -> None:
        for index in rows.to_pylist():
            faults[index] = faults[index] or reason

    for name in layout.required():
        blame(compute.indices_nonzero(columns[name].is_null()), f"{name} is null")
    for name in layout.filled():
        empty = compute.equal(compute.list_value_length(columns[name]), 0).fill_null(False)
        blame(compute.indices_nonzero(empty), f"{name} is empty")
    for name in layout.columns:
        if name in columns and pyarrow.types.is_list(columns[name].type):
            nulls = compute.list_flatten(columns[name]).is_null()
            blame(compute.list_parent_indices(columns[name]).filter(nulls), f"{name} holds a null")
    return faults


def _places(columns: Mapping[str, Any], files: Sequence[Path], faults: list[str], layout: Layout) -> list[str]:
    """Where each row's image is; a row without one gets a fault."""
    cells = [cell for path in files for cell in cells_of(path, layout.image)]
    if layout.image_files:
        by_id = dict(zip(_image_ids(files), cells, strict=True))
        cells = [by_id.get(str(image), "") for image in columns[layout.cluster].to_pylist()]
    for index, cell in enumerate(cells):
        if not cell:
            faults[index] = faults[index] or f"{layout.image} is null"
    return cells


def _image_ids(files: Sequence[Path]) -> list[str]:
    from pyarrow.parquet import read_table as read

    return [str(id) for path in files for id in read(path, columns=["id"])["id"].to_pylist()]


def _ids(columns: Sequence[Sequence[Any]], n_rows: int, layout: Layout, folder: Path) -> list[str]:
    if not columns:
        return [str(number) for number in range(n_rows)]
    ids = ["-".join(map(str, parts)) for parts in zip(*columns, strict=True)]
    twice = next((id for id, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{folder} holds {' and '.join(layout.id)} {twice} more than once", layout.hint)
    return ids


# Rows of text


def _rows(folder: Path, layout: Layout) -> list[Row]:
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


def table_problems(settings: Mapping[str, Any], data_dir: str | Path, task: str) -> list[str]:
    """Everything that `check_table` would stop at in the rows of JSON, TSV or a release, one row after the other.

    Raises:
        UsageError: The files cannot be read at all.
    """
    layout = Layout.of(settings, task)
    folder = _folder(data_dir, layout)
    if _parquet_files(folder, layout):
        return []
    found = []
    for number, row in enumerate(_rows(folder, layout), start=1):
        if problem := _strange(row, layout):
            found.append(f"row {number}: {problem}")
    return found


def _documents(folder: Path, layout: Layout) -> list[Row]:
    """Those rows, checked, with the common columns."""
    rows = _rows(folder, layout)
    faults = [_fault(row, layout, number, folder) for number, row in enumerate(rows, start=1)]
    ids = _ids([[row.get(column) for row in rows] for column in layout.id], len(rows), layout, folder)
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
    if problem := _strange(row, layout):
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


def _strange(row: Row, layout: Layout) -> str:
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


def _features(rows: Sequence[Row]) -> Any:
    """Features under which a list of documents becomes a table; None lets `datasets` see for itself."""
    from datasets import Dataset, Image, List

    if not any(row.get("image") for row in rows):
        return None
    several = any(isinstance(row.get("image"), list) for row in rows)
    plain = [{key: value for key, value in row.items() if key != "image"} for row in rows]
    features = Dataset.from_list(plain).features.copy()
    features["image"] = List(Image(decode=False)) if several else Image(decode=False)
    return features
