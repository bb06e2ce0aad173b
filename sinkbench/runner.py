"""From RunSpecs to finished run directories: check everything, then prepare, answer and score each run.

Only what a stage needs is imported: answering needs neither lm-eval nor datasets, preparing and scoring need no model.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkbench.backend import Backend, LocalBackend, Task
from sinkbench.environment import environment, git_state
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.images import with_absolute_images, with_copied_images
from sinkbench.record import UNSCORED, Record, answers, model_identity, new_record, resumed, sample_row, touch
from sinkbench.request import Request
from sinkbench.spec import RunSpec, run_id
from sinkbench.store import Row, RunStore, check_writable, read_record

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset
    from sinkbench.methods.base import Method


class Reporter:
    """Is told how runs go. This one keeps silent; the command line's shows progress."""

    def run(self, title: str) -> None:
        """A run begins."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def answering(self, total: int, done: int) -> None:
        """The answer stage begins; `done` of `total` samples were answered before."""

    def answered(self, n: int, failed: int) -> None:
        """A batch of `n` samples is on disk, `failed` of them without an answer."""

    def finished(self) -> None:
        """The answer stage ended."""


@dataclass(frozen=True)
class Outcome:
    """A run that came to its end.

    Attributes:
        directory: The run directory.
        record: The content of its run.json.
        reused: Nothing was to be done.
    """

    directory: Path
    record: Record
    reused: bool = False

    @property
    def n_failed(self) -> int:
        """Samples without an answer."""
        return int(self.record["task"]["n_failed"])

    def first_failure(self) -> str:
        """Id and reason of one failed sample."""
        failed = next(row for row in RunStore(self.directory).samples().values() if row["error"])
        return f"{failed['id']}: {failed['error']}"


@dataclass(frozen=True)
class Plan:
    """A run that has passed the checks.

    Attributes:
        spec: What was asked for.
        preset: Its model.
        method: Its method with all parameters.
        identity: What identifies the weights (record.model_identity).
    """

    spec: RunSpec
    preset: "ModelPreset"
    method: "Method"
    identity: dict[str, Any]

    @property
    def title(self) -> str:
        """For progress and messages."""
        return f"{self.preset.name} × {self.spec.method} × {self.spec.task}"

    @property
    def stem(self) -> str:
        """The run directory's name without the run id."""
        parts = (self.preset.name, self.spec.method, self.spec.task)
        return "__".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)

    def run_id(self, task: dict[str, Any]) -> str:
        """The run's id, given the description of its task."""
        deciding = {key: task[key] for key in ("name", "version", "fingerprint")}
        return run_id(self.spec, model=self.identity, method_params=self.method.params(), task=deciding)


def run(
    specs: Sequence[RunSpec], *, reporter: Reporter | None = None, fresh: bool = False, backend: Backend | None = None
) -> list[Outcome]:
    """Do every run, after all of them have passed the checks.

    A run whose id is on disk is resumed: answered samples are kept, failed ones are retried, and one that has succeeded
    is returned as it is. Runs of one model share the loaded weights.

    Args:
        specs: The runs.
        reporter: Is told about progress.
        fresh: Forget what earlier runs of the same ids left.
        backend: Tasks, models and engines; sinkbench's own by default.

    Raises:
        UsageError: A name, parameter, file or device is wrong; raised before the first run where that can be known.
        KeyboardInterrupt: Passed on after the state is saved (status "interrupted").
    """
    reporter = reporter or Reporter()
    backend = backend or LocalBackend()
    models = _Models(backend, reporter)
    return [_Run(plan, backend, models, reporter).execute(fresh) for plan in check(specs, backend)]


