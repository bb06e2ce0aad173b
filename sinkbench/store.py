"""A run directory on disk: answers that survive `kill -9`, a record that is never half written, and a lock.

`samples.jsonl` grows by a batch at a time and is fsynced; `run.json` is replaced atomically.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.request import Request
from sinkbench.schemas import validate

Row = dict[str, Any]
"""A line of samples.jsonl (schemas/sample.schema.json)."""

_BLOCK = 1 << 16
"""Bytes that are read at a time to find the last whole line."""

_LINES = 1024
"""Lines that are made before they are written."""


def check_writable(output: Path) -> None:
    """Make the folder for run directories, and see that files can be written there.

    Raises:
        UsageError: They cannot.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UsageError(
            f"output folder {output} cannot be written: {error.strerror}", "Choose another folder with --output DIR."
        ) from error


class RunStore:
    """The files of one run.

    Args:
        directory: `<output>/<model>__<method>__<task>__<run_id[:8]>`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.requests_file = directory / "requests.jsonl"
        self.samples_file = directory / "samples.jsonl"
        self.run_file = directory / "run.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the kernel lets go of it however the process ends.

        Raises:
            UsageError: Another process writes this run.
        """
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = self.directory / ".lock"
            lock.touch()
        with open(lock, "a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is writing {self.directory}",
                    "Wait until it ends, or choose another folder with --output DIR.",
                ) from error
            except OSError as error:
                raise UsageError(
                    f"{self.directory} lies on a file system without locks: {error.strerror}",
                    "Choose a folder on another disk with --output DIR.",
                ) from error
            yield

    def clear(self) -> None:
        """Remove an earlier run's record and answers."""
        self.run_file.unlink(missing_ok=True)
        self.samples_file.unlink(missing_ok=True)

    def write_requests(self, requests: Iterable[Request]) -> None:
        """Write requests.jsonl atomically."""
        self._replace(self.requests_file, (json.dumps(request.to_json(), ensure_ascii=False) for request in requests))

    def take_requests(self, other: "RunStore") -> None:
        """Have the questions of another run in the same folder."""
        with _explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with open(other.requests_file, encoding="utf-8") as lines:
                self._replace(self.requests_file, (line.rstrip("\n") for line in lines))

    @property
    def is_prepared(self) -> bool:
        """Whether the questions are there."""
        return self.requests_file.is_file()

    def count_requests(self) -> int:
        """How many questions there are.

        Raises:
            UsageError: The run has not been prepared.
        """
        self._check_prepared()
        with open(self.requests_file, "rb") as lines:
            return sum(1 for _ in lines)

    def requests(self) -> Iterator[Request]:
        """Read requests.jsonl one by one; relative image paths start from the run directory.

        These come out without "..", so that runs in one folder name a common image alike.

        Raises:
            UsageError: The run has not been prepared.
        """
        self._check_prepared()
        for line in _numbered(self.requests_file):
            yield _request(line.text, self.directory.parent) or _request_of(line.parsed(), self.directory)

    def _check_prepared(self) -> None:
        if not self.is_prepared:
            raise UsageError(
                f"{self.directory} holds no requests.jsonl", "Run the prepare stage first: --stage prepare."
            )

    def lines(self) -> Iterator[Row]:
        """Every line of samples.jsonl, the newest last; a last line that a kill cut off is dropped from the file."""
        if self.samples_file.exists():
            with _explained(self.samples_file):
                _drop_partial_line(self.samples_file)
            yield from (row for _, row in _lines(self.samples_file))

    def samples(self) -> dict[str, Row]:
        """The newest line of every sample by its id."""
        return {row["id"]: row for row in self.lines()}

    def failures(self) -> dict[str, str]:
        """Why a sample has no answer, by id, of those whose newest line says so."""
        reasons: dict[str, str] = {}
        for row in self.lines():
            reasons.pop(row["id"], None)
            if row["error"]:
                reasons[row["id"]] = row["error"]
        return reasons

    def newest(self) -> Iterator[Row]:
        """The newest line of every request that has one, one by one, in the order of requests.jsonl."""
        if not self.samples_file.exists():
            return
        places = {row["id"]: place for place, row in _lines(self.samples_file)}
        with open(self.samples_file, "rb") as file:
            for request in self.requests():
                if request.id in places:
                    file.seek(places[request.id])
                    row: Row = json.loads(file.readline())
                    yield row

    def append(self, rows: Iterable[Row]) -> None:
        """Add lines to samples.jsonl and wait until they are on disk.

        They are checked against the schema when scoring rewrites the file: checking here would make the GPU wait.
        """
        _append(self.samples_file, [json.dumps(row, ensure_ascii=False) for row in rows])

    def replace_samples(self, rows: Iterable[Row]) -> None:
        """Check every line against the schema and rewrite samples.jsonl atomically, one line a sample.

        Args:
            rows: The new lines; they may be read from the old file as they are written.
        """
        self._replace(self.samples_file, (_checked_line(row) for row in rows))

    def write_text(self, name: str, content: str) -> None:
        """Write a further file of the run atomically."""
        self._replace(self.directory / name, content.removesuffix("\n").split("\n"))

    def read_run(self) -> dict[str, Any] | None:
        """The record of the run, or None when there is none yet."""
        return read_record(self.run_file) if self.run_file.exists() else None

    def write_run(self, record: dict[str, Any]) -> None:
        """Check the record against its schema and replace run.json atomically."""
        validate(record, "run")
        self._replace(self.run_file, [json.dumps(record, indent=2, ensure_ascii=False)])

    def _replace(self, target: Path, lines: Iterable[str]) -> None:
        temporary = target.with_name(f"{target.name}.tmp")
        rest = iter(lines)
        try:
            with _explained(target):
                temporary.write_bytes(b"")
            # What fails while a line is made is no fault of the target.
            while some := list(islice(rest, _LINES)):
                _append(temporary, some)
            with _explained(target):
                os.replace(temporary, target)
                _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Read a run.json.

    Raises:
        UsageError: It is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        validate(record, "run")
    except ValueError as error:
        hint = "Start the run again with --fresh, or remove its folder."
        raise UsageError(f"{path} is damaged: {error}", hint) from error
    return record


