"""RunSpec: the typed, validated description of one run, from a YAML file with the command line's flags on top."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from sinkbench.errors import UsageError, unknown_name
from sinkbench.judge import is_judging
from sinkbench.request import Generation

Name = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Count = Annotated[int, Field(ge=1)]
Stage = Literal["all", "prepare", "answer", "score"]
PAPER_ONLY = ("claims", "tiny")
"""What files of configs/papers hold beside settings: claims are for `sinkbench leaderboard --claims`."""
SCALES = ("full", "tiny")
"""Scales of a reproduction: a paper's own models and tasks, or what stands for them on the shipped ones."""


class GenerationOverrides(BaseModel):
    """What a run changes in the generation settings of its task; None leaves the task's own value.

    Attributes:
        max_new_tokens: Upper bound on generated tokens.
        do_sample: Sample instead of taking the arg-max.
        temperature: Divides the logits when sampling.
        top_p: Nucleus mass when sampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: Count | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None

    def apply(self, generation: Generation) -> Generation:
        """The task's settings with the overrides on top."""
        return replace(generation, **self.model_dump(exclude_none=True))


class RunSpec(BaseModel):
    """One run: a model, a method and a task.

    Attributes:
        model: Preset name (`sinkbench list models`), a local folder or a hub id.
        method: "var", or "a+b" to compose.
        task: Task name.
        params: Values by "method.param" or "task.param", for example {"var.tau": 5}.
        generation: Changes to the task's generation settings.
        limit: Answer the first so many samples only.
        seed: Seeds sampling and methods that draw at random.
        dtype: "auto" (the model's own on a GPU, float32 on a CPU) or a torch dtype's name.
        device: "auto", "cpu", "cuda" or "cuda:1".
        batch_size: Samples per batch, or "auto" for what the device's free memory holds.
        share_prefix: Prefill the part that questions about one image have in common once, for all methods of the
            command. Without it every question and every method runs alone: slower, for checking.
        data_dir: Folder with the task's data, instead of the hub.
        output: Folder below which run directories are made.
        stage: Which part of the run to do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Name
    task: Name
    method: Name = "greedy"
    params: dict[str, Any] = Field(default_factory=dict)
    generation: GenerationOverrides = GenerationOverrides()
    limit: Count | None = None
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")] = "auto"
    batch_size: Count | Literal["auto"] = "auto"
    share_prefix: bool = True
    data_dir: Path | None = None
    output: Path = Path("runs")
    stage: Stage = "all"

    @model_validator(mode="after")
    def _params_have_owners(self) -> Self:
        owners = [*self.methods, self.task]
        for key in self.params:
            if key.partition(".")[0] not in owners:
                raise ValueError(f"parameter {key!r} belongs neither to {self.method} nor to {self.task}")
        return self

    @property
    def methods(self) -> list[str]:
        """Names of the composed methods, one for a method that stands alone."""
        return self.method.split("+")

    @property
    def method_params(self) -> dict[str, Any]:
        """The method's share of `params`, keys as "method.param"."""
        return {key: value for key, value in self.params.items() if key.partition(".")[0] in self.methods}

    @property
    def task_params(self) -> dict[str, Any]:
        """The task's share of `params`, keys without the task's name."""
        return {key.partition(".")[2]: value for key, value in self.params.items() if key.startswith(f"{self.task}.")}

    @property
    def asking_params(self) -> dict[str, Any]:
        """`task_params` without those that say who judges: the answers do not depend on these."""
        return {key: value for key, value in self.task_params.items() if not is_judging(key)}

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary of every setting."""
        return self.model_dump(mode="json")


def questions_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec, as run.json has it, decides what is asked and how, whatever answers it."""
    params = {key: value for key, value in _task_params(spec).items() if not is_judging(key)}
    return {**{key: spec[key] for key in ("task", "limit", "generation", "data_dir")}, "params": params}