def check(specs: Sequence[RunSpec], backend: Backend) -> list[Plan]:
    """Check all runs, the cheap things first, so that a typing error in the last one costs no time.

    Raises:
        UsageError: Something is wrong.
    """
    presets = [backend.check_names(spec) for spec in specs]
    for output in {spec.output for spec in specs}:
        check_writable(output)
    inputs: list[Callable[[], None]] = []
    for spec, preset in zip(specs, presets, strict=True):
        if spec.stage in ("all", "prepare"):
            inputs.append(partial(backend.check_data, spec))
        if spec.stage in ("all", "answer") or preset.is_local:
            inputs.append(partial(backend.check_model, preset))
    _check_all(inputs)
    methods = [backend.method(spec, preset) for spec, preset in zip(specs, presets, strict=True)]
    identities = {path: model_identity(preset) for path, preset in {p.path: p for p in presets}.items()}
    return [
        Plan(spec, preset, method, identities[preset.path])
        for spec, preset, method in zip(specs, presets, methods, strict=True)
    ]


def _check_all(checks: Sequence[Callable[[], None]]) -> None:
    """Do every check and tell all that is missing at once: fetching a model to learn that data lack too helps nobody.

    Raises:
        UsageError: The errors of all checks that failed.
    """
    faults: dict[str, UsageError] = {}
    for check_input in checks:
        try:
            check_input()
        except UsageError as error:
            faults.setdefault(error.message, error)
    if faults:
        raise UsageError("\n".join(faults), "\n→ ".join(fault.hint for fault in faults.values()))


@dataclass
class _Models:
    """Keeps the model that was loaded last, for the runs that share it."""

    backend: Backend
    reporter: Reporter
    key: tuple[str, ...] = ()
    adapter: Any = None

    def get(self, plan: Plan) -> Any:
        """The plan's model on its device."""
        key = (plan.preset.name, plan.preset.path, plan.spec.device, plan.spec.dtype)
        if self.key != key:
            self.reporter.note(f"loading {plan.preset.name}")
            self.adapter = None  # Two models may not fit in memory.
            self.adapter, self.key = self.backend.adapter(plan.preset, plan.spec.device, plan.spec.dtype), key
        return self.adapter


