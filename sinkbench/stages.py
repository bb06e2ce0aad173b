"""One run on its way through the stages prepare, answer and score; run.json is kept true whatever happens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sinkbench.backend import Task
from sinkbench.environment import environment, git_state
from sinkbench.errors import UsageError
from sinkbench.images import with_absolute_images, with_copied_images
from sinkbench.plan import Plan
from sinkbench.record import UNSCORED, Record, answered, new_record, question, resumed, touch
from sinkbench.reporter import Reporter
from sinkbench.request import Request
from sinkbench.reviewing import ask_judge
from sinkbench.spec import judging_of, questions_of
from sinkbench.store import Row, RunStore, read_record

if TYPE_CHECKING:
    from sinkbench.tasks.review import Review


class Run:
    """One run.

    Args:
        plan: What to run.
        task: Its task; None where only answers are made, which must work where lm-eval is not installed.
        description: What the task says about itself; None likewise.

    Attributes:
        store: The run directory.
        record: The content of run.json as it is to be.
        n_pending: Samples without an answer: never asked, failed, or asked in other words or about another image.
        n_rounds: Turns of its longest dialogue; 1 where no question follows another.
        reused: Nothing was to be done.

    Raises:
        UsageError: There is no task, and the run has not been prepared; or the method was calibrated on its questions.
    """

    def __init__(self, plan: Plan, task: Task | None, description: dict[str, Any] | None) -> None:
        self.plan = plan
        self._task = task
        self.store, self._described = _locate(plan, description)
        _check_unseen(plan, self._described)
        self.record: Record = {}
        self.n_pending = 0
        self.n_rounds = 1
        self.reused = False
        self._answered: dict[str, bytes] = {}

    def begin(self, fresh: bool) -> None:
        """Prepare if the spec says so, and see what an earlier process has left to do.

        Args:
            fresh: Forget what an earlier process did.
        """
        plan = self.plan
        if fresh and plan.spec.stage != "score":
            self.store.clear()
        earlier = self.store.read_run()
        run_id = plan.run_id(self._described)
        record = new_record(
            run_id, plan.spec, plan.preset, plan.identity, plan.method, self._described, plan.calibrations
        )
        self.record = resumed(record, earlier) if earlier else record
        with recorded([self]):
            if plan.spec.stage in ("all", "prepare"):
                self._prepare()
            self._survey()
            if earlier and self._holds(earlier):
                self.record, self.reused = earlier, True
            elif plan.spec.stage in ("all", "prepare"):
                self.save("started", stage="prepare")

    def outstanding(self, turn: int = 0) -> Iterator[Request | None]:
        """The requests in order, None in the place of each that is answered or belongs to another round.

        Args:
            turn: Round of answers. The requests of a later one hold the run's own answers of those before.
        """
        texts = self._texts() if turn else {}
        for request in self.store.requests():
            asked = request.with_answers(texts) if len(request.history) == turn else None
            yield asked if asked and not self._has_answer(asked) else None

    def note_machine(self, adapter: Any) -> None:
        """Record what answers.

        Raises:
            UsageError: The run has answers of another type of weights; a run must not mix them.
        """
        dtype = str(adapter.dtype).removeprefix("torch.")
        begun = self.record["model"]["dtype"]
        if begun not in (None, dtype):
            raise UsageError(
                f"{self.store.directory} was begun in {begun}; here the model loads in {dtype}",
                "Go on where it was begun, or start again with --fresh; a run with --dtype is a run of its own.",
            )
        self.record["model"] |= {"dtype": dtype, "device": str(adapter.device)}
        # A model on other machines says what these are.
        self.record["env"] = getattr(adapter, "environment", environment)()
        self.save("started")

    def end_answers(self) -> None:
        """Count the failed samples: all have been asked."""
        self._answered = {}
        failures = self.store.failures()
        n_failed = sum(request.id in failures for request in self.store.requests()) if failures else 0
        self.record["task"]["n_failed"] = n_failed
        self.save("started", stage="answer")

    def score(self, reporter: Reporter) -> None:
        """Score every answer; failed samples are counted, not scored.

        The answers of a task that needs a judge are written in the benchmark's own form too. Without a judge they are
        all there is; with one, an answer that it gives no verdict on is counted, not scored.

        Args:
            reporter: Is told how the judge gets on.

        Raises:
            UsageError: Some samples have not been asked; or the judge refuses whoever asks.
        """
        assert self._task is not None
        with recorded([self]):
            texts = self._all_texts()
            metrics: dict[str, Any] = {}
            scores: Mapping[str, Mapping[str, Any]] = {}
            if (review := self._task.review()) is None:
                metrics, scores = self._task.score(texts)
            else:
                self.store.write_text(*review.submission(texts, self.plan.stem.rpartition("__")[0]))
                replies = self._replies(review, reporter)
                if replies is not None:
                    metrics, scores = self._task.score({id: texts[id] for id in replies}, replies)
            rows = ({**row, **UNSCORED, **scores.get(row["id"], {})} for row in self.store.newest())
            self.store.replace_samples(rows)
            self.record["metrics"] = metrics
            task = self.record["task"]
            lacking = task["n_failed"] + task.get("judge", {}).get("n_unjudged", 0)
            self.save("incomplete" if lacking else "success", stage="score")

    def _all_texts(self) -> dict[str, str]:
        """The answers by request id; failed samples have none.

        Raises:
            UsageError: Some samples have not been asked.
        """
        n_asked, n_run = 0, self.record["task"]["n_run"]
        texts: dict[str, str] = {}
        for row in self.store.newest():
            n_asked += 1
            if not row["error"]:
                texts[row["id"]] = row["text"]
        if n_asked < n_run:
            raise UsageError(
                f"{n_run - n_asked} of {n_run} samples have not been asked yet",
                "Run the answer stage first: --stage answer.",
            )
        return texts

    def _replies(self, review: "Review", reporter: Reporter) -> dict[str, str] | None:
        """What the judge says, by request id; None where there is no judge."""
        if review.judge is None:
            reporter.note(f"{review.task} needs a judge and has none: {self.store.directory / review.rubric.file}")
            return None
        rows: dict[str, Row] = {row["id"]: row for row in self.store.newest() if not row["error"]}
        reporter.note(f"asking {review.judge.model} about {len(rows)} answers")
        replies = ask_judge(self.store, review, rows, reporter)
        self.record["task"]["judge"] = {**review.describe(), "n_unjudged": len(rows) - len(replies)}
        return replies

    def reuse_note(self) -> str:
        """Why there is nothing to do."""
        made, now = self.record["env"]["git"]["commit"], git_state()[0]
        other = "" if made == now else f" (made by commit {str(made)[:10]}, not by this one; --fresh makes it anew)"
        return f"finished before, reused{other}"

    def save(self, status: str, *, stage: str | None = None, error: Exception | None = None) -> None:
        """Write run.json."""
        self.record = touch({**self.record, "stage": stage or self.record["stage"]}, status, error)
        self.store.write_run(self.record)

    def _prepare(self) -> None:
        """Write the questions down; copy the images when the run may be answered on another machine."""
        assert self._task is not None
        spec, images = self.plan.spec, self.plan.spec.output / "images"

        def placed(request: Request) -> Request:
            if spec.stage == "prepare":
                return with_copied_images(request, images, self.store.directory)
            return with_absolute_images(request)

        self.store.write_requests(
            replace(placed(request), generation=spec.generation.apply(request.generation))
            for request in self._task.requests(images, spec.limit)
        )

    def _holds(self, earlier: Record) -> bool:
        """Whether an earlier process did all that is asked for."""
        spec = self.plan.spec
        judged_alike = judging_of(earlier["spec"]) == judging_of(spec.to_json())
        return earlier["status"] == "success" and not self.n_pending and spec.stage != "score" and judged_alike

    def _has_answer(self, asked: Request) -> bool:
        """Whether a request has an answer, and was asked in these words about these images."""
        known = self._answered.get(asked.id)
        return known is not None and known == question(asked)

    def _survey(self) -> None:
        self._answered = answered(self.store.lines())
        turns: Counter[int] = Counter()
        for request in self.store.requests():
            turns[len(request.history)] += 1
            self.n_pending += not request.history and not self._has_answer(request)
        self.n_rounds = max(turns, default=0) + 1
        for turn in range(1, self.n_rounds):
            self.n_pending += sum(request is not None for request in self.outstanding(turn))
        self.record["task"]["n_run"] = turns.total()

    def _texts(self) -> dict[str, str]:
        """The answers so far by request id."""
        return {row["id"]: row["text"] for row in self.store.samples().values() if not row["error"]}


@contextmanager
def recorded(runs: Sequence[Run]) -> Iterator[None]:
    """Write into the records of runs why what they did was broken off."""
    try:
        yield
    except KeyboardInterrupt:
        for run in runs:
            run.save("interrupted")
        raise
    except Exception as error:
        for run in runs:
            run.save("error", error=error)
        raise


def _locate(plan: Plan, description: dict[str, Any] | None) -> tuple[RunStore, dict[str, Any]]:
    """The run directory, and the description of the run's task."""
    output = plan.spec.output
    if description is not None:
        return RunStore(output / f"{plan.stem}__{plan.run_id(description)[:8]}"), description
    for file in sorted(output.glob(f"{plan.stem}__*/run.json")):
        record = read_record(file)
        if record["run_id"] == plan.run_id(record["task"]):
            return RunStore(file.parent), record["task"]
    if plan.spec.stage == "answer" and (found := _same_questions(plan)) is not None:
        source, described = found
        store = RunStore(output / f"{plan.stem}__{plan.run_id(described)[:8]}")
        store.take_requests(source)
        return store, described
    raise UsageError(
        f"{output} holds no prepared run of {plan.title} with these settings",
        "Prepare it first, with the same options: --stage prepare.",
    )


def _same_questions(plan: Plan) -> tuple[RunStore, dict[str, Any]] | None:
    """A prepared run that asks the same under another method or of another model, and the description of its task."""
    task = plan.stem.rpartition("__")[2]
    for file in sorted(plan.spec.output.glob(f"*__{task}__*/run.json")):
        record = read_record(file)
        if questions_of(record["spec"]) == questions_of(plan.spec.to_json()) and RunStore(file.parent).is_prepared:
            return RunStore(file.parent), record["task"]
    return None


def _check_unseen(plan: Plan, described: dict[str, Any]) -> None:
    """See that the method was not calibrated on what the run asks.

    Raises:
        UsageError: It was.
    """
    for calibration in plan.calibrations.values():
        calibration.check_unseen(plan.spec.task, described["fingerprint"])
