"""What tasks there are: their YAML read without lm-eval, so that lists and checks stay instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from sinkbench.errors import UsageError, unknown_name
from sinkbench.paths import resource

Direction = Literal["higher", "lower", "neutral"]

_DIRECTIONS: dict[bool | None, Direction] = {True: "higher", False: "lower", None: "neutral"}


@dataclass(frozen=True)
class TaskInfo:
    """A task as its YAML describes it.

    Attributes:
        name: Task name.
        summary: One line on what it asks.
        version: Changes when the scores of old answers would change.
        source: Kind of data: "scenes" (a Scenes folder), "table" (see `tables`), or "chair" and "amber" (a table and
            word lists, see `captions`).
        hub: Dataset id on the hub; empty for a task whose data are not there.
        has_images: Whether its questions are about images.
        scheme: Family of its metrics in `sinkbench.scoring.schemes`.
        metrics: Metric name to direction.
        generation: lm-eval's generation_kwargs.
        params: What `load_task` lets one change, with defaults.
        choices: The allowed values of each parameter; empty: any of the default's type.
        settings: The whole `metadata` entry.
    """

    name: str
    summary: str
    version: str
    source: str
    hub: str
    has_images: bool
    scheme: str
    metrics: Mapping[str, Direction]
    generation: Mapping[str, Any]
    params: Mapping[str, Any]
    choices: Mapping[str, list[Any]]
    settings: Mapping[str, Any]

    def with_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with some of them replaced.

        Raises:
            UsageError: A parameter is unknown, has the wrong type or a value that is not offered.
        """
        for key, value in given.items():
            if key not in self.params:
                raise unknown_name("parameter", f"{self.name}.{key}", [f"{self.name}.{name}" for name in self.params])
            default, allowed = self.params[key], self.choices[key]
            if type(value) is not type(default) or (allowed and value not in allowed):
                expected = f"one of {', '.join(map(str, allowed))}" if allowed else type(default).__name__
                raise UsageError(
                    f"{self.name}.{key} must be {expected}, not {value!r}",
                    f"The default is {default}: `--set {self.name}.{key}={default}`.",
                )
        return {**self.params, **given}


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML and leaves `!function` references as strings."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    base = config.pop("include", None)
    return {**_read(path.parent / base), **config} if base else config


@cache
def _configs() -> list[dict[str, Any]]:
    return [_read(path) for path in sorted(resource("tasks").rglob("*.yaml"))]


@cache
def _catalog() -> dict[str, TaskInfo]:
    return {config["task"]: _info(config) for config in _configs() if isinstance(config.get("task"), str)}


@cache
def task_groups() -> dict[str, tuple[str, ...]]:
    """Groups of tasks (lm-eval's `group`) and their members."""
    return {config["group"]: tuple(config["task"]) for config in _configs() if "group" in config}


def _info(config: Mapping[str, Any]) -> TaskInfo:
    settings = config["metadata"]
    return TaskInfo(
        name=config["task"],
        summary=settings["summary"],
        version=str(settings["version"]),
        source=settings["source"],
        hub=settings.get("hub", ""),
        has_images="doc_to_image" in config,
        scheme=settings["scheme"],
        metrics={entry["metric"]: _DIRECTIONS[entry["higher_is_better"]] for entry in config["metric_list"]},
        generation=config["generation_kwargs"],
        params={name: settings[name] for name in settings.get("params", ())},
        choices=settings.get("params", {}),
        settings=settings,
    )


def task_names() -> list[str]:
    """Every task, sorted."""
    return sorted(_catalog())


def task_info(name: str) -> TaskInfo:
    """One task.

    Raises:
        UsageError: There is no such task; suggests the nearest names.
    """
    if name not in _catalog():
        raise unknown_name("task", name, [*_catalog(), *task_groups()])
    return _catalog()[name]
