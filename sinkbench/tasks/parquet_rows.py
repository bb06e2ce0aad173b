"""Rows of a task from parquet files in the hub's schema; images stay in their cells."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.tasks.cells import cells_of
from sinkbench.tasks.layout import FAULT, Layout, row_ids


def parquet_files(folder: Path, layout: Layout) -> list[Path]:
    """The split's files; a snapshot of the hub holds other configurations besides."""
    found = sorted(folder.glob(layout.files))
    if found or not layout.image_files:
        return found or sorted(folder.glob("*.parquet"))
    images = set(folder.glob(layout.image_files))
    return [path for path in sorted(folder.glob("*.parquet")) if path not in images and not _holds_images(path, layout)]


def image_files(folder: Path, questions: Sequence[Path], layout: Layout) -> list[Path]:
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


def check_schema(files: Sequence[Path], layout: Layout) -> None:
    """See that files have the columns that a task needs.

    Raises:
        UsageError: One has not, or is no parquet file.
    """
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


def read_parquet(files: Sequence[Path], image_files: Sequence[Path], layout: Layout) -> Any:
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
    ids = row_ids([columns[column].to_pylist() for column in layout.id], len(kept), layout, files[0].parent)
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
