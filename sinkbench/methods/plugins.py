"""Methods of other distributions, found by their entry points. No torch until there is one to load.

A distribution names its methods in its pyproject.toml, each as the class itself does:

    [project.entry-points."sinkbench.methods"]
    halve = "some_package.halve:Halve"
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from sinkbench.methods.base import Method

GROUP = "sinkbench.methods"
"""The entry point group: a method's name = module:Class."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A method of another distribution.

    Attributes:
        cls: The method.
        distribution: Name and version of what it was installed with.
    """

    cls: "type[Method]"
    distribution: str


class BrokenPluginError(Exception):
    """An entry point that gives no method; the message is the reason."""


def load_plugins(taken: Iterable[str]) -> dict[str, Plugin]:
    """The plug-ins by name. One that is broken is left out, with a warning in the log.

    Args:
        taken: Names that no plug-in can have.
    """
    from importlib.metadata import entry_points

    found: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUP):
        source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"
        try:
            found[entry.name] = Plugin(_load(entry, {*taken, *found}), source)
        except Exception as error:  # Whatever a stranger's module raises, the other methods go on.
            reason = error if isinstance(error, BrokenPluginError) else f"{type(error).__name__}: {error}"
            _log.warning("method %r of %s (%s) is left out: %s", entry.name, source, entry.value, reason)
    return found


def _load(entry: "EntryPoint", taken: set[str]) -> "type[Method]":
    """The class behind an entry point.

    Raises:
        BrokenPluginError: It cannot be used as a method.
        Exception: Importing it failed.
    """
    if entry.name in taken:
        raise BrokenPluginError("another method has this name")
    if not entry.name.replace("-", "_").isidentifier():
        raise BrokenPluginError("a name is made of letters, digits, - and _")
    return _checked(entry.load(), entry.name)


def _checked(cls: Any, name: str) -> "type[Method]":
    """`cls`, if all is there that tables and parameters are made from."""
    from sinkbench.engine.context import Stage
    from sinkbench.methods.base import Method
    from sinkbench.methods.facts import COSTS, FAMILIES, Paper

    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise BrokenPluginError(f"{cls!r} is no subclass of sinkbench.methods.base.Method")
    kinds = {"name": str, "summary": str, "paper": Paper | None, "edits": Stage, "observes": Stage}
    kinds |= {"calibration": str, "calibrated_for": str}
    for key, kind in kinds.items():
        if not isinstance(getattr(cls, key, ...), kind):
            raise BrokenPluginError(f"{cls.__name__}.{key} is missing or no {getattr(kind, '__name__', kind)}")
    if cls.name != name:
        raise BrokenPluginError(f"{cls.__name__} calls itself {cls.name!r}")
    for key, known in (("family", FAMILIES), ("cost", COSTS)):
        if getattr(cls, key) not in ("", *known):
            raise BrokenPluginError(f"{cls.__name__}.{key} {getattr(cls, key)!r} is none of: {', '.join(known)}")
    get_type_hints(cls)
    return cls