@dataclass
class _Run:
    """One run on its way through the stages."""

    plan: Plan
    backend: Backend
    models: _Models
    reporter: Reporter
    task: Task | None = field(init=False, default=None)
    store: RunStore = field(init=False)
    record: Record = field(init=False)

    def execute(self, fresh: bool) -> Outcome:
        """Do the stages that the spec asks for, and keep run.json true whatever happens."""
        spec = self.plan.spec
        self.reporter.run(self.plan.title)
        # Answering must work where lm-eval is not installed.
        self.task = None if spec.stage == "answer" else self.backend.task(spec)
        self.store, task = self._locate()
        with self.store.locked():
            if fresh and spec.stage != "score":
                self.store.clear()
            earlier = self.store.read_run()
            self.record = self._begin(task, earlier)
            try:
                if spec.stage in ("all", "prepare"):
                    self._prepare()
                pending = self._pending()
                if earlier and earlier["status"] == "success" and not pending and spec.stage != "score":
                    return self._reuse(earlier)
                if spec.stage in ("all", "prepare"):
                    self._save("started", stage="prepare")
                if spec.stage in ("all", "answer"):
                    self._answer(pending)
                if spec.stage in ("all", "score"):
                    self._score()
            except KeyboardInterrupt:
                self._save("interrupted")
                raise
            except Exception as error:
                self._save("error", error=error)
                raise
        return Outcome(self.store.directory, self.record)

    def _locate(self) -> tuple[RunStore, dict[str, Any]]:
        """The run directory, and the description of the run's task."""
        output = self.plan.spec.output
        if self.task is not None:
            task = self.task.describe()
            return RunStore(output / f"{self.plan.stem}__{self.plan.run_id(task)[:8]}"), task
        for file in sorted(output.glob(f"{self.plan.stem}__*/run.json")):
            record = read_record(file)
            if record["run_id"] == self.plan.run_id(record["task"]):
                return RunStore(file.parent), record["task"]
        raise UsageError(
            f"{output} holds no prepared run of {self.plan.title} with these settings",
            "Prepare it first, with the same options: --stage prepare.",
        )

    def _begin(self, task: dict[str, Any], earlier: Record | None) -> Record:
        """A new record, with what an earlier process measured."""
        plan = self.plan
        record = new_record(plan.run_id(task), plan.spec, plan.preset, plan.identity, plan.method, task)
        return resumed(record, earlier) if earlier else record

    def _reuse(self, earlier: Record) -> Outcome:
        made, now = earlier["env"]["git"]["commit"], git_state()[0]
        other = "" if made == now else f" (made by commit {str(made)[:10]}, not by this one; --fresh makes it anew)"
        self.reporter.note(f"finished before, reused{other}")
        return Outcome(self.store.directory, earlier, reused=True)

    def _prepare(self) -> None:
        """Write the questions down; copy the images when the run may be answered on another machine."""
        assert self.task is not None
        spec, images = self.plan.spec, self.plan.spec.output / "images"
        requests = []
        for request in self.task.requests(images, spec.limit):
            placed = (
                with_copied_images(request, images, self.store.directory)
                if spec.stage == "prepare"
                else with_absolute_images(request)
            )
            requests.append(replace(placed, generation=spec.generation.apply(request.generation)))
        self.store.write_requests(requests)

    def _pending(self) -> list[Request]:
        """Requests without an answer: never asked, failed, or asked in other words or about another image."""
        samples, requests = self.store.samples(), list(self.store.requests())
        self.record["task"]["n_run"] = len(requests)
        return [request for request in requests if not answers(samples.get(request.id), request)]

    def _answer(self, pending: list[Request]) -> None:
        """Answer what is pending; each batch is on disk before the next one begins."""
        if pending:
            self._ask(pending)
        self.record["task"]["n_failed"] = sum(1 for row in self._rows() if row["error"])
        self._save("started", stage="answer")

    def _ask(self, pending: list[Request]) -> None:
        spec, total = self.plan.spec, self.record["task"]["n_run"]
        adapter = self.models.get(self.plan)
        self._note_machine(adapter)
        engine = self.backend.engine(adapter, self.plan.method, spec.batch_size, spec.seed)
        asked = {request.id: request for request in pending}
        start = time.monotonic()
        self.reporter.answering(total, total - len(pending))
        for responses in engine.answer(pending):
            rows = [sample_row(spec.task, asked.pop(response.id), response) for response in responses]
            self.store.append(rows)
            self.reporter.answered(len(rows), sum(1 for row in rows if row["error"]))
        self.reporter.finished()
        if asked:
            raise SinkbenchError(f"the engine left {len(asked)} requests without response, for example {min(asked)}")
        self.record["efficiency"] = {**engine.stats(), "n_answers": len(pending), "wall_s": time.monotonic() - start}

    def _note_machine(self, adapter: Any) -> None:
        """Record what answers; a run must not mix answers of two types of weights."""
        dtype = str(adapter.dtype).removeprefix("torch.")
        begun = self.record["model"]["dtype"]
        if begun not in (None, dtype):
            raise UsageError(
                f"{self.store.directory} was begun in {begun}; here the model loads in {dtype}",
                "Go on where it was begun, or start again with --fresh; a run with --dtype is a run of its own.",
            )
        self.record["model"] |= {"dtype": dtype, "device": str(adapter.device)}
        self.record["env"] = environment()
        self._save("started")

    def _score(self) -> None:
        """Score every answer; failed samples are counted, not scored."""
        assert self.task is not None
        rows, task = self._rows(), self.record["task"]
        if len(rows) < task["n_run"]:
            raise UsageError(
                f"{task['n_run'] - len(rows)} of {task['n_run']} samples have not been asked yet",
                "Run the answer stage first: --stage answer.",
            )
        metrics, scores = self.task.score({row["id"]: row["text"] for row in rows if not row["error"]})
        self.store.replace_samples([{**row, **UNSCORED, **scores.get(row["id"], {})} for row in rows])
        self.record["metrics"] = metrics
        self._save("incomplete" if task["n_failed"] else "success", stage="score")

    def _rows(self) -> list[Row]:
        """The newest line of every request, in the order of the requests."""
        samples = self.store.samples()
        return [samples[request.id] for request in self.store.requests() if request.id in samples]

    def _save(self, status: str, *, stage: str | None = None, error: Exception | None = None) -> None:
        self.record = touch({**self.record, "stage": stage or self.record["stage"]}, status, error)
        self.store.write_run(self.record)
