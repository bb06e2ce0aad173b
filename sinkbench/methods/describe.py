"""What there is to tell of a method, from its class and its config: the source of every table of methods."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkbench.calibration.lookup import calibrated_models
from sinkbench.engine.context import Stage
from sinkbench.methods import distribution, method_class, method_config
from sinkbench.methods.facts import FAMILIES

if TYPE_CHECKING:
    from sinkbench.methods.facts import Paper

_ATTRIBUTE = re.compile(r"    (\w+)(?: \(.*?\))?: *(.*)")
"""The first line of an entry below "Attributes:"."""


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter.

    Attributes:
        name: What stands behind the dot of `--set METHOD.NAME=VALUE`.
        kind: Its type or, where these are few, its values.
        default: JSON-ready; None where a value must be given.
        meaning: What the class says of it.
    """

    name: str
    kind: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Values:
    """Values of hyper-parameters under one name.

    Attributes:
        name: A profile or a model.
        params: Values by parameter.
        source: Where they come from.
    """

    name: str
    params: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Description:
    """A method, described.

    Attributes:
        name: What the command line calls it.
        family: One of `FAMILIES`, or empty.
        summary: One line.
        paper: Its source, if it has one.
        edits: Stages whose result it changes, in order.
        observes: Stages that it looks at and leaves as they are.
        cost: One of `COSTS`, or empty.
        calibration: What must be measured before, or empty.
        calibrated: Models for which that is at hand, shipped or made by this user.
        calibrated_for: Of such models the methods for whose scores it is, where these make a difference.
        refocuses: Whether it answers another request than was asked.
        distribution: Name and version of the plug-in's distribution; empty for sinkbench's own methods.
        parameters: Its hyper-parameters.
        profiles: Sets of values that `--set NAME.profile=PROFILE` chooses.
        models: Values for one model each, which hold unless others are given.
    """

    name: str
    family: str
    summary: str
    paper: "Paper | None"
    edits: tuple[str, ...]
    observes: tuple[str, ...]
    cost: str
    calibration: str
    calibrated: tuple[str, ...]
    calibrated_for: dict[str, tuple[str, ...]]
    refocuses: bool
    distribution: str
    parameters: tuple[Parameter, ...]
    profiles: tuple[Values, ...]
    models: tuple[Values, ...]

    @property
    def touches(self) -> str:
        """What it edits and what else it reads, in words."""
        only_read = [stage for stage in self.observes if stage not in self.edits]
        parts = [f"{verb} {', '.join(each)}" for verb, each in (("edits", self.edits), ("reads", only_read)) if each]
        parts = [*(["changes the images"] if self.refocuses else []), *parts]
        return "; ".join(parts) or "nothing"

    def json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return dataclasses.asdict(self) | {"touches": self.touches}


def describe(name: str) -> Description:
    """All that is known of one method.

    Raises:
        UsageError: Nobody is called so.
    """
    cls, config = method_class(name), method_config(name)
    calibrated = calibrated_models(name) if cls.calibration else {}
    return Description(
        name=name,
        family=cls.family,
        summary=cls.summary,
        paper=cls.paper,
        edits=_stage_names(cls.edits),
        observes=_stage_names(cls.observes),
        cost=cls.cost,
        calibration=cls.calibration,
        calibrated=tuple(calibrated),
        calibrated_for={model: scoring for model, scoring in calibrated.items() if scoring},
        refocuses=cls.refocuses,
        distribution=distribution(name),
        parameters=parameters(cls),
        profiles=_values(config["profiles"]),
        models=_values(config["models"]),
    )


def in_order(names: Iterable[str]) -> list[Description]:
    """Methods as tables show them: by family, then by name."""
    place = {family: index for index, family in enumerate((*FAMILIES, ""))}
    return sorted(map(describe, names), key=lambda method: (place[method.family], method.name))


def _stage_names(stages: Stage) -> tuple[str, ...]:
    return tuple(str(stage.name).lower() for stage in stages)


def _values(entries: dict[str, Any]) -> tuple[Values, ...]:
    return tuple(Values(name, dict(entry["params"]), entry.get("source", "")) for name, entry in entries.items())


def parameters(cls: type) -> tuple[Parameter, ...]:
    """The fields of a frozen dataclass whose docstring explains them below "Attributes:"."""
    hints, meanings = typing.get_type_hints(cls), _meanings(cls)
    return tuple(
        Parameter(field.name, _kind(hints[field.name]), _default(field), meanings.get(field.name, ""))
        for field in dataclasses.fields(cls)
    )


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _kind(hint: Any) -> str:
    """A type as a user would call it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"list of {_kind(args[0])}"
    return getattr(hint, "__name__", str(hint))


def _meanings(cls: type) -> dict[str, str]:
    """What the docstrings of a class and of those that it derives from say below "Attributes:", by name."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        name = ""
        for line in section.splitlines():
            if entry := _ATTRIBUTE.fullmatch(line):
                name = entry[1]
                meanings[name] = entry[2]
            elif name and line.startswith("     "):
                meanings[name] += f" {line.strip()}"
            elif line.strip():
                break
    return meanings
