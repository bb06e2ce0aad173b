"""From RunSpecs to finished run directories: check everything, then prepare, answer and score each run.

Only what a stage needs is imported: answering needs neither lm-eval nor datasets, preparing and scoring need no model.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.answering import answer, lane
from sinkbench.backend import Backend, LocalBackend
from sinkbench.plan import Plan, check, joint_title, sweeps
from sinkbench.record import Record
from sinkbench.reporter import Reporter
from sinkbench.spec import RunSpec
from sinkbench.stages import Run, recorded
from sinkbench.store import RunStore


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

    @property
    def n_unjudged(self) -> int:
        """Answers on which a judge gave no verdict."""
        return int(self.record["task"].get("judge", {}).get("n_unjudged", 0))

    def first_unjudged(self) -> str:
        """Id and reason of one answer that a judge gave no verdict on."""
        verdicts = {row["id"]: row["judge"]["error"] for row in RunStore(self.directory).lines() if "judge" in row}
        return next((f"{id}: {error}" for id, error in verdicts.items() if error), "the judge was asked no more")

    def first_failure(self) -> str:
        """Id and reason of one failed sample."""
        id, reason = next(iter(RunStore(self.directory).failures().items()))
        return f"{id}: {reason}"


def run(
    specs: Sequence[RunSpec], *, reporter: Reporter | None = None, fresh: bool = False, backend: Backend | None = None
) -> list[Outcome]:
    """Do every run, after all of them have passed the checks.

    A run whose id is on disk is resumed: answered samples are kept, failed ones are retried, and one that has succeeded
    is returned as it is. Runs that differ in their method only are answered together, so that they share vision passes
    and prefixes. Runs of one model share the loaded weights.

    Args:
        specs: The runs.
        reporter: Is told about progress.
        fresh: Forget what earlier runs of the same ids left.
        backend: Tasks, models and engines; sinkbench's own by default.

    Returns:
        What became of each, in the order of `specs`.

    Raises:
        UsageError: A name, parameter, file or device is wrong; raised before the first run where that can be known.
        KeyboardInterrupt: Passed on after the state is saved (status "interrupted").
    """
    backend, reporter = backend or LocalBackend(), reporter or Reporter()
    models = Models(backend)
    plans = check(specs, backend)
    outcomes: dict[str, Outcome] = {}
    # A spec that is given twice is one run.
    for sweep in sweeps({plan.key: plan for plan in plans}.values()):
        done = run_together(sweep, backend, models, reporter, fresh)
        outcomes |= zip((plan.key for plan in sweep), done, strict=True)
    return [outcomes[plan.key] for plan in plans]


@dataclass
class Models:
    """Keeps the model that was loaded last, for the runs that share it."""

    backend: Backend
    key: tuple[str, ...] = ()
    adapter: Any = None

    def get(self, plan: Plan, reporter: Reporter) -> Any:
        """The plan's model on its device."""
        key = (plan.preset.name, plan.preset.path, plan.spec.device, plan.spec.dtype)
        if self.key != key:
            reporter.note(f"loading {plan.preset.name}")
            self.adapter = None  # Two models may not fit in memory.
            self.adapter, self.key = self.backend.adapter(plan.preset, plan.spec.device, plan.spec.dtype), key
        return self.adapter


def run_together(
    plans: Sequence[Plan],
    backend: Backend,
    models: Models,
    reporter: Reporter,
    fresh: bool,
    serial: AbstractContextManager[Any] | None = None,
) -> list[Outcome]:
    """Do the stages that the spec asks for, of runs that differ in their method only.

    Args:
        plans: The runs.
        backend: Tasks, models and engines.
        models: Has the model, or loads it.
        reporter: Is told about progress.
        fresh: Forget what earlier runs of the same ids left.
        serial: Held while questions are prepared and answers scored; for callers with several threads.
    """
    spec, serial = plans[0].spec, serial or nullcontext()
    with ExitStack() as locks:
        with serial:
            # Answering must work where lm-eval is not installed.
            task = None if spec.stage == "answer" else backend.task(spec)
            description = task.describe() if task else None
            runs = [Run(plan, task, description) for plan in plans]
            going = [run for run in runs if _begun(run, reporter, fresh, locks)]
        if spec.stage in ("all", "answer"):
            with recorded(going):
                _answer(going, backend, models, reporter)
        if spec.stage in ("all", "score"):
            with serial:
                for run in going:
                    run.score(reporter)
    return [Outcome(run.store.directory, run.record, run.reused) for run in runs]


def _begun(run: Run, reporter: Reporter, fresh: bool, locks: ExitStack) -> bool:
    """Whether anything is left to do in a run; if so, its lock is held from now on."""
    reporter.run(run.plan.title)
    with ExitStack() as lock:
        lock.enter_context(run.store.locked())
        run.begin(fresh)
        if not run.reused:
            locks.push(lock.pop_all())
            return True
    reporter.note(run.reuse_note())
    return False


def _answer(runs: Sequence[Run], backend: Backend, models: Models, reporter: Reporter) -> None:
    """Answer what is pending, without a model where nothing is."""
    asking = [run for run in runs if run.n_pending]
    if asking:
        plans = [run.plan for run in asking]
        reporter.run(joint_title(plans))
        adapter = models.get(plans[0], reporter)
        for run in asking:
            run.note_machine(adapter)
        methods = {lane(run): run.plan.method for run in asking}
        spec = plans[0].spec
        engine = backend.engine(adapter, methods, spec.batch_size, spec.seed, spec.share_prefix)
        answer(asking, engine, reporter)
    for run in runs:
        run.end_answers()
