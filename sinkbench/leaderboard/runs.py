"""The run directories below a folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.store import RunStore, read_record


@dataclass(frozen=True)
class Run:
    """A run directory that was found.

    Attributes:
        directory: Where it lies.
        record: Its run.json.
    """

    directory: Path
    record: dict[str, Any]

    @property
    def task(self) -> str:
        """Its task's name."""
        return str(self.record["task"]["name"])

    @property
    def method(self) -> str:
        """Its method's name."""
        return str(self.record["method"]["name"])

    @property
    def imported(self) -> bool:
        """Whether its answers come from a file."""
        return "imported" in self.record

    @property
    def conditions(self) -> str:
        """Equal for runs that differ in nothing but the method, so that their samples can be paired."""
        model, task, spec = self.record["model"], self.record["task"], self.record["spec"]
        same = [
            [model[key] for key in ("id", "revision", "fingerprint", "dtype", "options")],
            [task[key] for key in ("name", "version", "fingerprint", "params")],
            [spec[key] for key in ("generation", "limit", "seed")],
        ]
        if self.imported:
            same.append([self.record["imported"]["only"]])
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]

    def samples(self) -> dict[str, Any]:
        """The scored samples by id."""
        rows = RunStore(self.directory).samples().values()
        return {row["id"]: row for row in rows if row["counts"] is not None}


def find_runs(folder: Path) -> list[Run]:
    """Every run below a folder; of several with one id the newest.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"folder {folder} does not exist", "Give the folder that `sinkbench eval --output` wrote.")
    newest: dict[str, Run] = {}
    for file in sorted(folder.rglob("run.json")):
        run = Run(file.parent, read_record(file))
        known = newest.get(run.record["run_id"])
        if known is None or run.record["updated"] >= known.record["updated"]:
            newest[run.record["run_id"]] = run
    return list(newest.values())