def judging_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec, as run.json has it, says who judges the answers."""
    return {key: value for key, value in _task_params(spec).items() if is_judging(key)}


def _task_params(spec: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{spec['task']}."
    return {key.removeprefix(prefix): value for key, value in spec["params"].items() if key.startswith(prefix)}


def run_id(
    spec: RunSpec, *, model: Mapping[str, Any], method_params: Mapping[str, Any], task: Mapping[str, Any]
) -> str:
    """SHA-256 (hex) over what decides which samples are answered and how.

    Batch size, device, output folder, stage and what is shared are left out: they may differ when a run is resumed, for
    they change answers by rounding only.

    Args:
        spec: The run.
        model: What identifies the weights and their preprocessing: id, revision or fingerprint, options.
        method_params: Every hyper-parameter of the method with defaults and per-model values filled in.
        task: What identifies the questions: name, version, fingerprint of the data.
    """
    deciding = {
        "model": dict(model),
        "method": {"name": spec.method, "params": dict(method_params)},
        "task": {**task, "params": spec.asking_params},
        "generation": spec.generation.model_dump(exclude_none=True),
        "limit": spec.limit,
        "seed": spec.seed,
        "dtype": spec.dtype,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UsageError: The file is missing, is no YAML, or holds something other than a mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read: {error.strerror}", "Check --config.") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"config file {path} is no valid YAML: {problem}", "Correct the line named.") from error
    if not isinstance(settings, dict):
        raise UsageError(
            f"config file {path} holds {type(settings).__name__}, not a mapping of settings",
            "Write one setting a line, for example `model: tiny-llava`.",
        )
    return settings


def expand(settings: Mapping[str, Any]) -> list[RunSpec]:
    """One spec for every combination of model, task and method.

    Runs of one model and task follow each other, so that they can share its weights and images. A parameter goes to the
    runs whose method or task it belongs to.

    Args:
        settings: Fields of RunSpec; `model`, `method` and `task` may hold several values, and `limit` one for each
            task that has one. The method "all" is every one there is.

    Raises:
        UsageError: A setting is unknown, missing or invalid, or a parameter belongs to no run.
    """
    settings = {key: value for key, value in settings.items() if key not in PAPER_ONLY}
    unknown = [key for key in settings if key not in RunSpec.model_fields]
    if unknown:
        raise unknown_name("setting", str(unknown[0]), RunSpec.model_fields)
    for key in ("model", "task"):
        if not settings.get(key):
            raise UsageError(f"no {key} is given", f"Add --{key} NAME; `sinkbench list {key}s` shows them all.")
    given = settings["model"]
    models = [given] if isinstance(given, str) and Path(given).exists() else _several(given)
    methods = _methods(settings.get("method", "greedy"))
    tasks = _tasks(settings["task"])
    params = settings.get("params") or {}
    if not isinstance(params, Mapping):
        raise UsageError(f"params: {params!r} is no mapping", "Write params: {var.tau: 5}.")
    owners = _owners(settings)
    for key in params:
        if key.partition(".")[0] not in owners:
            raise UsageError(
                f"parameter {key!r} belongs to no method and no task of this command",
                f"Write OWNER.PARAM=VALUE with OWNER one of: {', '.join(sorted(owners))}.",
            )
    limits = settings.get("limit")
    if isinstance(limits, Mapping):
        for task in limits:
            if task not in tasks:
                raise unknown_name("task in limit", str(task), tasks)
    specs = []
    for model, task, method in product(models, tasks, methods):
        limit = limits.get(task) if isinstance(limits, Mapping) else limits
        own = {*method.split("+"), task}
        mine = {key: value for key, value in params.items() if key.partition(".")[0] in own}
        deciding = {"model": model, "method": method, "task": task, "params": mine, "limit": limit}
        specs.append(_validated({**settings, **deciding}))
    return specs


def at_scale(config: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """The settings of a file of configs/papers at one scale: for "tiny" those of its `tiny` section go on top.

    A file without that section has the same settings at both.

    Raises:
        UsageError: There is no such scale, or the section is no mapping.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    tiny = config.get("tiny") or {}
    if not isinstance(tiny, Mapping):
        raise UsageError(f"tiny: {tiny!r} is no mapping of settings", "Write tiny: {model: tiny-llava}.")
    settings = {key: value for key, value in config.items() if key not in PAPER_ONLY}
    # What stands for the paper's tasks is for the claims too.
    changes = {key: value for key, value in tiny.items() if key != "stands_for"}
    return with_flags(settings, changes) if scale == "tiny" else settings


def with_flags(config: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config file with others on top.

    Parameters, limits and grids of the file go with their methods and tasks: those of one that the file names and the
    flags leave out are left out too.
    """
    merged = {**config, **flags}
    gone = _owners(config) - _owners(merged)
    for setting in ("params", "limit", "grid"):
        if isinstance(by_owner := merged.get(setting), Mapping):
            kept = {key: value for key, value in by_owner.items() if str(key).partition(".")[0] not in gone}
            merged[setting] = kept
    return merged


def _owners(settings: Mapping[str, Any]) -> set[str]:
    """Names before the dot of parameters that belong to the settings' methods and tasks."""
    methods = _methods(settings.get("method", "greedy"))
    return {part for method in methods for part in method.split("+")} | set(_tasks(settings.get("task") or ()))


def _tasks(value: Any) -> list[str]:
    """The tasks named, with a group's in the place of the group."""
    from sinkbench.tasks.catalog import task_groups

    return list(dict.fromkeys(name for given in _several(value) for name in task_groups().get(given, (given,))))


def _methods(value: Any) -> list[str]:
    """The methods named, with every method that can run by itself in the place of "all"."""
    from sinkbench.methods import runnable_names

    named = _several(value)
    every = [name for name in runnable_names() if name not in named]
    return [name for given in named for name in (every if given == "all" else [given])]


def _several(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else [value]
    names = [name.strip() for item in items for name in str(item).split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _validated(settings: dict[str, Any]) -> RunSpec:
    try:
        return RunSpec(**settings)
    except ValidationError as error:
        problems = "; ".join(f"{_where(e['loc'])}: {e['msg']} (given: {e['input']!r})" for e in error.errors())
        hint = "`sinkbench eval --help` shows what each setting takes."
        raise UsageError(f"invalid settings: {problems}", hint) from error


def _where(location: tuple[int | str, ...]) -> str:
    # Branches of a union ("constrained-int", "literal[...]") are no part of the setting's name.
    parts = [str(part) for part in location if isinstance(part, str) and re.fullmatch(r"[a-z_]+", part)]
    return ".".join(dict.fromkeys(parts)) or "settings"
