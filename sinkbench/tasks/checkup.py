"""What there is of a task's data, what is missing, and which rows are broken."""

import csv
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import asset, read_packed
from sinkbench.tasks.catalog import TaskInfo, task_info
from sinkbench.tasks.cells import is_cell, read_cell
from sinkbench.tasks.export import hub_ids, hub_patterns, manifest_problems
from sinkbench.tasks.hub import cached_snapshot, missing_shards
from sinkbench.tasks.images import places
from sinkbench.tasks.layout import FAULT
from sinkbench.tasks.load import documents, load_task, task_fingerprint
from sinkbench.tasks.scenes import scenes_problems
from sinkbench.tasks.tables import table_problems

_PROBLEMS: dict[str, Callable[[Mapping[str, Any], Path, str], list[str]]] = {
    "table": table_problems,
    "scenes": scenes_problems,
    "chair": table_problems,
    "amber": table_problems,
}
"""By source: all that is wrong with the rows of files that cannot be read as a whole."""

_LISTED = ("*.parquet", "*.jsonl", "*.json", "*.tsv", "*.jsonl.gz", "*.json.gz")


@dataclass
class Checkup:
    """The state of a task's data.

    Attributes:
        place: The folder.
        files: Name, number of rows (None where the file's form does not say) and bytes of the files with rows.
        n_rows: Questions of the task.
        values: For each column with a fixed set of values how often each occurs.
        n_images: Distinct images that the rows name or hold.
        missing: Names of those that are not there.
        undecodable: Why, by name, an image cannot be decoded; empty unless that was asked for.
        decoded: Whether it was.
        broken: Why a row cannot be asked or judged, by id.
        errors: What is wrong with the data as a whole.
        fingerprint: `task_fingerprint` with the parameters given; empty if the data cannot be read.
    """

    place: Path
    files: list[tuple[str, int | None, int]] = field(default_factory=list)
    n_rows: int = 0
    values: dict[str, dict[str, int]] = field(default_factory=dict)
    n_images: int = 0
    missing: list[str] = field(default_factory=list)
    undecodable: dict[str, str] = field(default_factory=dict)
    decoded: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    fingerprint: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether every row can be asked and judged, as far as was looked."""
        return not (self.errors or self.broken or self.missing or self.undecodable)


def check_up(
    name: str,
    data_dir: Path | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checkup:
    """Look at a task's data without stopping at the first thing that is wrong.

    Nothing is downloaded: without a folder the shipped data or the hub cache are looked at.

    Args:
        name: Task name.
        data_dir: The folder.
        params: The task's parameters.
        decode: Decode every image.
        progress: Is told how many rows of how many have been looked at.

    Raises:
        UsageError: The task, a parameter or the folder does not exist, or the hub cache does not hold the data.
    """
    info = task_info(name)
    settings = {**info.settings, **info.with_params(params or {})}
    found = Checkup(_place(info, settings, data_dir), decoded=decode)
    patterns = hub_patterns(settings) if hub_ids(settings) else []
    found.files = _files(found.place, patterns)
    found.errors += manifest_problems(found.place)
    shards = [path for pattern in patterns for path in found.place.glob(pattern)]
    found.errors += [f"{shard} is missing" for shard in missing_shards(dict.fromkeys(shards))]
    try:
        task = load_task(name, data_dir, params, images_needed=False)
    except UsageError as error:
        found.errors += _unreadable(info, settings, found.place, name, error)
        return found
    found.fingerprint = task_fingerprint(task)
    rows = documents(task)
    found.n_rows = len(rows)
    found.values = {
        column: {str(value): 0 for value in kind} | dict(Counter(map(str, rows[column][:])))
        for column, kind in settings.get("columns", {}).items()
        if isinstance(kind, list) and column in rows.column_names
    }
    if FAULT in rows.column_names:
        faults = zip(rows["id"][:], rows[FAULT][:], strict=True)
        found.broken = {str(id): fault for id, fault in faults if fault}
    if info.has_images:
        _look_at_images(task.eval_docs if decode else rows, found, progress)
    return found


def _place(info: TaskInfo, settings: Mapping[str, Any], data_dir: Path | None) -> Path:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise UsageError(f"data folder {data_dir} does not exist", "Give the task's data with --data-dir DIR.")
        return data_dir
    hubs = hub_ids(settings)
    if not hubs:
        return asset("scenes/val")
    revision, patterns = settings.get("revision", ""), hub_patterns(settings)
    for hub in hubs:
        if (folder := cached_snapshot(hub, patterns[0], revision)) is not None:
            return folder
    raise UsageError(
        f"the hub cache does not hold the data of {info.name} ({', '.join(hubs)})",
        f"Add --data-dir DIR; or fetch them where there is a network: sinkbench data export {info.name} --out DIR",
    )


def _unreadable(
    info: TaskInfo, settings: Mapping[str, Any], place: Path, name: str, error: UsageError
) -> Iterable[str]:
    """Every row that is wrong, if that is why the data cannot be read; else the one error."""
    try:
        return _PROBLEMS[info.source](settings, place, name) or [error.message]
    except UsageError as first:
        return [first.message]


def _files(folder: Path, patterns: Iterable[str]) -> list[tuple[str, int | None, int]]:
    paths = {path for pattern in (*patterns, *_LISTED) for path in folder.glob(pattern) if path.is_file()}
    return [(path.relative_to(folder).as_posix(), _n_rows(path), path.stat().st_size) for path in sorted(paths)]


def _n_rows(path: Path) -> int | None:
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_metadata

            return int(read_metadata(path).num_rows)
        # read_packed finds NAME.gz for NAME.
        text = read_packed(path.with_suffix("") if path.suffix == ".gz" else path)
        if path.suffix == ".tsv":
            csv.field_size_limit(sys.maxsize)
            return sum(1 for _ in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))
        if not text.lstrip().startswith("["):
            lines = [line for line in text.split("\n") if line.strip()]
            return len(lines) if lines and all(line.lstrip().startswith("{") for line in lines) else None
        return len(json.loads(text))
    except Exception:  # Whatever a damaged file makes its reader raise; reading the task says what is wrong with it.
        return None


def _look_at_images(rows: Any, found: Checkup, progress: Callable[[int, int], None]) -> None:
    """Count the images, and decode each once if that is asked for.

    Args:
        rows: Documents, with embedded images if these are to be decoded.
        found: Is told.
        progress: See `check_up`.
    """
    seen: set[str] = set()
    for index in range(len(rows)):
        document = rows[index]
        for place in _each_place(document):
            key = place if isinstance(place, str) else hashlib.sha256(place).hexdigest()
            if key in seen:
                continue
            seen.add(key)
            name = Path(place).name if isinstance(place, str) else f"image of {document['id']}"
            if not place or (isinstance(place, str) and not Path(place).is_file()):
                found.missing.append(name)
            elif found.decoded and (flaw := _flaw(place)):
                found.undecodable[name] = flaw
        progress(index + 1, len(rows))
    found.n_images = len(seen)


def _each_place(document: Mapping[str, Any]) -> Iterator[str | bytes]:
    """Path or content of each image; a cell of a parquet file is read."""
    for place in places(document):
        if isinstance(place, str) and is_cell(place):
            yield from read_cell(place)
        else:
            yield place


def _flaw(place: str | bytes) -> str:
    """Why an image cannot be decoded; empty if it can."""
    from PIL import Image

    try:
        with Image.open(place if isinstance(place, str) else io.BytesIO(place)) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise errors of many kinds for damaged files.
        return str(error) or type(error).__name__
    return ""