def _append(path: Path, lines: Sequence[str]) -> None:
    with _explained(path), open(path, "a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _checked_line(row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False)
    validate(json.loads(line), "sample")
    return line


class _Line(NamedTuple):
    """A line of a file of JSON lines."""

    path: Path
    number: int
    place: int
    text: bytes

    def parsed(self) -> dict[str, Any]:
        """Its object.

        Raises:
            UsageError: It is damaged.
        """
        try:
            row: dict[str, Any] = json.loads(self.text)
        except ValueError as error:
            raise UsageError(
                f"{self.path}, line {self.number} is damaged: {error}", "Remove that line, or start again with --fresh."
            ) from error
        return row


def _numbered(path: Path) -> Iterator[_Line]:
    place = 0
    with open(path, "rb") as file:
        for number, text in enumerate(file, 1):
            yield _Line(path, number, place, text)
            place += len(text)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the byte at which it begins."""
    return ((line.place, line.parsed()) for line in _numbered(path))


@lru_cache(maxsize=64)
def _request(line: bytes, parent: Path) -> Request | None:
    """The request of a line that reads alike in all runs of a folder; methods that are run together read it once.

    None where it does not: it is damaged, or has an image in the run's own directory.
    """
    try:
        row = json.loads(line)
    except ValueError:
        return None
    own = (not os.path.isabs(image["path"]) and not image["path"].startswith("../") for image in row["images"])
    return None if any(own) else _request_of(row, parent / "run")


def _request_of(row: dict[str, Any], directory: Path) -> Request:
    for image in row["images"]:
        if not os.path.isabs(image["path"]):
            image["path"] = os.path.normpath(directory / image["path"])
    return Request.from_json(row)


def _drop_partial_line(path: Path) -> None:
    whole = _whole_lines(path)
    if whole < path.stat().st_size:  # A file on a read-only disk can be read if there is nothing to drop.
        os.truncate(path, whole)


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with open(path, "rb") as file:
        whole = file.seek(0, os.SEEK_END)
        while whole:
            start = max(0, whole - _BLOCK)
            file.seek(start)
            end = file.read(whole - start).rfind(b"\n") + 1
            whole = start + end
            if end:
                break
        return whole


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a failing disk into an error that says which file and what next."""
    try:
        yield
    except OSError as error:
        raise SinkbenchError(
            f"{path} cannot be written: {error.strerror}",
            "Finished samples are kept. Free some space or correct the permissions, then run the same command again.",
        ) from error
