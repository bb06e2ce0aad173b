"""Images in cells of parquet files, named by a string and read when they are asked for.

A benchmark of the hub repeats an image for every question on it: tens of gigabytes, which nobody wants in memory or a
second time on disk.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

_MARK = ".parquet#"
_AT_ONCE = 256
"""Rows of images in memory at once, while missing ones are looked for."""


def is_cell(place: str) -> bool:
    """Whether a name is that of a cell, and not of a file."""
    return _MARK in place


def cells_of(path: Path, column: str) -> list[str]:
    """The names of a column's cells, row by row; "" where a cell holds no image."""
    import pyarrow.parquet

    missing = set(_missing(path, column))
    n_rows: int = pyarrow.parquet.read_metadata(path).num_rows
    return ["" if row in missing else f"{path}#{column}#{row}" for row in range(n_rows)]


def read_cell(place: str) -> list[bytes]:
    """The content of the image files in a cell: one, or those of a list, in order.

    The rows around it are kept until another part of the file is asked for, so that reading in order reads once.

    Raises:
        OSError: The file is gone.
    """
    path, column, row = place.rsplit("#", 2)
    starts = _starts(path)
    group = bisect_right(starts, int(row)) - 1
    value = _row_group(path, column, group)[int(row) - starts[group]].as_py()
    each = value if isinstance(value, list) else [value]
    return [(image or {}).get("bytes") or b"" for image in each]


@lru_cache(maxsize=64)
def _starts(path: str) -> list[int]:
    """The first row of each row group."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    return list(accumulate((metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)), initial=0))[:-1]


@lru_cache(maxsize=1)
def _row_group(path: str, column: str, group: int) -> Any:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column])[column]


def _missing(path: Path, column: str) -> Iterator[int]:
    """Rows without image; the file's statistics mostly tell that there are none."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        if _is_full(file.metadata, column):
            return
        start = 0
        for batch in file.iter_batches(_AT_ONCE, columns=[column]):
            for row, empty in enumerate(_are_empty(batch.column(0)), start=start):
                if empty:
                    yield row
            start += batch.num_rows


def _is_full(metadata: Any, column: str) -> bool:
    """Whether each row is known to hold an image."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(index) for index in range(group.num_columns))
        contents = [chunk for chunk in chunks if _is_content(chunk.path_in_schema, column)]
        known = [chunk.statistics for chunk in contents if chunk.is_stats_set and chunk.statistics.has_null_count]
        if len(known) != 1 or known[0].null_count:
            return False
    return True


def _is_content(path: str, column: str) -> bool:
    return path.startswith(f"{column}.") and path.endswith(".bytes")


def _are_empty(column: Any) -> list[bool]:
    """Which cells lack an image, or one of their list."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_struct(column.type):
        return list(compute.struct_field(column, "bytes").is_null().to_pylist())
    empty = compute.equal(compute.list_value_length(column), 0).fill_null(True).to_pylist()
    missing = compute.struct_field(compute.list_flatten(column), "bytes").is_null()
    for row in compute.list_parent_indices(column).filter(missing).to_pylist():
        empty[row] = True
    return list(empty)
