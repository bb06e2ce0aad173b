"""How training shows where it is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

PLAIN_SECONDS = 10.0


class Progress:
    """Shows the spent share of the budget, the loss, the speed and the time left.

    Args:
        name: What is trained.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Fraction and time of the first update, which comes after compilation.
        self._anchor: tuple[float, float] | None = None
        self._printed = float("-inf")
        self._bar: Bar | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=1.0)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, fraction: float, line: Mapping[str, float]) -> None:
        """Show a line of the training log.

        Args:
            fraction: Share of the budget spent.
            line: Step, loss, images_per_s as logged.
        """
        now = time.monotonic()
        if self._anchor is None:
            self._anchor = fraction, now
        done, spent = fraction - self._anchor[0], now - self._anchor[1]
        left = f"{(1 - fraction) / done * spent:.0f} s left" if done > 0 else "measuring"
        text = f"{self._name} step {line['step']:.0f} loss {line['loss']:.4f} {line['images_per_s']:.0f} img/s, {left}"
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, description=text)
        elif now - self._printed >= PLAIN_SECONDS or fraction >= 1.0:
            self._printed = now
            print(f"{100 * fraction:5.1f} % {text}", file=sys.stderr, flush=True)
