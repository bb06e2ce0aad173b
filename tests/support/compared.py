"""Runs with hand-made answers for comparisons: run directories of the fake task, written without running anything."""

import json
from pathlib import Path
from typing import Any

from fakes import FakeBackend, FakeTask, write_images

from sinkbench import runner
from sinkbench.spec import RunSpec

N = 60
"""Questions of the fake task; 20 of them, on 20 images, are in the split that its headline is about."""

HEADLINE = range(0, N, 3)
"""Numbers of these questions, one an image."""


class Runs:
    """Makes runs of the fake task, whose headline is the accuracy on every third question.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_images(folder / "data", N // 3)
        self.task = FakeTask(folder / "data", n=N)

    def make(self, name: str, wrong: dict[str, set[int]], *, words: str = "", **settings: Any) -> Path:
        """Run methods that answer the questions numbered in `wrong` wrongly; the folder of the runs.

        Args:
            name: Of the folder.
            wrong: By method.
            words: Are added to every answer.
            settings: Of the RunSpec.
        """
        output = self.folder / name
        backend = self.backend(wrong, words)
        specs = [RunSpec(**{"model": "tiny", "task": "fake", "method": m, "output": output} | settings) for m in wrong]
        runner.run(specs, backend=backend)
        return output

    def backend(self, wrong: dict[str, set[int]], words: str = "") -> FakeBackend:
        """A backend whose methods answer so."""
        return FakeBackend(self.task, {method: self._answerer(numbers, words) for method, numbers in wrong.items()})

    def _answerer(self, wrong: set[int], words: str) -> Any:
        def answer(request: Any) -> str:
            number = int(request.id.partition("/")[2])
            return self.task.label(number + (number in wrong)) + words

        return answer


def directory(folder: Path, method: str = "greedy") -> Path:
    """The run directory of a method."""
    (found,) = folder.glob(f"*__{method}__*")
    return found


def edit_rows(run: Path, changes: dict[str, dict[str, Any] | None]) -> None:
    """Change lines of samples.jsonl by the samples' ids; None drops the line."""
    file = run / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{**row, **(changes.get(row["id"]) or {})} for row in rows if changes.get(row["id"], {}) is not None]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))


def edit_record(run: Path, part: str, **changes: Any) -> None:
    """Change entries of one part of run.json."""
    record = json.loads((run / "run.json").read_text())
    record[part] |= changes
    (run / "run.json").write_text(json.dumps(record))
