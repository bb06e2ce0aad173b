"""What the table of a benchmark is like: `metadata` of a task's YAML, with the task's parameters laid over it."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.tasks.rows import Columns

FAULT = "fault"
"""Column that says why a row cannot be asked or judged; empty for all others. The sample is counted as failed."""

IMAGE_FOLDERS = ("", "images", "train_images", "val", "val2014", "val2017")
"""Where images are looked for in a folder."""

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


def row_ids(columns: Sequence[Sequence[Any]], n_rows: int, layout: Layout, folder: Path) -> list[str]:
    """The id of each row.

    Args:
        columns: Values of the columns that tell rows apart.
        n_rows: How many rows there are; without such columns they are numbered.
        layout: What the table is like.
        folder: Where the data are, for the message.

    Raises:
        UsageError: Two rows have one id.
    """
    if not columns:
        return [str(number) for number in range(n_rows)]
    ids = ["-".join(map(str, parts)) for parts in zip(*columns, strict=True)]
    twice = next((id for id, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{folder} holds {' and '.join(layout.id)} {twice} more than once", layout.hint)
    return ids
