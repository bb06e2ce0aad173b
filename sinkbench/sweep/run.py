"""The cells of a sweep, from their checks to their scores; one that fails does not stop the others."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from sinkbench.backend import Backend
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.plan import Plan, check, sweeps
from sinkbench.reporter import Reporter
from sinkbench.runner import Models, Outcome, run_together
from sinkbench.spec import RunSpec
from sinkbench.store import check_writable
from sinkbench.sweep.engines import SharedBackend, WindowedBackend
from sinkbench.sweep.log import SweepLog

if TYPE_CHECKING:
    from sinkbench.sweep.ray_workers import RayWorkers

GROUPS = 4
"""Groups that are on their way at a time: while one is answered the next are made ready, and keep those workers busy
that the first has nothing more for."""

Status = Literal["done", "reused", "incomplete", "failed"]


@dataclass(frozen=True)
class Cell:
    """What became of one run of the sweep.

    Attributes:
        spec: The run.
        status: "done", "reused" (done by an earlier sweep), "incomplete" (some samples failed) or "failed".
        outcome: The run; None where it failed.
        error: Why it failed or is incomplete.
        hint: What to do about it.
    """

    spec: RunSpec
    status: Status
    outcome: Outcome | None = None
    error: str = ""
    hint: str = ""

    @property
    def title(self) -> str:
        """Model, method with its parameters, and task."""
        return title_of(self.spec)


def title_of(spec: RunSpec) -> str:
    """Model, method with its parameters, and task of a run."""
    params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
    return f"{spec.model} × {spec.method} × {spec.task}{f' ({params})' if params else ''}"


class Watch:
    """Is told how a sweep goes. This one keeps silent; the command line's shows a table."""

    def planned(self, groups: Sequence[Sequence[RunSpec]]) -> None:
        """What is to be done: runs of one model and task, group by group."""

    def group(self, specs: Sequence[RunSpec]) -> Reporter:
        """A group begins; who is told about it."""
        return Reporter()

    def finished(self, cell: Cell) -> None:
        """A cell has come to its end."""


def sweep(
    specs: Sequence[RunSpec],
    *,
    workers: "RayWorkers | None" = None,
    watch: Watch | None = None,
    fresh: bool = False,
    backend: Backend | None = None,
) -> list[Cell]:
    """Do every run that can be done; the same call again goes on where this one was broken off.

    Runs that differ in their method only are answered together and share their images. Where such a group breaks off,
    each of its runs is tried alone, so that one method's failure stays its own.

    Args:
        specs: The runs, with one output folder.
        workers: Who answers; None: this process.
        watch: Is told about progress.
        fresh: Forget what earlier runs of the same ids left.
        backend: Tasks, models and engines; by default sinkbench's own, here or at the workers.

    Returns:
        What became of each, in the order of `specs`.

    Raises:
        UsageError: A model, method or task is unknown, or nothing can be written to the output folder; raised before
            anything is done.
        KeyboardInterrupt: Passed on after the state is saved.
    """
    backend = backend or (SharedBackend(workers) if workers else WindowedBackend())
    return _Sweep(specs, workers, watch or Watch(), fresh, backend).run()


