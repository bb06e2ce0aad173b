"""How a sweep shows itself: a live table on a terminal, a line now and then in a log, and what came of each cell."""

import time
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sinkbench.cli.console import message_console, output_console
from sinkbench.cli.progress import LOG_INTERVAL
from sinkbench.reporter import Reporter
from sinkbench.spec import RunSpec
from sinkbench.sweep.run import Cell, Watch

_KEPT_LINES = 12
"""Rows of the live table: groups that run, then the next ones."""


class SweepTable(Watch):
    """Follows groups of runs; told from several threads."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or message_console()
        self._lock = RLock()
        self._groups: list[_Group] = []
        self._failed: list[Cell] = []
        self._start = self._last_line = time.monotonic()
        self._live = Live(console=self._console, get_renderable=self.view, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def planned(self, groups: Sequence[Sequence[RunSpec]]) -> None:
        """See `Watch`."""
        self._groups = [_Group(self, specs) for specs in groups]
        self.say(f"{sum(len(group.specs) for group in self._groups)} cells in {len(self._groups)} groups")

    def group(self, specs: Sequence[RunSpec]) -> Reporter:
        """See `Watch`."""
        with self._lock:
            group = next(group for group in self._groups if specs[0] in group.specs)
            group.running = True
            return group

    def finished(self, cell: Cell) -> None:
        """See `Watch`."""
        with self._lock:
            for group in self._groups:
                if cell.spec in group.specs:
                    group.cells.append(cell)
                    group.running = len(group.cells) < len(group.specs)
            if cell.status in ("failed", "incomplete"):
                self._failed.append(cell)
                self.say(f"{cell.status}: {cell.title}: {cell.error}")

    @property
    def is_terminal(self) -> bool:
        """Whether the live table is shown."""
        return self._console.is_terminal

    def say(self, text: str) -> None:
        """A line above the table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Something happened; in a log, a line is due now and then."""
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LOG_INTERVAL:
            self._last_line = time.monotonic()
            self.say(self.summary())

    def summary(self) -> str:
        """Where the sweep stands, in a line."""
        with self._lock:
            cells = sum(len(group.specs) for group in self._groups)
            ended = sum(len(group.cells) for group in self._groups)
            running = sum(len(group.specs) - len(group.cells) for group in self._groups if group.running)
            line = f"{ended}/{cells} cells done, {running} running, {len(self._failed)} failed"
            answers = sum(group.answered_now for group in self._groups)
            rate = answers / max(time.monotonic() - self._start, 1e-9)
            left = self._left()
            eta = f", about {_duration(left / rate)} left" if left and answers else ""
            return f"{line}; {rate:.1f} answers/s{eta}"

    def view(self) -> Group:
        """The live table, and where the sweep stands."""
        return Group(self.table(), Text(self.summary()))

    def table(self) -> Table:
        """A row for each group: those that run first, then those that wait."""
        with self._lock:
            table = Table(box=SIMPLE_HEAD)
            for title in ("model", "task"):
                table.add_column(title)
            for title in ("methods", "answered", "failed", "ans/s"):
                table.add_column(title, justify="right")
            order = sorted(self._groups, key=lambda group: (not group.running, group.ended))
            for group in order[:_KEPT_LINES]:
                style = "bold" if group.running else "dim" if group.ended else None
                table.add_row(*map(escape, group.line()), style=style)
            if len(order) > _KEPT_LINES:
                table.add_row(f"and {len(order) - _KEPT_LINES} more", "", "", "", "", "")
            return table

    def _left(self) -> float:
        """Answers that are still to come; groups that have not begun count as those that have."""
        known = [group for group in self._groups if group.total]
        if not known:
            return 0.0
        per_cell = sum(group.total for group in known) / sum(len(group.specs) for group in known)
        waiting = sum(len(group.specs) for group in self._groups if not group.total and not group.ended)
        return per_cell * waiting + sum(group.total - group.done for group in known if not group.ended)


class _Group(Reporter):
    """Runs of one model and task."""

    def __init__(self, table: SweepTable, specs: Sequence[RunSpec]) -> None:
        self.specs = list(specs)
        self.cells: list[Cell] = []
        self.running = False
        self.total = self.done = self.failed = self.answered_now = 0
        self._table = table
        self._start = time.monotonic()
        self._end: float | None = None

    @property
    def ended(self) -> bool:
        """Whether all its cells have come to their end."""
        return len(self.cells) == len(self.specs)

    def answering(self, total: int, done: int) -> None:
        """See `Reporter`."""
        self.total, self.done, self.failed, self.answered_now = total, done, 0, 0
        self._start, self._end = time.monotonic(), None

    def answered(self, n: int, failed: int) -> None:
        """See `Reporter`."""
        self.done += n
        self.failed += failed
        self.answered_now += n
        self._table.tick()

    def finished(self) -> None:
        """See `Reporter`."""
        self._end = time.monotonic()
        if not self._table.is_terminal:
            model, task = self.specs[0].model, self.specs[0].task
            self._table.say(f"{model} × {task}: {self.done}/{self.total} answered, {self._rate():.1f}/s")

    def line(self) -> tuple[str, ...]:
        """Its row of the live table."""
        failed = self.failed + sum(cell.status == "failed" for cell in self.cells)
        answered = f"{self.done}/{self.total}" if self.total else ""
        rate = f"{self._rate():.1f}" if self.answered_now else ""
        methods = f"{len(self.cells)}/{len(self.specs)}"
        return self.specs[0].model, self.specs[0].task, methods, answered, str(failed or ""), rate

    def _rate(self) -> float:
        return self.answered_now / max((self._end or time.monotonic()) - self._start, 1e-9)


def show_cells(cells: Sequence[Cell], output: Path, console: Console | None = None) -> None:
    """What came of the sweep: how many cells ended how, each that failed with the reason, and the next command."""
    console = console or output_console()
    counts = {
        status: sum(cell.status == status for cell in cells) for status in ("done", "reused", "incomplete", "failed")
    }
    told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    console.print(f"{len(cells)} cells: {told}.", highlight=False)
    for cell in cells:
        if cell.status in ("failed", "incomplete"):
            text = f"{cell.status}: {cell.title}: {cell.error}{f' → {cell.hint}' if cell.hint else ''}"
            console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
    if counts["done"] or counts["reused"]:
        console.print(f"Next: sinkbench leaderboard {output}", highlight=False, markup=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
