"""The calibrators by the name of their method. No torch until one is loaded.

A distribution of its own names the calibrators of its methods in its pyproject.toml:

    [project.entry-points."sinkbench.calibrators"]
    halve = "some_package.halve:FindShare"
"""

import logging
import typing
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from sinkbench.errors import UsageError, unknown_name
from sinkbench.methods import method_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from sinkbench.calibration.base import Calibrator

GROUP = "sinkbench.calibrators"
"""The entry point group: a method's name = module:Class."""

_CLASSES = {
    "act": "sinkbench.calibration.act:FindHeads",
    "debias": "sinkbench.calibration.debias:FindTrend",
    "dyvte": "sinkbench.calibration.dyvte:TrainGates",
    "iri": "sinkbench.calibration.iri:TraceRates",
    "var": "sinkbench.calibration.var:FindSinks",
    "vflowopt": "sinkbench.calibration.vflowopt:SearchRates",
}

_log = logging.getLogger(__name__)


def calibrator_names() -> list[str]:
    """Methods that can be calibrated."""
    return sorted({*_CLASSES, *_plugins()})


def calibrator_class(method: str) -> "type[Calibrator]":
    """The calibrator of one method.

    Raises:
        UsageError: There is no such method, it needs none, or its plug-in is broken.
    """
    from sinkbench.calibration.base import Calibrator

    if method in _CLASSES:
        module, _, name = _CLASSES[method].partition(":")
        return typing.cast("type[Calibrator]", getattr(import_module(module), name))
    if method in _plugins():
        entry = _plugins()[method]
        try:
            cls = entry.load()
        except Exception as error:  # Whatever a stranger's module raises.
            raise _broken(entry, f"{type(error).__name__}: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, Calibrator)):
            raise _broken(entry, f"{cls!r} is no subclass of {Calibrator.__module__}.Calibrator")
        return cls
    if "+" in method:
        raise UsageError(f"{method} is a composition", "Calibrate each method by itself.")
    if method not in method_names():
        raise unknown_name("method", method, method_names())
    raise UsageError(f"{method} needs no calibration", f"Those that do: {', '.join(calibrator_names())}.")


def _broken(entry: "EntryPoint", reason: str) -> UsageError:
    source = entry.dist.name if entry.dist else "an unnamed distribution"
    return UsageError(f"the calibrator of {entry.name} in {source} ({entry.value}) is broken: {reason}", "Mend it.")


@cache
def _plugins() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in _CLASSES or entry.name in found:
            _log.warning("calibrator %r (%s) is left out: another one has this name", entry.name, entry.value)
        else:
            found[entry.name] = entry
    return found
