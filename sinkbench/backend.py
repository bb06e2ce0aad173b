"""What the runner needs of the rest of the house, in one place, each part imported when it is first used."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sinkbench.errors import UsageError, unknown_name
from sinkbench.request import Request, Response

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset
    from sinkbench.calibration.artefact import Calibration
    from sinkbench.methods.base import Method
    from sinkbench.spec import RunSpec
    from sinkbench.tasks.review import Review


class Task(Protocol):
    """A loaded task."""

    def describe(self) -> dict[str, Any]:
        """The `task` entry of run.json as far as the task knows it: name, version, split, and so on."""

    def requests(self, image_folder: Path, limit: int | None) -> Iterable[Request]:
        """Its questions; images that are no files yet are written to the folder."""

    def review(self) -> "Review | None":
        """How a judge is asked about its answers; None for a task that rules can score."""

    def score(
        self, answers: Mapping[str, str], replies: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], Mapping[str, Mapping[str, Any]]]:
        """Metrics, and what scoring adds to each sample, from the answers and a judge's replies by request id."""


class Engine(Protocol):
    """Answers requests under one method or several (sinkbench.engine.Engine)."""

    def answer(self, requests: Iterable[Request]) -> Iterator[list[Response]]:
        """Finished batches of the one method, in any order."""

    def sweep(
        self, requests: Iterable[Request], wanted: Callable[[str, Request], bool]
    ) -> Iterator[tuple[str, list[Response]]]:
        """Finished batches with their method's name, in any order; `wanted` says which method answers a request.

        Requests are read as needed, in another thread.
        """

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """Efficiency numbers of everything answered so far under a method."""


class Backend(Protocol):
    """Names, tasks, models and engines; tests put small ones in its place. Every check raises UsageError."""

    def check_names(self, spec: "RunSpec") -> "ModelPreset":
        """See that model, method and task exist; the model's preset."""

    def check_data(self, spec: "RunSpec") -> None:
        """See that the task's data can be had and its parameters exist."""

    def check_model(self, preset: "ModelPreset") -> None:
        """See that the weights can be had."""

    def calibrations(
        self, spec: "RunSpec", preset: "ModelPreset", identity: Mapping[str, Any]
    ) -> "Mapping[str, Calibration]":
        """The calibrations that the run's methods take, by method.

        Args:
            spec: The run.
            preset: Its model.
            identity: What identifies the weights (`record.model_identity`).
        """

    def method(self, spec: "RunSpec", preset: "ModelPreset", calibrations: "Mapping[str, Calibration]") -> "Method":
        """The method with its parameters."""

    def task(self, spec: "RunSpec") -> Task:
        """Load the task and its documents."""

    def adapter(self, preset: "ModelPreset", device: str, dtype: str) -> Any:
        """Load the weights; what comes back has a `device` and a `dtype`."""

    def engine(
        self,
        adapter: Any,
        methods: "Mapping[str, Method]",
        batch_size: int | Literal["auto"],
        seed: int,
        share_prefix: bool,
    ) -> Engine:
        """An engine for a loaded model and methods by any name."""


class LmEvalTask:
    """A task of lm-eval's YAML format.

    Args:
        name: Task name.
        data_dir: Folder with its data, or None.
        params: Values for its parameters.
        images_needed: See `load_task`.

    Attributes:
        loaded: lm-eval's task object.
    """

    def __init__(
        self, name: str, data_dir: Path | None, params: Mapping[str, Any], *, images_needed: bool = True
    ) -> None:
        from sinkbench.tasks import load_task
        from sinkbench.tasks.review import Review

        self._name, self._params = name, params
        self.loaded = load_task(name, data_dir, params, images_needed=images_needed)
        self._review = Review.of(self.loaded, params)

    def describe(self) -> dict[str, Any]:
        """See `Task`; the headline is the first metric of the YAML."""
        from sinkbench.judge import is_judging
        from sinkbench.tasks import documents, recorded_data, task_fingerprint, task_info

        info = task_info(self._name)
        data = recorded_data(self.loaded)
        settings = {name: value for name, value in info.with_params(self._params).items() if not is_judging(name)}
        return {
            "name": self._name,
            "version": info.version,
            "split": self.loaded.config.test_split,
            "fingerprint": task_fingerprint(self.loaded),
            "scheme": info.scheme,
            "headline": next(iter(info.metrics)),
            "n_total": len(documents(self.loaded)),
            **({"settings": settings} if settings else {}),
            **({"data": data} if data else {}),
        }

    def requests(self, image_folder: Path, limit: int | None) -> Iterable[Request]:
        """See `Task`."""
        from sinkbench.tasks import build_requests

        return build_requests(self.loaded, image_folder, limit)

    def review(self) -> "Review | None":
        """See `Task`."""
        return self._review

    def score(
        self, answers: Mapping[str, str], replies: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], Mapping[str, Mapping[str, Any]]]:
        """See `Task`."""
        from sinkbench.tasks import score_samples

        metrics, samples = score_samples(self.loaded, answers, replies=replies)
        return {name: dict(metric) for name, metric in metrics.items()}, samples


class LocalBackend:
    """sinkbench's own parts."""

    def check_names(self, spec: "RunSpec") -> "ModelPreset":
        """See `Backend`."""
        from sinkbench.adapters import resolve_model
        from sinkbench.adapters.families import TEXT
        from sinkbench.methods import method_names
        from sinkbench.tasks import task_info

        preset = resolve_model(spec.model)
        for name in spec.methods:
            if name not in method_names():
                raise unknown_name("method", name, method_names())
        if task_info(spec.task).has_images and preset.family == TEXT:
            raise UsageError(
                f"model {preset.name} reads text only; the questions of {spec.task} are about images",
                "Choose a vision-language model: `sinkbench list models` shows the family of each.",
            )
        return preset

    def check_data(self, spec: "RunSpec") -> None:
        """See `Backend`."""
        from sinkbench.tasks import check_data

        check_data(spec.task, spec.data_dir, spec.task_params)

    def check_model(self, preset: "ModelPreset") -> None:
        """See `Backend`."""
        from sinkbench.adapters import check_available

        check_available(preset)

    def calibrations(
        self, spec: "RunSpec", preset: "ModelPreset", identity: Mapping[str, Any]
    ) -> "Mapping[str, Calibration]":
        """See `Backend`."""
        from sinkbench.calibration.lookup import calibrations_for
        from sinkbench.tasks import dataset_fingerprint

        found = calibrations_for(spec.methods, spec.method_params, preset.name, identity)
        for calibration in found.values():
            calibration.check_unseen(spec.task, dataset_fingerprint(spec.task, spec.data_dir))
        return found

    def method(self, spec: "RunSpec", preset: "ModelPreset", calibrations: "Mapping[str, Calibration]") -> "Method":
        """See `Backend`."""
        from sinkbench.methods import get_method

        return get_method(spec.method, spec.method_params, preset.name, calibrations)

    def task(self, spec: "RunSpec") -> Task:
        """See `Backend`."""
        return LmEvalTask(spec.task, spec.data_dir, spec.task_params)

    def adapter(self, preset: "ModelPreset", device: str, dtype: str) -> Any:
        """See `Backend`."""
        from sinkbench.adapters import load_adapter

        return load_adapter(preset, device, dtype)

    def engine(
        self,
        adapter: Any,
        methods: "Mapping[str, Method]",
        batch_size: int | Literal["auto"],
        seed: int,
        share_prefix: bool,
    ) -> Engine:
        """See `Backend`."""
        from sinkbench.engine import Engine as LocalEngine

        return LocalEngine(adapter, methods, batch_size, seed, share_prefix)
