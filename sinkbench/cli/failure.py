"""What a user sees when something goes wrong: one panel on stderr, no traceback, the right exit code."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sinkbench.errors import SinkbenchError

INTERRUPTED = 130
DEBUG = "SINKBENCH_DEBUG"
"""Set to anything, this environment variable lets tracebacks through."""


def guarded(command: Callable[[], Any]) -> int:
    """Run the command line; turn what it raises into a panel and an exit code (SystemExit passes through)."""
    try:
        command()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if DEBUG in os.environ:
            raise
        if isinstance(error, SinkbenchError):
            show_error(error.message, error.hint)
            return error.exit_code
        show_error(
            f"unexpected {type(error).__name__}: {error}",
            f"{DEBUG}=1 before the command shows the traceback; report it together with `sinkbench doctor`.",
            title="Bug",
        )
        return 1
    return 0


@contextmanager
def resumable() -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM of a cluster's scheduler, end work that keeps its state; say how it goes on.

    Raises:
        typer.Exit: With 130, after either.
    """
    import typer

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        show_error("interrupted; finished samples are kept", "The same command goes on from here.", title="Interrupted")
        raise typer.Exit(INTERRUPTED) from None


def show_error(message: str, hint: str = "", title: str = "Error") -> None:
    """Print what is wrong and what to do next to stderr."""
    from rich.panel import Panel
    from rich.text import Text

    from sinkbench.cli.console import message_console

    body = Text(message)
    if hint:
        body.append(f"\n→ {hint}", style="bold")
    message_console().print(Panel(body, title=title, title_align="left", border_style="red"))
