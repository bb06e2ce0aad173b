"""A board as tables: rich for the console, Markdown for files. One table a task, the best value marked."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

ARROWS = {"higher": "↑", "lower": "↓", "neutral": ""}

LEGEND = (
    "p: two-sided, adjusted over the methods (Holm). ans/s: answers a second. "
    "time: for an answer, the baseline's being 1. "
    "Marks: * made from a dirty source tree, ! some samples failed, :N the first N samples only."
)

IMPORTED = "†: answers read from a file, not made here."

Row = Mapping[str, Any]


class Line(NamedTuple):
    """The cells of a table's row."""

    model: str
    method: str
    value: str
    ci95: str
    delta: str
    delta_ci95: str
    p: str
    n: str
    speed: str
    time: str


def by_task(board: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """The board's rows, task by task."""
    return [(task, list(rows)) for task, rows in groupby(board["rows"], key=lambda row: row["task"])]


def rich_tables(board: Mapping[str, Any]) -> list["Table"]:
    """One rich table a task; intervals stand below their values, so that a row fits eighty columns."""
    return [_rich_table(task, rows, board["baseline"]) for task, rows in by_task(board)]


def _rich_table(task: str, rows: Sequence[Row], baseline: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    titles, best = _titles(rows), best_rows(rows)
    models = {row["model"] for row in rows}
    subject = f"{task}, {models.pop()}" if len(models) == 1 else task
    table = Table(title=f"{subject}: Δ against {baseline}", title_justify="left", box=SIMPLE_HEAD)
    names = 2 if models else 1
    for index, title in enumerate(_stacked(titles)[2 - names :]):
        table.add_column(title, justify="left" if index < names else "right", no_wrap=index >= names)
    for row in rows:
        style = "bold" if row["run_id"] in best else None
        table.add_row(*_stacked(_line(row, rows))[2 - names :], style=style)
    return table


def markdown(board: Mapping[str, Any]) -> str:
    """The board as Markdown."""
    lines = []
    for task, rows in by_task(board):
        best = best_rows(rows)
        lines += [f"### {task}", "", _piped(_titles(rows)), _piped(["---"] * 2 + ["---:"] * (len(Line._fields) - 2))]
        for row in rows:
            line = _line(row, rows)
            lines.append(_piped(line._replace(value=f"**{line.value}**") if row["run_id"] in best else line))
        lines.append("")
    lines += [f"Δ: against {board['baseline']} on the same samples, with its paired 95 % interval. {legend(board)}", ""]
    return "\n".join(lines)


def legend(board: Mapping[str, Any]) -> str:
    """What the tables' marks and short titles mean."""
    return f"{LEGEND} {IMPORTED}" if any(row.get("imported") for row in board["rows"]) else LEGEND


def best_rows(rows: Sequence[Row]) -> set[str]:
    """Run ids of the best headline values among runs under equal conditions; all of a tie, none of a single run."""
    best: set[str] = set()
    for _, same in groupby(rows, key=lambda row: row["conditions"]):
        scored = [(headline(row)["value"], row) for row in same if headline(row)["value"] is not None]
        direction = headline(scored[0][1])["direction"] if scored else "neutral"
        if len(scored) > 1 and direction != "neutral":
            top = (max if direction == "higher" else min)(value for value, _ in scored)
            best |= {row["run_id"] for value, row in scored if value == top}
    return best


def headline(row: Row) -> Mapping[str, Any]:
    """The metric that the row is ranked by."""
    metric: Mapping[str, Any] = row["metrics"][row["headline"]]
    return metric


def label(row: Row, rows: Iterable[Row]) -> str:
    """The method as `name` has it, and the legend's marks."""
    limit = f":{row['limit']}" if row["limit"] else ""
    signs = (("†", row.get("imported")), ("*", row["dirty"]), ("!", row["n_failed"]))
    marks = "".join(sign for sign, present in signs if present) + limit
    return f"{name(row, rows)}{f' {marks}' if marks else ''}"


def name(row: Row, rows: Iterable[Row]) -> str:
    """The method, with the parameters in which it differs from its namesakes on the board."""
    twins = [other for other in rows if (other["model"], other["method"]) == (row["model"], row["method"])]
    differing = [key for key in row["params"] if any(other["params"].get(key) != row["params"][key] for other in twins)]
    shown = ", ".join(f"{key}={row['params'][key]}" for key in differing)
    return f"{row['method']}{f' ({shown})' if shown else ''}"


def number(value: float | None) -> str:
    """Three decimals, or a dash; counts as they are."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value > 1 and value == round(value) else f"{value:.3f}"


def interval(ci95: Sequence[float] | None) -> str:
    """An interval in brackets, or nothing."""
    return f"[{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else ""


def _titles(rows: Sequence[Row]) -> Line:
    value = f"{rows[0]['headline']} {ARROWS[headline(rows[0])['direction']]}".strip()
    return Line("model", "method", value, "95 % CI", "Δ", "Δ 95 % CI", "p", "n", "ans/s", "time")


def _line(row: Row, rows: Sequence[Row]) -> Line:
    metric, cost = headline(row), row["cost"]
    delta = metric["delta"] or {}
    speed, time = cost["answers_per_s"], cost["relative_time"]
    return Line(
        model=row["model"],
        method=label(row, rows),
        value=number(metric["value"]),
        ci95=interval(metric["ci95"]),
        delta=f"{delta['value']:+.3f}" if delta else "",
        delta_ci95=interval(delta.get("ci95")),
        p=_p_value(delta.get("p_holm")),
        n=str(row["n"]),
        speed=f"{speed:.1f}" if speed else "–",
        time=f"{time:.2f}×" if time else "–",
    )


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _stacked(line: Line) -> list[str]:
    """The cells as rich markup, each interval on a second line of its value's cell."""
    from rich.markup import escape

    def below(value: str, ci95: str) -> str:
        return f"{value}\n[not bold dim]{escape(ci95)}[/]" if ci95 else value

    value, delta = below(line.value, line.ci95), below(line.delta, line.delta_ci95)
    return [escape(line.model), escape(line.method), value, delta, line.p, line.n, line.speed, line.time]


def _piped(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
