"""The answer stage of runs that differ in their method: one pass over the questions that any of them lacks."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from sinkbench.backend import Engine
from sinkbench.errors import SinkbenchError
from sinkbench.record import sample_row
from sinkbench.reporter import Reporter
from sinkbench.request import Request, Response
from sinkbench.stages import Run
from sinkbench.store import Row


def answer(runs: Sequence[Run], engine: Engine, reporter: Reporter) -> None:
    """Answer what is pending in runs; each batch is on disk before the next one begins, and each round of a dialogue.

    Args:
        runs: Runs of one task, with pending samples.
        engine: Has the method of each under its `lane`.
        reporter: Is told about progress.

    Raises:
        SinkbenchError: The engine left requests without response.
    """
    asked = _Asked(runs)
    n_pending = sum(run.n_pending for run in runs)
    total = sum(run.record["task"]["n_run"] for run in runs)
    meter = _Meter(engine, len(runs))
    reporter.answering(total, total - n_pending)
    try:
        for turn in range(max(run.n_rounds for run in runs)):
            for name, responses in engine.sweep(asked.requests(turn), asked.wanted):
                run, rows = asked.runs[name], asked.rows(name, responses)
                run.store.append(rows)
                reporter.stored(run.store.directory, [row["id"] for row in rows])
                reporter.answered(len(rows), sum(1 for row in rows if row["error"]))
                if meter.count(name, len(rows)) == run.n_pending:
                    # What a run cost must not be lost with the process while the others go on.
                    meter.record(name, run)
                    run.save("started")
    finally:
        for name, run in asked.runs.items():
            meter.record(name, run)
    reporter.finished()
    asked.check_all_answered()


def lane(run: Run) -> str:
    """What the engine calls the method of a run: two runs may have one method with different parameters."""
    return str(run.record["run_id"])


class _Meter:
    """Counts answers, and writes into records what they cost."""

    def __init__(self, engine: Engine, shared_by: int) -> None:
        self._engine = engine
        self._shared_by = shared_by
        self._start = time.monotonic()
        self._n_answers: Counter[str] = Counter()

    def count(self, name: str, n: int) -> int:
        """Add to the answers of a run; how many they are now."""
        self._n_answers[name] += n
        return self._n_answers[name]

    def record(self, name: str, run: Run) -> None:
        """Put the figures into a run's record, unless an earlier process measured over more answers."""
        n = self._n_answers[name]
        if n and n >= run.record["efficiency"].get("n_answers", 0):
            wall = time.monotonic() - self._start
            run.record["efficiency"] = {
                **self._engine.stats(name),
                "n_answers": n,
                "wall_s": wall,
                "shared_by": self._shared_by,
            }


class _Asked:
    """The requests that are with the engine, and who asked them; their number does not grow with the task's."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = {lane(run): run for run in runs}
        self._waiting: dict[str, dict[str, Request]] = {name: {} for name in self.runs}

    def requests(self, turn: int) -> Iterator[Request]:
        """Every request of a round that a run lacks, once; read in the engine's thread."""
        for row in zip_longest(*(run.outstanding(turn) for run in self.runs.values())):
            # Runs that were prepared at different times may have different images for one question, and turns of a
            # dialogue follow different answers.
            distinct: dict[Request, Request] = {}
            for waiting, request in zip(self._waiting.values(), row, strict=True):
                if request is not None:
                    waiting[request.id] = distinct.setdefault(request, request)
            yield from distinct

    def wanted(self, name: str, request: Request) -> bool:
        """Whether a run waits for the answer to a request."""
        return self._waiting[name].get(request.id) == request

    def rows(self, name: str, responses: Sequence[Response]) -> list[Row]:
        """Lines of samples.jsonl from the responses to a run's requests, which wait no longer."""
        waiting, task = self._waiting[name], self.runs[name].plan.spec.task
        return [sample_row(task, waiting.pop(response.id), response) for response in responses]

    def check_all_answered(self) -> None:
        """See that no request waits.

        Raises:
            SinkbenchError: One does.
        """
        lost = [id for waiting in self._waiting.values() for id in waiting]
        if lost:
            raise SinkbenchError(f"the engine left {len(lost)} requests without response, for example {min(lost)}")
