"""Data of a benchmark as a table: parquet in the hub's schema, or rows of JSON, JSON lines or TSV beside images.

A task's YAML says under `metadata` what the table is like (`layout.Layout`); the functions here find it, check it and
give it columns that all tasks have in common. What a benchmark's own release looks like is told by a function of
`sinkbench.tasks.releases` that turns it into rows of the hub's schema.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.judge import is_judging
from sinkbench.tasks.hub import check_hub, fetch
from sinkbench.tasks.layout import FAULT, Layout
from sinkbench.tasks.parquet_rows import check_schema, image_files, parquet_files, read_parquet
from sinkbench.tasks.text_rows import documents_of, features_of, rows_of, strange

_OF_PLACES = ("hub", "hub_fallback", "revision", "lists")
"""Parameters that say where data come from; what is asked does not depend on them."""

KEEP_FAULTS = "keep_faults"
"""Setting under which rows with a fault stay in the data, for a caller that counts them."""


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
    if parquet := parquet_files(folder, layout):
        check_schema(parquet, layout)
        image_files(folder, parquet, layout)
    else:
        documents_of(folder, layout)


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
    if parquet := parquet_files(folder, layout):
        check_schema(parquet, layout)
        if data_dir is None and layout.image_files:
            folder = fetch(list(layout.hubs), layout.image_files, layout.revision)
        return read_parquet(parquet, image_files(folder, parquet, layout), layout)
    rows = documents_of(folder, layout)
    return Dataset.from_list(rows, features=features_of(rows))


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


def table_problems(settings: Mapping[str, Any], data_dir: str | Path, task: str) -> list[str]:
    """Everything that `check_table` would stop at in the rows of JSON, TSV or a release, one row after the other.

    Raises:
        UsageError: The files cannot be read at all.
    """
    layout = Layout.of(settings, task)
    folder = _folder(data_dir, layout)
    if parquet_files(folder, layout):
        return []
    found = []
    for number, row in enumerate(rows_of(folder, layout), start=1):
        if problem := strange(row, layout):
            found.append(f"row {number}: {problem}")
    return found
