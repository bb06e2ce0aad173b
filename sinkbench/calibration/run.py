"""`sinkbench calibrate` from its settings to a calibration on disk."""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from sinkbench import __version__
from sinkbench.adapters import ModelPreset, check_available, load_adapter, resolve_model
from sinkbench.adapters.families import TEXT
from sinkbench.calibration.artefact import Calibration
from sinkbench.calibration.base import Bench, Calibrator, Found, Progress
from sinkbench.calibration.lookup import user_file
from sinkbench.calibration.registry import calibrator_class
from sinkbench.environment import git_state
from sinkbench.errors import UsageError
from sinkbench.inspection.prompts import PROMPTS
from sinkbench.methods import calibrated_for, get_method, profile_params, typed_fields
from sinkbench.record import model_identity
from sinkbench.store import check_writable
from sinkbench.tasks import check_data, task_info

if TYPE_CHECKING:
    from torch import Tensor

N, SEED = 40, 0
"""Scenes to render, and what decides them, unless the user says."""


@dataclass(frozen=True)
class Settings:
    """What to calibrate.

    Attributes:
        method: Name of one method.
        model: Preset, local folder or hub id.
        task: Whose questions to learn from; None where the calibrator needs none.
        params: Settings of the calibrator and hyper-parameters of the method by "METHOD.NAME", the task's by
            "TASK.NAME".
        n: Scenes to render.
        seed: Decides the scenes, and whatever the calibrator draws.
        data_dir: Folder with the task's data instead.
        limit: Learn from the first so many questions only.
        output: File to write; None takes the user's folder.
        pictures: Whether to draw the evidence.
        device: Where to run.
        dtype: Weights' type.
        batch_size: Most samples in a batch.
    """

    method: str
    model: str
    task: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    n: int = N
    seed: int = SEED
    data_dir: Path | None = None
    limit: int | None = None
    output: Path | None = None
    pictures: bool = True
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | Literal["auto"] = "auto"

    def command(self, model: str) -> str:
        """What makes the calibration again: folders by name, without what changes answers by rounding only."""
        parts = ["sinkbench", "calibrate", self.method, "--model", model]
        if self.task:
            parts += ["--task", self.task]
        if self.data_dir is not None:
            parts += ["--data-dir", self.data_dir.resolve().name]
        elif self.task:
            parts += ["--n", str(self.n)]
        parts += ["--seed", str(self.seed)]
        if self.limit is not None:
            parts += ["--limit", str(self.limit)]
        for key, value in self.params.items():
            parts += ["--set", f"{key}={value if isinstance(value, str) and value else json.dumps(value)}"]
        return shlex.join(parts)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        calibration: As it was written.
        file: Where.
        table: What to show of it: a header and rows.
        picture: The PNG beside the file, if there is one.
    """

    calibration: Calibration
    file: Path
    table: list[tuple[str, ...]]
    picture: Path | None


def calibrate(
    settings: Settings, say: Callable[[str], None] = lambda _: None, progress: Progress = lambda _done, _total: None
) -> Outcome:
    """Measure what a method needs to know of a model, and write it down.

    Args:
        settings: What to calibrate.
        say: Told what goes on.
        progress: Told how far it is.

    Raises:
        UsageError: A name, setting, file or device is wrong, or the data are what the task evaluates.
        SinkbenchError: Nothing was found that the method could use.
    """
    calibrator, scoring, (params, scoring_params, task_params) = _parts(settings)
    preset = resolve_model(settings.model)
    _check(settings, calibrator, preset, task_params)
    if scoring:
        get_method(scoring, scoring_params, preset.name)
    file = settings.output or user_file(settings.method, preset.name, scoring)
    check_writable(file.parent)
    check_available(preset)
    method = get_method(settings.method, params, preset.name)
    with TemporaryDirectory(prefix="sinkbench-calibrate-") as folder:
        bench: dict[str, Any] = {}
        about = _built_in()
        if settings.task:
            from sinkbench.calibration.data import load_data

            say(f"reading the questions of {settings.task}" if settings.data_dir else f"rendering {settings.n} scenes")
            data = load_data(
                settings.task,
                settings.data_dir,
                Path(folder),
                n=settings.n,
                seed=settings.seed,
                limit=settings.limit,
                params=task_params,
            )
            bench, about = {"questions": data.questions, "task": data.task}, data.about
        say(f"loading {preset.name}")
        adapter = load_adapter(preset, settings.device, settings.dtype)
        say(f"calibrating {settings.method} on {about['n']} questions")
        bench |= {"seed": settings.seed, "batch_size": settings.batch_size, "progress": progress}
        found = calibrator.measure(Bench(adapter, method, scoring=scoring_params, **bench))
        calibration = _document(settings, preset, str(adapter.dtype).removeprefix("torch."), calibrator, found, about)
        contents = {name: tensors_file(tensors) for name, tensors in found.tensors.items()}
        calibration = calibration.naming(contents, file.stem)
        # What a run would refuse must not be written.
        trial = Path(folder) / "trial" / file.name
        calibration.write(trial, contents)
        values = Calibration.read(trial).values()
        get_method(settings.method, {**params, **values}, preset.name).bind(adapter.info)
    calibration.write(file, contents)
    picture = file.with_suffix(".png")
    title = f"{preset.name}: {settings.method}"
    drawn = settings.pictures and calibrator.draw(found.evidence, title, picture)
    return Outcome(Calibration.read(file), file, found.table, picture if drawn else None)


def tensors_file(tensors: Mapping[str, "Tensor"]) -> bytes:
    """A safetensors file with these tensors by name."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})  # type: ignore[no-any-return]


