"""`sinkbench.evaluate`: what `sinkbench eval` does, with the results as objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from sinkbench.errors import IncompleteError

Names = str | Sequence[str]
"""One name or several."""


@dataclass(frozen=True)
class Metric:
    """A score of a run.

    Attributes:
        name: For example "f1".
        value: None where it is undefined (nothing to divide by).
        ci95: Its 95 % interval (docs/statistics.md says which); None where there is none.
        n: Samples, or groups of samples that are judged together.
        direction: Whether "higher" or "lower" is better; "neutral" for what is neither.
    """

    name: str
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    direction: Literal["higher", "lower", "neutral"]


@dataclass(frozen=True)
class Evaluation:
    """A finished run of one model, method and task.

    Attributes:
        directory: The run directory.
        record: The content of its run.json.
        reused: Whether it was there already, and nothing was to be done.
    """

    directory: Path
    record: dict[str, Any]
    reused: bool = False

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.record["model"]["name"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.record["method"]["name"])

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record["task"]["name"])

    @property
    def n_failed(self) -> int:
        """Samples without an answer."""
        return int(self.record["task"]["n_failed"])

    @property
    def headline(self) -> Metric:
        """The task's first metric."""
        return self.metrics[self.record["task"]["headline"]]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The scores by name."""
        return {name: _metric(name, metric) for name, metric in self.record["metrics"].items()}

    def samples(self) -> Iterator[dict[str, Any]]:
        """The lines of samples.jsonl, the newest of each sample, in the order in which they were asked."""
        from sinkbench.store import RunStore

        yield from RunStore(self.directory).newest()


@dataclass(frozen=True)
class Evaluations(Sequence[Evaluation]):
    """The runs of one call, in the order model, task, method.

    Attributes:
        runs: The runs.
        output: Folder below which they lie.
        baseline: The method that a board compares the others with.
    """

    runs: tuple[Evaluation, ...]
    output: Path
    baseline: str = "greedy"

    @overload
    def __getitem__(self, index: int) -> Evaluation: ...

    @overload
    def __getitem__(self, index: slice) -> "Evaluations": ...

    def __getitem__(self, index: int | slice) -> "Evaluation | Evaluations":
        if isinstance(index, slice):
            return Evaluations(self.runs[index], self.output, self.baseline)
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def board(self) -> dict[str, Any]:
        """A leaderboard of exactly these runs (schemas/board.schema.json): paired differences from the baseline.

        Raises:
            UsageError: The baseline is not among them.
        """
        from sinkbench.leaderboard.board import build

        return build(self.output, baseline=self.baseline, directories=[run.directory for run in self.runs])


def evaluate(
    model: Names,
    method: Names = "greedy",
    task: Names = (),
    *,
    params: Mapping[str, Any] | None = None,
    limit: int | Mapping[str, int] | None = None,
    output: str | Path = "runs",
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    batch_size: int | Literal["auto"] = "auto",
    seed: int = 0,
    generation: Mapping[str, Any] | None = None,
    data_dir: str | Path | None = None,
    share_prefix: bool = True,
    baseline: str = "greedy",
    fresh: bool = False,
    strict: bool = True,
    progress: bool = False,
) -> Evaluations:
    """Answer every task with every model under every method, score the answers, and keep all that on disk.

    The same call again resumes what was interrupted, retries failed samples and reuses what is finished, as the command
    does; methods of one call are answered together and share their images.

    Args:
        model: Preset names (`sinkbench list models`), local folders or hub ids.
        method: Method names, "a+b" to compose; "all" is every one there is.
        task: Task names.
        params: Values by "method.param" or "task.param", for example {"var.tau": 5}.
        limit: Answer the first so many samples only; or so many by task.
        output: Folder below which run directories are made.
        device: "auto", "cpu", "cuda" or "cuda:1".
        dtype: Of the weights; "auto" is the model's own on a GPU and float32 on a CPU.
        batch_size: Samples a batch, or "auto" for what the free memory holds.
        seed: Seeds sampling and methods that draw at random.
        generation: Changes to the task's settings: max_new_tokens, do_sample, temperature, top_p.
        data_dir: Folder with the task's data, instead of the hub.
        share_prefix: Prefill what questions about one image have in common once; False is slower, for checking.
        baseline: The method that `Evaluations.board` compares the others with.
        fresh: Forget what earlier runs of the same settings left.
        strict: Raise where a sample has no answer or no verdict; otherwise it is only counted.
        progress: Show progress on stderr.

    Returns:
        The runs, in the order model, task, method.

    Raises:
        UsageError: A name, parameter, file or device is wrong; before the first run where that can be known.
        IncompleteError: A sample has no answer or no verdict. All runs are on disk by then; the same call again retries
            what failed.
    """
    from sinkbench import runner
    from sinkbench.reporter import Reporter
    from sinkbench.spec import expand

    settings = {
        "model": model,
        "method": method,
        "task": task,
        "params": dict(params or {}),
        "limit": limit,
        "output": Path(output),
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
        "generation": dict(generation or {}),
        "data_dir": None if data_dir is None else Path(data_dir),
        "share_prefix": share_prefix,
    }
    specs = expand(settings)
    with ExitStack() as stack:
        reporter = Reporter()
        if progress:
            from sinkbench.cli.progress import ConsoleReporter

            reporter = stack.enter_context(ConsoleReporter())
        outcomes = runner.run(specs, reporter=reporter, fresh=fresh)
    if strict:
        _check_complete(outcomes)
    runs = tuple(Evaluation(outcome.directory, outcome.record, outcome.reused) for outcome in outcomes)
    return Evaluations(runs, Path(output), baseline)


def _check_complete(outcomes: Sequence[Any]) -> None:
    again = "Mend the cause and call again: that retries the failed samples only. strict=False gives the rest."
    if failed := [outcome for outcome in outcomes if outcome.n_failed]:
        count = sum(outcome.n_failed for outcome in failed)
        raise IncompleteError(f"{count} samples failed; for example {failed[0].first_failure()}", again)
    if unjudged := [outcome for outcome in outcomes if outcome.n_unjudged]:
        count = sum(outcome.n_unjudged for outcome in unjudged)
        raise IncompleteError(f"{count} answers have no verdict; for example {unjudged[0].first_unjudged()}", again)


def _metric(name: str, metric: Mapping[str, Any]) -> Metric:
    interval = metric["ci95"]
    ci95 = None if interval is None else (float(interval[0]), float(interval[1]))
    return Metric(name, metric["value"], ci95, int(metric["n"]), metric["direction"])
