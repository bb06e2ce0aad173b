"""Published figures beside measured ones: the `claims` of a file in configs/papers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.spec import read_config

_CALIBRATED = {"act": ("heads",), "iri": ("rates_attn", "rates_mlp")}
"""What a calibration finds on the weights: papers do not print it."""


class Measure(BaseModel):
    """What a column of a table is.

    Attributes:
        task: Task.
        metric: Metric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    metric: str


class ClaimTable(BaseModel):
    """Figures of one model from one source.

    Attributes:
        source: Paper and table.
        verified: "yes" where the paper itself was read, "secondary" where another text quotes it, else "no".
        model: Preset that the figures are of.
        metrics: What each column is: the metric of the task that names it, or a task and a metric.
        percent: Whether figures are per cent of what is measured.
        baseline: The method whose row the other rows are compared with.
        tolerance: By how much, in the figures' own units, a measured one may differ. None: half the width of the
            measured value's 95 % interval, for then the draw of questions alone explains a difference.
        rows: "method", its "profile" or "params" where it has any, and a figure for each column.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, Field(min_length=1)]
    verified: Literal["yes", "no", "secondary"]
    model: str
    metrics: Annotated[dict[str, str | Measure], Field(min_length=1)]
    percent: bool = True
    baseline: str = "greedy"
    tolerance: Annotated[float, Field(gt=0)] | None = None
    rows: list[dict[str, Any]]

    def measure(self, column: str) -> Measure:
        """The task and metric of a column."""
        found = self.metrics[column]
        return found if isinstance(found, Measure) else Measure(task=column, metric=found)


class Claims(NamedTuple):
    """What a file of configs/papers claims.

    Attributes:
        tables: Figures.
        stands_for: Task that takes a published task's place at the small scale, by the published task.
    """

    tables: list[ClaimTable]
    stands_for: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """A published figure and what was measured; values in the metric's own units.

    Attributes:
        task: Task that was published.
        method: Method, with its profile or parameters.
        metric: Metric.
        claimed: As published.
        claimed_delta: Published difference from the baseline of the same table.
        source: Where it was published.
        verified: See `ClaimTable`.
        measured: On the board; None where no such run is there.
        tolerance: See `ClaimTable`; None where nothing was measured.
        measured_delta: Difference from the board's baseline on the same samples.
        other_model: The model of the measured difference, where it is not the published one: there is no verdict then.
        other_task: Its task, likewise.
    """

    task: str
    method: str
    metric: str
    claimed: float
    claimed_delta: float | None
    source: str
    verified: str
    measured: float | None = None
    tolerance: float | None = None
    measured_delta: float | None = None
    other_model: str | None = None
    other_task: str | None = None

    @property
    def verdict(self) -> str:
        """One of "within", "outside" (the tolerance), "another model: NAME" and "not run"."""
        if self.other_model:
            return f"another model: {self.other_model}"
        if self.measured is None or self.tolerance is None:
            return "not run"
        # Rounding of a published figure is no difference.
        return "within" if abs(self.measured - self.claimed) <= self.tolerance + 1e-12 else "outside"


def read_claims(path: Path) -> Claims:
    """The claims of a file.

    Raises:
        UsageError: It holds none, or a table is malformed.
    """
    settings = read_config(path)
    tables = settings.get("claims")
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path} has no claims", "Give a file of configs/papers that compares with published figures.")
    try:
        return Claims(
            [ClaimTable(**table) for table in tables], dict((settings.get("tiny") or {}).get("stands_for", {}))
        )
    except (TypeError, ValidationError) as error:
        raise UsageError(f"{path}: claims are malformed: {error}", "See leaderboard/claims.py.") from error


def compare(
    board: Mapping[str, Any], tables: Sequence[ClaimTable], stands_for: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Each figure with the run that has its model, method, parameters and task; imported runs do not count.

    Where there is none, a difference from the baseline is compared with that of other models, if the method ran on the
    task or on what stands for it.

    Raises:
        UsageError: A figure names a method, profile or task that does not exist.
    """
    own_runs = [row for row in board["rows"] if not row.get("imported")]
    return [found for table in tables for found in _compared(own_runs, table, stands_for or {})]


def _compared(
    rows: Sequence[Mapping[str, Any]], table: ClaimTable, stands_for: Mapping[str, str]
) -> Iterator[Comparison]:
    scale = 100 if table.percent else 1
    baseline: Mapping[str, Any] = next((row for row in table.rows if row["method"] == table.baseline), {})
    for row in table.rows:
        given = dict(row)
        name, profile, params = given.pop("method"), given.pop("profile", None), given.pop("params", {})
        if unknown := [column for column in given if column not in table.metrics]:
            raise UsageError(f"a claim about {name} has no metric for {unknown[0]}", "Add it to the table's metrics.")
        settings = {**params, **({} if profile is None else {"profile": profile})}
        method = get_method(name, settings, table.model)
        found = {*_CALIBRATED.get(name, ())} - settings.keys()
        wanted = {key: _plain(value) for key, value in method.params().items() if key not in found}
        shown = f"{name} ({profile})" if profile is not None else name
        for column, figure in given.items():
            measure = table.measure(column)
            published = None
            if name != table.baseline and column in baseline:
                published = (figure - baseline[column]) / scale
            about: dict[str, Any] = {
                "task": measure.task,
                "method": shown,
                "metric": measure.metric,
                "claimed": figure / scale,
                "claimed_delta": published,
                "source": table.source,
                "verified": table.verified,
            }
            run = next((run for run in rows if _is_run(run, table.model, name, measure, wanted)), None)
            if run is not None:
                yield Comparison(**about, **_measured(run, measure, table))
                continue
            stand_in = Measure(task=stands_for.get(measure.task, measure.task), metric=measure.metric)
            others = [] if published is None else _other_models(rows, table.model, name, stand_in)
            for other in others:
                delta = other["metrics"][measure.metric]["delta"]["value"]
                yield Comparison(**about, measured_delta=delta, other_model=other["model"], other_task=other["task"])
            if not others:
                yield Comparison(**about)


def _is_run(run: Mapping[str, Any], model: str, method: str, measure: Measure, wanted: Mapping[str, Any]) -> bool:
    """Whether a run has the parameters of a claim; those that a calibration found are the run's own."""
    if (run["model"], run["method"], run["task"]) != (model, method, measure.task):
        return False
    return measure.metric in run["metrics"] and {key: run["params"].get(key) for key in wanted} == wanted


def _other_models(
    rows: Sequence[Mapping[str, Any]], model: str, method: str, measure: Measure
) -> list[Mapping[str, Any]]:
    """Runs of the method on other models that have a difference in the metric, one a model."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in rows:
        metric = run["metrics"].get(measure.metric)
        if (
            run["model"] != model
            and (run["method"], run["task"]) == (method, measure.task)
            and metric
            and metric.get("delta")
        ):
            found.setdefault(run["model"], run)
    return list(found.values())


def _measured(run: Mapping[str, Any], measure: Measure, table: ClaimTable) -> dict[str, Any]:
    metric = run["metrics"][measure.metric]
    ends = metric.get("ci95")
    tolerance = (ends[1] - ends[0]) / 2 if ends else None
    if table.tolerance is not None:
        tolerance = table.tolerance / (100 if table.percent else 1)
    delta = metric.get("delta")
    return {
        "measured": metric["value"],
        "tolerance": tolerance,
        "measured_delta": delta["value"] if delta else None,
    }


def _plain(value: Any) -> Any:
    """As run.json has it."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