def _parts(settings: Settings) -> tuple[Calibrator, str, tuple[dict[str, Any], ...]]:
    """The calibrator; the method for whose scores it is; and parameters of the method, of that one, and of the task."""
    cls = calibrator_class(settings.method)
    own = {field.name for field in dataclasses.fields(cls)}
    scoring = _scoring(settings, cls)
    shares: dict[str, dict[str, Any]] = {"calibrator": {}, "method": {}, "scoring": {}, "task": {}}
    for key, value in settings.params.items():
        owner, _, name = key.partition(".")
        if owner not in (settings.method, settings.task, scoring):
            methods = " nor to ".join(filter(None, (settings.method, scoring)))
            raise UsageError(
                f"parameter {key!r} belongs neither to {methods} nor to a task of this command",
                f"Write --set {settings.method}.NAME=VALUE; settings of its calibration: {', '.join(sorted(own))}.",
            )
        if name == "calibration":
            raise UsageError(f"{key} is for runs", "Leave it out: a calibration does not start from another one.")
        by_owner = {settings.task: "task", scoring: "scoring"}
        share = by_owner.get(owner) or ("calibrator" if name in own else "method")
        shares[share][name] = value
    calibrator = cls(**typed_fields(cls, settings.method, shares["calibrator"]))
    if not {*shares["method"]} <= {"profile", *_fields(settings.method)}:
        # The nearest name may be a setting's.
        typed_fields(cls, settings.method, shares["method"], _fields(settings.method))
    return calibrator, scoring, (shares["method"], shares["scoring"], shares["task"])


def _scoring(settings: Settings, cls: type[Calibrator]) -> str:
    """The method for whose scores the calibration will be (`Method.calibrated_for`), or empty."""
    own = {
        key.partition(".")[2]: value for key, value in settings.params.items() if key.startswith(f"{settings.method}.")
    }
    given = profile_params(settings.method, own.get("profile")) | own
    return calibrated_for(settings.method, (), given) or cls.scoring


def _fields(method: str) -> list[str]:
    from sinkbench.methods import method_class

    return [field.name for field in dataclasses.fields(method_class(method))]


def _check(settings: Settings, calibrator: Calibrator, preset: ModelPreset, task_params: Mapping[str, Any]) -> None:
    if settings.task is None:
        if calibrator.needs_task:
            raise UsageError(
                f"the calibration of {settings.method} asks questions, and no task is given",
                "Add --task NAME, for example --task scenes_pope; its evaluation split is never used.",
            )
        if settings.data_dir is not None:
            raise UsageError("--data-dir is given, and no task", "Add --task NAME.")
        return
    info = task_info(settings.task)
    if info.has_images and preset.family == TEXT:
        raise UsageError(
            f"model {preset.name} reads text only; the questions of {settings.task} are about images",
            "Choose a vision-language model: `sinkbench list models` shows the family of each.",
        )
    from sinkbench.calibration.data import check_source

    calibrator.check_task(settings.task)
    check_source(settings.task, settings.data_dir)
    if settings.data_dir is not None:
        check_data(settings.task, settings.data_dir, task_params)
    info.with_params(task_params)


def _built_in() -> dict[str, Any]:
    """The `data` entry where no task is asked."""
    return {
        "task": None,
        "split": "none",
        "seed": None,
        "folder": None,
        "fingerprint": hashlib.sha256(json.dumps(PROMPTS).encode()).hexdigest(),
        "dataset": "",
        "n": len(PROMPTS),
    }


def _document(
    settings: Settings, preset: ModelPreset, dtype: str, calibrator: Calibrator, found: Found, about: dict[str, Any]
) -> Calibration:
    identity = model_identity(preset)
    commit, dirty = git_state()
    return Calibration(
        method=settings.method,
        model={
            "name": preset.name,
            **{key: identity[key] for key in ("id", "revision", "fingerprint", "options")},
            "dtype": dtype,
        },
        data=about,
        settings=calibrator.settings(),
        params=found.params,
        evidence=found.evidence,
        code={"version": __version__, "commit": commit, "dirty": dirty},
        command=settings.command(preset.name),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
