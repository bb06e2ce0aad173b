"""A run as comparisons see it, whether it lies in a run directory or in a baseline file."""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sinkbench.errors import UsageError
from sinkbench.leaderboard.runs import Run, find_runs
from sinkbench.record import prompt_hash
from sinkbench.request import IMAGE_PLACEHOLDER, Request
from sinkbench.scoring.metric import Record
from sinkbench.store import RunStore, read_record

HASH_DIGITS = 16
"""Hexadecimal digits of a hash that are kept: enough to tell questions apart, a quarter of the bytes."""

_KINDS = "Give a run directory, a folder of runs (sinkbench eval --output) or a baseline (sinkbench regress --write)."


class Sample(NamedTuple):
    """One answer.

    Attributes:
        prompt: First digits of the prompt's hash; None where nothing is known (an imported answer).
        image: First digits of each image's hash, joined by "+"; None likewise.
        text: The answer; None for a failed sample.
        error: Why there is none; empty when there is one.
        scored: As scoring judged it; None where it did not.
        targets: The right answers; empty where they are not known, as in a baseline file.
    """

    prompt: str | None
    image: str | None
    text: str | None
    error: str
    scored: Record | None
    targets: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """A run.

    Attributes:
        source: Where it was found, for messages.
        record: Of run.json: run_id, updated, status, spec, model, method, task, metrics, env; perhaps "imported".
        directory: The run directory; None for a run of a baseline file.
        stored: The samples of a baseline file by id.
    """

    source: str
    record: Mapping[str, Any]
    directory: Path | None = None
    stored: Mapping[str, Sample] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """Model, method with what was set, and task."""
        return f"{self.record['model']['name']} × {self.method} × {self.record['task']['name']}"

    @property
    def method(self) -> str:
        """The method, with the parameters that were set."""
        spec = self.record["spec"]
        own = [name for name in spec["params"] if name.partition(".")[0] in spec["method"].split("+")]
        alone = "+" not in spec["method"]
        shown = (f"{name.partition('.')[2] if alone else name}={spec['params'][name]}" for name in own)
        return f"{spec['method']} ({', '.join(shown)})" if own else str(spec["method"])

    @property
    def asked_for(self) -> str:
        """Equal for runs that were asked for in the same words, whatever the code made of them."""
        spec = self.record["spec"]
        return _key(self._common, spec["method"], spec["params"])

    @property
    def settled(self) -> str:
        """Equal for runs whose methods have the same parameters, whether set or by default."""
        method, task = self.record["method"], self.record["task"]
        return _key(self._common, method["name"], [method["params"], task["params"]])

    @property
    def _common(self) -> Any:
        spec = self.record["spec"]
        generation = {key: value for key, value in spec["generation"].items() if value is not None}
        only = self.record.get("imported", {}).get("only")
        settings = [spec.get(key) for key in ("limit", "seed", "dtype")]
        return [self.record["model"]["name"], self.record["task"]["name"], generation, settings, only]

    @cached_property
    def samples(self) -> Mapping[str, Sample]:
        """Every sample by id.

        Raises:
            UsageError: Only the record of the run was kept.
        """
        if self.directory is None:
            return self.stored
        store = RunStore(self.directory)
        if not store.samples_file.is_file():
            raise UsageError(
                f"{self.directory} holds no samples.jsonl, so that nothing can be paired",
                "Only the run's record was kept; make the run again with sinkbench eval.",
            )
        later = _later_turns(store)
        return {id: _sample(row, later.get(id)) for id, row in store.samples().items()}

    def questions(self, ids: Collection[str]) -> dict[str, str]:
        """The words of the last turn of questions, by id; none for a baseline file, which does not keep them."""
        if self.directory is None or not ids:
            return {}
        return {request.id: _words(request) for request in _requests(RunStore(self.directory)) if request.id in ids}


class Side(NamedTuple):
    """What stands on one side of a comparison.

    Attributes:
        source: The path that was given.
        cells: The finished runs; of several that were asked for in the same words the newest.
        unfinished: Title and status of the others.
    """

    source: str
    cells: list[Cell]
    unfinished: list[tuple[str, str]]


def read_side(path: Path) -> Side:
    """A run directory, a folder of runs, or a baseline file.

    Raises:
        UsageError: It is none of them, or holds no finished run.
    """
    from sinkbench.regression.baseline import read_baseline

    if not path.exists():
        raise UsageError(f"{path} does not exist", _suggestion(path))
    if path.is_file() and path.name != "run.json":
        return Side(str(path), read_baseline(path), [])
    directory = path.parent if path.is_file() else path
    record = directory / "run.json"
    runs = [Run(directory, read_record(record))] if record.is_file() else find_runs(directory)
    side = side_of_runs(str(path), [(run.directory, run.record) for run in runs])
    if not side.cells:
        left = "; ".join(f"{title}: {status}" for title, status in side.unfinished[:3])
        raise UsageError(
            f"no finished run below {path}{f' ({left})' if left else ''}",
            _KINDS,
        )
    return side


def side_of_runs(source: str, runs: Sequence[tuple[Path, Mapping[str, Any]]]) -> Side:
    """A side of run directories and their records."""
    newest: dict[str, Cell] = {}
    unfinished = []
    for cell in (Cell(str(directory), record, directory) for directory, record in runs):
        if not cell.record["metrics"]:
            unfinished.append((cell.title, str(cell.record["status"])))
            continue
        known = newest.get(cell.asked_for)
        if known is None or cell.record["updated"] >= known.record["updated"]:
            newest[cell.asked_for] = cell
    return Side(source, list(newest.values()), unfinished)


def _suggestion(path: Path) -> str:
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    near = [str(folder / name) for name in difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return _KINDS


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def _sample(row: Mapping[str, Any], prompt: str | None) -> Sample:
    scored: Record | None = None
    if row["counts"] is not None:
        scored = Record(
            id=row["id"],
            cluster=row["cluster"],
            parsed=row["parsed"],
            score=row["score"],
            counts=row["counts"],
            group=row["group"],
        )
    hashed = _short(prompt or row["prompt_hash"])
    return Sample(hashed, _short(row["image_hash"]), row["text"], row["error"], scored, row.get("targets") or ())


def _short(hashes: str | None) -> str | None:
    return None if hashes is None else "+".join(part[:HASH_DIGITS] for part in hashes.split("+"))


def _later_turns(store: RunStore) -> dict[str, str]:
    """Hashes of a dialogue's later prompts without the model's earlier answers, which are no part of the question."""
    return {request.id: prompt_hash(request) for request in _requests(store) if request.history}


def _requests(store: RunStore) -> Iterator[Request]:
    # Imported runs have no questions, and committed ones leave them out.
    return store.requests() if store.is_prepared else iter(())


def _words(request: Request) -> str:
    return request.messages[-1].text.replace(IMAGE_PLACEHOLDER, "").strip()
