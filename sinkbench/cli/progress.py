"""Progress of runs on the console: a live bar on a terminal, a line now and then in a log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sinkbench.cli.console import message_console
from sinkbench.reporter import Reporter

LOG_INTERVAL = 15.0
"""Seconds between progress lines where stderr is no terminal."""


class ConsoleReporter(Reporter):
    """Shows on stderr what the runner reports."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or message_console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._run = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def run(self, title: str) -> None:
        """What follows is about this run, or these runs."""
        self._run = title

    def note(self, text: str) -> None:
        """Something worth a line."""
        self._console.print(
            f"{self._run}: {text}" if self._run else text, highlight=False, markup=False, soft_wrap=True
        )

    def answering(self, total: int, done: int) -> None:
        """The answer stage begins; `done` of `total` samples were answered before."""
        self._total, self._done, self._resumed, self._failed = total, done, done, 0
        self._start = self._last_line = time.monotonic()
        self._task = self._bar.add_task(self._run, total=total, completed=done, rate="", failed="")

    def answered(self, n: int, failed: int) -> None:
        """A batch of `n` samples is on disk, `failed` of them without an answer."""
        self._done += n
        self._failed += failed
        if self._task is not None:
            failures = f"{self._failed} failed" if self._failed else ""
            self._bar.update(self._task, completed=self._done, rate=f"{self._rate():.1f}/s", failed=failures)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._line()

    def finished(self) -> None:
        """The answer stage ended."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        self._line()

    def _rate(self) -> float:
        return (self._done - self._resumed) / max(time.monotonic() - self._start, 1e-9)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        left = self._total - self._done
        eta = f", {left / self._rate():.0f} s left" if left and self._rate() > 0 else ""
        failures = f", {self._failed} failed" if self._failed else ""
        self.note(f"{self._done}/{self._total} answered, {self._rate():.1f}/s{eta}{failures}")
