"""Published figures beside measured ones: the `claims` of a file in configs/papers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.spec import read_config


class ClaimTable(BaseModel):
    """Figures of one model from one source.

    Attributes:
        source: Paper and table.
        verified: "yes" where the paper itself was read, "secondary" where another text quotes it, else "no".
        model: Preset that the figures are of.
        metrics: Metric of each task.
        percent: Whether figures are per cent of what is measured.
        rows: "method", its "profile" or "params" where it has any, and a figure for each task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    verified: Literal["yes", "no", "secondary"]
    model: str
    metrics: Annotated[dict[str, str], Field(min_length=1)]
    percent: bool = True
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """A published figure and what was measured.

    Attributes:
        task: Task.
        method: Method, with its profile or parameters.
        metric: Metric.
        claimed: As published, in the metric's own units.
        measured: On the board; None where no such run is there.
        source: Where it was published.
        verified: See `ClaimTable`.
    """

    task: str
    method: str
    metric: str
    claimed: float
    measured: float | None
    source: str
    verified: str


def read_claims(path: Path) -> list[ClaimTable]:
    """The claims of a file.

    Raises:
        UsageError: It holds none, or a table is malformed.
    """
    tables = read_config(path).get("claims")
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path} has no claims", "Give a file of configs/papers that compares with published figures.")
    try:
        return [ClaimTable(**table) for table in tables]
    except (TypeError, ValidationError) as error:
        raise UsageError(f"{path}: claims are malformed: {error}", "See leaderboard/claims.py.") from error


def compare(board: Mapping[str, Any], tables: list[ClaimTable]) -> list[Comparison]:
    """Each figure with the run that has its model, method, parameters and task; imported runs do not count.

    Raises:
        UsageError: A figure names a method, profile or task that does not exist.
    """
    return [comparison for table in tables for comparison in _compared(board, table)]


def _compared(board: Mapping[str, Any], table: ClaimTable) -> Iterator[Comparison]:
    scale = 100 if table.percent else 1
    for row in table.rows:
        given = dict(row)
        name, profile, params = given.pop("method"), given.pop("profile", None), given.pop("params", {})
        if unknown := [task for task in given if task not in table.metrics]:
            raise UsageError(f"a claim about {name} has no metric for {unknown[0]}", "Add it to the table's metrics.")
        settings = {**params, **({} if profile is None else {"profile": profile})}
        wanted = {key: _plain(value) for key, value in get_method(name, settings, table.model).params().items()}
        shown = f"{name} ({profile})" if profile is not None else name
        for task, figure in given.items():
            metric = table.metrics[task]
            runs = [
                run
                for run in board["rows"]
                if not run.get("imported")
                and (run["model"], run["method"], run["task"], run["params"]) == (table.model, name, task, wanted)
            ]
            measured = runs[0]["metrics"][metric]["value"] if runs and metric in runs[0]["metrics"] else None
            yield Comparison(task, shown, metric, figure / scale, measured, table.source, table.verified)


def _plain(value: Any) -> Any:
    """As run.json has it."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
