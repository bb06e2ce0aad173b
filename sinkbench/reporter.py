"""Who is told how runs go."""

from collections.abc import Sequence
from pathlib import Path


class Reporter:
    """Is told how runs go. This one keeps silent; the command line's shows progress."""

    def run(self, title: str) -> None:
        """What follows is about this run, or these runs."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def answering(self, total: int, done: int) -> None:
        """The answer stage begins; `done` of `total` samples were answered before."""

    def answered(self, n: int, failed: int) -> None:
        """A batch of `n` samples is on disk, `failed` of them without an answer."""

    def stored(self, directory: Path, ids: Sequence[str]) -> None:
        """The answers to these requests, by id, are on disk in a run directory."""

    def finished(self) -> None:
        """The answer stage ended."""
