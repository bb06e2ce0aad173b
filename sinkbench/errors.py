"""Errors that a user sees: what was given, what was expected, what to type next."""

import difflib
from collections.abc import Iterable


class SinkbenchError(Exception):
    """A failure with a readable explanation and the exit code it deserves.

    Args:
        message: What went wrong, naming the thing that was given and what was expected.
        hint: What to type or do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SinkbenchError):
    """The command line, a config file or an input file is wrong (exit code 2)."""

    exit_code = 2


class IncompleteError(SinkbenchError):
    """The run ended but some samples failed (exit code 3)."""

    exit_code = 3


class RegressionError(SinkbenchError):
    """A threshold or regression check was missed (exit code 4)."""

    exit_code = 4


class SampleError(Exception):
    """One sample cannot be answered (a broken image, a prompt that is too long); the run goes on without it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that no registry holds; suggests the nearest known names.

    Args:
        kind: What the name should have been: "method", "model", "task" or "parameter".
        name: What was given.
        known: Every valid name.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names)}."
    if kind in ("method", "model", "task"):
        hint += f" `sinkbench list {kind}s` shows them all."
    return UsageError(f"unknown {kind} {name!r}", hint)