class _Sweep:
    def __init__(
        self,
        specs: Sequence[RunSpec],
        workers: "RayWorkers | None",
        watch: Watch,
        fresh: bool,
        backend: Backend,
    ) -> None:
        self._specs = list(specs)
        self._workers = workers
        self._watch = watch
        self._fresh = fresh
        self._backend = backend
        self._cells: dict[str, Cell] = {}
        self._models = Models(self._backend)
        self._identities: dict[str, dict[str, Any]] = {}
        self._serial = Lock()
        (output,) = {spec.output for spec in specs}
        check_writable(output)
        self._log = SweepLog(output)

    def run(self) -> list[Cell]:
        for spec in self._specs:
            self._backend.check_names(spec)
        self._log.write("begin", cells=len(self._specs), workers=self._workers.count if self._workers else 0)
        distinct: dict[str, Plan] = {}
        twins: list[tuple[RunSpec, Plan]] = []
        for plan in (plan for spec in self._specs if (plan := self._checked(spec))):
            # A value of the grid may be what another cell has by default.
            key = json.dumps([plan.stem, plan.method.params(), plan.conditions], default=str)
            twins.append((plan.spec, distinct.setdefault(key, plan)))
        groups = sweeps(distinct.values())
        self._watch.planned([[plan.spec for plan in group] for group in groups])
        for cell in self._cells.values():
            self._watch.finished(cell)
        if self._workers:
            self._run_side_by_side(groups, self._workers)
        else:
            for group in groups:
                self._run_group(group)
        for spec, plan in twins:
            self._cells[spec.model_dump_json()] = replace(self._cells[plan.key], spec=spec)
        self._log.write("end")
        return [self._cells[spec.model_dump_json()] for spec in self._specs]

    def _checked(self, spec: RunSpec) -> Plan | None:
        """A run that can be done; one that cannot is a failed cell."""
        try:
            return check([spec], self._backend, self._identities)[0]
        except UsageError as error:
            self._keep(Cell(spec, "failed", error=error.message, hint=error.hint))
            return None

    def _run_side_by_side(self, groups: Sequence[list[Plan]], workers: "RayWorkers") -> None:
        """Some groups at a time, each in a thread that waits for the workers."""
        rest: Iterator[list[Plan]] = iter(groups)
        flying: set[Future[None]] = set()
        with ThreadPoolExecutor(GROUPS, "sinkbench-groups") as threads:
            try:
                while True:
                    while len(flying) < GROUPS and (group := next(rest, None)):
                        flying.add(threads.submit(self._run_group, group))
                    if not flying:
                        return
                    ended, flying = wait(flying, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
            except BaseException:
                workers.stop()
                raise

    def _run_group(self, group: Sequence[Plan]) -> None:
        reporter = _Logged(self._watch.group([plan.spec for plan in group]), self._log)
        try:
            # Workers hold the models; what stands for one here must not be another thread's.
            models = Models(self._backend) if self._workers else self._models
            outcomes = run_together(group, self._backend, models, reporter, self._fresh, self._serial)
        except Exception as error:
            if len(group) > 1:
                for plan in group:
                    self._run_group([plan])
            else:
                self._finish(_failed(group[0].spec, error))
            return
        for plan, outcome in zip(group, outcomes, strict=True):
            self._finish(_ended(plan.spec, outcome))

    def _finish(self, cell: Cell) -> None:
        self._keep(cell)
        self._watch.finished(cell)

    def _keep(self, cell: Cell) -> None:
        self._cells[cell.spec.model_dump_json()] = cell
        run = cell.outcome.directory.name if cell.outcome else None
        self._log.write("cell", title=cell.title, run=run, status=cell.status, error=cell.error)


class _Logged(Reporter):
    """Passes everything on, and writes down which answers are on disk."""

    def __init__(self, reporter: Reporter, log: SweepLog) -> None:
        self._reporter = reporter
        self._log = log

    def run(self, title: str) -> None:
        """See `Reporter`."""
        self._reporter.run(title)

    def note(self, text: str) -> None:
        """See `Reporter`."""
        self._reporter.note(text)

    def answering(self, total: int, done: int) -> None:
        """See `Reporter`."""
        self._reporter.answering(total, done)

    def answered(self, n: int, failed: int) -> None:
        """See `Reporter`."""
        self._reporter.answered(n, failed)

    def stored(self, directory: Path, ids: Sequence[str]) -> None:
        """See `Reporter`."""
        self._log.write("stored", run=directory.name, ids=list(ids))

    def finished(self) -> None:
        """See `Reporter`."""
        self._reporter.finished()


def _ended(spec: RunSpec, outcome: Outcome) -> Cell:
    if outcome.n_failed:
        error = f"{outcome.n_failed} samples failed; for example {outcome.first_failure()}"
        return Cell(spec, "incomplete", outcome, error, "Mend the cause; the same sweep again retries them only.")
    if outcome.n_unjudged:
        error = f"{outcome.n_unjudged} answers have no verdict; for example {outcome.first_unjudged()}"
        return Cell(spec, "incomplete", outcome, error, "The same sweep again asks the judge about these only.")
    return Cell(spec, "reused" if outcome.reused else "done", outcome)


def _failed(spec: RunSpec, error: Exception) -> Cell:
    if isinstance(error, SinkbenchError):
        return Cell(spec, "failed", error=error.message, hint=error.hint)
    return Cell(spec, "failed", error=f"{type(error).__name__}: {error}", hint="SINKBENCH_DEBUG=1 shows where.")
