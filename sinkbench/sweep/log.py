"""What a sweep did, line by line: who stored which answers, and what became of each cell."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sinkbench.errors import SinkbenchError

NAME = "sweep.jsonl"


class SweepLog:
    """Appends events to `sweep.jsonl`; the lines of several processes do not mix.

    Each has "at" (UTC), "pid" and "event": "begin", "stored" (with "run", the directory's name, and "ids" of the
    requests), "cell" (with "run", "title", "status" and "error") and "end".

    Args:
        folder: The sweep's output.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def write(self, event: str, **what: Any) -> None:
        """Add an event.

        Raises:
            SinkbenchError: The file cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": now, "pid": os.getpid(), "event": event, **what}, ensure_ascii=False) + "\n"
        try:
            # One write to a file that is opened for appending: kills and other processes leave whole lines.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SinkbenchError(
                f"{self.path} cannot be written: {error.strerror}",
                "Finished samples are kept. Free some space or correct the permissions, then run the same sweep again.",
            ) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """The events so far; a last line that a full disk cut off is left out."""
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
