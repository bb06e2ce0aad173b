"""The JSON of a benchmark: rewritten after each entry, so that whatever ends the process loses none."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from sinkbench.bench.targets import add_ratios, against_plain, judge
from sinkbench.errors import UsageError

SCHEMA_VERSION = 1

_HINT = "Give a file that `sinkbench bench --output` wrote."

Section = Literal["rows", "baselines", "inspection", "end_to_end", "flips"]


class Record:
    """What has been measured so far.

    Args:
        path: File to keep it in; None keeps it in memory only.
        header: Entries that are known before anything is measured.

    Raises:
        UsageError: The file cannot be written.
    """

    def __init__(self, path: Path | None, header: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "status": "started",
            **header,
            "rows": [],
            "baselines": [],
            "inspection": [],
            "end_to_end": [],
            "flips": [],
        }
        self._write()

    def add(self, section: Section, entry: dict[str, Any]) -> None:
        """Append an entry, and work out what follows from it."""
        self.content[section].append(entry)
        self._write()

    def finish(self) -> None:
        """Say that nothing more comes."""
        self.content["status"] = "finished"
        self._write()

    def _write(self) -> None:
        add_ratios(self.content["rows"])
        self.content["against_plain"] = against_plain(self.content)
        self.content["targets"] = judge(self.content)
        if self.path is None:
            return
        partial = self.path.with_name(f"{self.path.name}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(self.content, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror}", "Choose another file with --output FILE."
            ) from error


def read_record(path: Path) -> dict[str, Any]:
    """A benchmark's JSON.

    Raises:
        UsageError: The file is missing, or is none.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", _HINT) from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION or "baselines" not in content:
        raise UsageError(f"{path} is no benchmark of version {SCHEMA_VERSION}", _HINT)
    return content
