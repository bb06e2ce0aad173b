"""A task's data from the hub as a folder for `--data-dir`: what a machine without network needs."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinkbench import __version__
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.tasks.catalog import TaskInfo, task_info
from sinkbench.tasks.hub import fetch
from sinkbench.tasks.load import load_task, task_fingerprint

MANIFEST = "MANIFEST.json"
"""Says what an export holds; written when it is whole."""

PARTIAL = "MANIFEST.partial.json"
"""In its place while the export goes on: what was begun."""

SCHEMA_VERSION = 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Exported:
    """A folder with a task's data.

    Attributes:
        folder: The folder.
        manifest: The content of `MANIFEST`.
        n_copied: Files that were copied now; the others were there.
    """

    folder: Path
    manifest: dict[str, Any]
    n_copied: int


def hub_ids(settings: Mapping[str, Any]) -> list[str]:
    """A task's data sets on the hub, the preferred one first, from its metadata with its parameters laid over it."""
    return [hub for hub in (settings.get("hub", ""), settings.get("hub_fallback", "")) if hub]


def hub_patterns(settings: Mapping[str, Any]) -> list[str]:
    """Globs of the files that a task takes from the hub: `files`, and entries whose names begin with `files_`."""
    named = [value for key, value in settings.items() if key == "files" or key.startswith("files_")]
    return [value for value in named if isinstance(value, str)]


def export_data(
    name: str, out: Path, params: Mapping[str, Any] | None = None, *, say: Callable[[str], None] = lambda line: None
) -> Exported:
    """Write the files of a task's split, from the hub cache or the hub, so that `--data-dir` gives the same task.

    An export that was broken off is taken up again; one that is whole is checked and left as it is.

    Args:
        name: Task name.
        out: The folder; absent, empty, or holding the same export.
        params: The task's parameters, among them `hub`, `hub_fallback` and `revision`.
        say: Is told which file is copied.

    Raises:
        UsageError: The task's data travel with sinkbench or are not on the hub, the hub is out of reach, or the folder
            holds something else.
        SinkbenchError: The disk fails, or the folder does not give the same task.
    """
    info = task_info(name)
    settings = {**info.settings, **info.with_params(params or {})}
    source, files = _source(info, settings)
    begun = {
        "schema_version": SCHEMA_VERSION,
        "task": name,
        "hub": source.parent.parent.name.removeprefix("datasets--").replace("--", "/", 1),
        "revision": source.name,
    }
    if _is_finished(out, begun):
        return Exported(out, _read(out / MANIFEST), 0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / PARTIAL, begun)
        copied = [_copied(source / path, out / path, say) for path in files]
        listed = [_entry(out, path, digest) for path, (digest, _) in zip(files, copied, strict=True)]
    except OSError as error:
        raise SinkbenchError(
            f"{out} cannot be written: {error.strerror or error}",
            "Free some space or correct the permissions, then run the same command again: it goes on.",
        ) from error
    manifest = {
        **begun,
        "params": dict(params or {}),
        "n_rows": 0,
        "fingerprint": _checked_fingerprint(name, out, params),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sinkbench": __version__,
        "files": listed,
    }
    manifest["n_rows"] = sum(entry["rows"] for entry in listed)
    _write(out / MANIFEST, manifest)
    (out / PARTIAL).unlink()
    return Exported(out, manifest, sum(new for _, new in copied))


def manifest_problems(folder: Path) -> list[str]:
    """Files of an export that are missing or not as they were written; empty for a folder that is no export."""
    if not (folder / MANIFEST).is_file():
        return [f"{PARTIAL}: the export was broken off"] if (folder / PARTIAL).is_file() else []
    found = []
    for entry in _read(folder / MANIFEST)["files"]:
        path = folder / entry["path"]
        if not path.is_file():
            found.append(f"{entry['path']} is missing")
        elif path.stat().st_size != entry["bytes"] or sha256_of(path) != entry["sha256"]:
            found.append(f"{entry['path']} is not the file that {MANIFEST} names")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _source(info: TaskInfo, settings: Mapping[str, Any]) -> tuple[Path, list[Path]]:
    """The snapshot of the data set, and the files within it."""
    hubs, patterns = hub_ids(settings), hub_patterns(settings)
    if not hubs:
        where = "travel with sinkbench" if info.source == "scenes" else "are not on the hub"
        raise UsageError(
            f"the data of {info.name} {where}: there is nothing to export",
            "Run it as it is." if info.source == "scenes" else "Copy the folder that you give to --data-dir.",
        )
    snapshots = [fetch(hubs, pattern, settings.get("revision", "")) for pattern in patterns]
    source = snapshots[0]
    files = sorted({path.relative_to(source) for pattern in patterns for path in source.glob(pattern)})
    return source, files


def _is_finished(out: Path, begun: Mapping[str, Any]) -> bool:
    """Whether a folder holds the whole export; false if it is to be begun or taken up again.

    Raises:
        UsageError: It holds something else, or files of the export were changed.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    another = "Choose an empty folder with --out DIR."
    known = next((path for path in (out / MANIFEST, out / PARTIAL) if path.is_file()), None)
    if known is None:
        raise UsageError(f"{out} is not empty and holds no export", another)
    held = _read(known)
    if differing := [key for key in begun if held.get(key) != begun[key]]:
        shown = ", ".join(f"{key} {held.get(key)}, not {begun[key]}" for key in differing)
        raise UsageError(f"{out} holds another export: {shown}", another)
    if known.name == PARTIAL:
        return False
    if problems := manifest_problems(out):
        raise UsageError(f"{out} was exported, and then changed: {problems[0]}", another)
    return True


def _copied(source: Path, target: Path, say: Callable[[str], None]) -> tuple[str, bool]:
    """Copy a file unless the same is there; its SHA-256, and whether it was copied.

    It has its name only when it is whole.
    """
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        digest = sha256_of(target)
        if digest == sha256_of(source):
            return digest, False
    say(f"{target.name}, {source.stat().st_size / 1e6:.1f} MB")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.part")
    hashed = hashlib.sha256()
    with open(unfinished, "wb") as file:
        for block in _blocks(source):
            hashed.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, target)
    return hashed.hexdigest(), True


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _entry(out: Path, path: Path, digest: str) -> dict[str, Any]:
    from pyarrow.parquet import read_metadata

    size = (out / path).stat().st_size
    return {"path": path.as_posix(), "rows": read_metadata(out / path).num_rows, "bytes": size, "sha256": digest}


def _checked_fingerprint(name: str, out: Path, params: Mapping[str, Any] | None) -> str:
    """The task's fingerprint from the folder, which must be the one from the hub."""
    ours, theirs = (task_fingerprint(load_task(name, place, params)) for place in (out, None))
    if ours != theirs:
        raise SinkbenchError(
            f"{out} does not give the task that the hub gives (fingerprint {ours[:12]}, not {theirs[:12]})",
            "Report it together with the task's name; use the hub cache (HF_HOME) in the meantime.",
        )
    return ours


def _read(path: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "Choose an empty folder with --out DIR.") from error
    return held


def _write(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
