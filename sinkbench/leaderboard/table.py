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
PAIRS = "n (pairs): samples, and how many of them the baseline answered too, where these are fewer."
COSTS = (
    "peak: memory on the device, of all methods answered in one pass. KV: of an answer's prompt. "
    "image tokens: mean over layers and answers."
)
AVERAGED = (
    "Mean: of headline values over tasks, unweighted; its Δ with an interval from one paired bootstrap over the images "
    "of all tasks."
)

KINDS = ("scores", "cost", "all")
"""Columns that tables have: scores with their differences, what runs cost, or both."""

WIDE = 150
"""Characters of a terminal that shows both."""

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
    peak: str
    kv: str
    tokens: str


_MARKDOWN = {
    "scores": ("model", "method", "value", "ci95", "delta", "delta_ci95", "p", "n", "speed", "time"),
    "cost": ("model", "method", "value", "n", "speed", "time", "peak", "kv", "tokens"),
    "all": Line._fields,
}
_CONSOLE = {
    kind: tuple(name for name in names if name not in ("ci95", "delta_ci95")) for kind, names in _MARKDOWN.items()
}
"""Intervals stand below their values."""


def by_task(board: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """The board's rows, task by task."""
    return [(task, list(rows)) for task, rows in groupby(board["rows"], key=lambda row: row["task"])]


def rich_tables(board: Mapping[str, Any], kind: str = "scores") -> list["Table"]:
    """One rich table a task; intervals stand below their values, so that a row of scores fits eighty columns.

    Args:
        board: See schemas/board.schema.json.
        kind: One of `KINDS`.
    """
    return [_rich_table(task, rows, board["baseline"], kind) for task, rows in by_task(board)]


def _rich_table(task: str, rows: Sequence[Row], baseline: str, kind: str) -> "Table":
    best = best_rows(rows)
    models = {row["model"] for row in rows}
    subject = f"{task}, {models.pop()}" if len(models) == 1 else task
    shown = [name for name in _CONSOLE[kind] if models or name != "model"]
    table = _empty_table(f"{subject}: Δ against {baseline}", _stacked(_titles(rows), shown), 2 if models else 1)
    for row in rows:
        style = "bold" if row["run_id"] in best else None
        table.add_row(*_stacked(_line(row, rows), shown), style=style)
    return table


def rich_averages(board: Mapping[str, Any]) -> list["Table"]:
    """One rich table for each model and direction that methods are averaged over."""
    tables = []
    for entry in board.get("averages", ()):
        shown = ("method", "value", "delta", "p", "n")
        title = f"Mean of {', '.join(entry['metrics'])}, {entry['model']}: Δ against {board['baseline']}"
        table = _empty_table(title, _stacked(_average_titles(entry), shown), 1)
        best = _best_averages(entry)
        for row, line in zip(entry["rows"], _average_lines(entry), strict=True):
            table.add_row(*_stacked(line, shown), style="bold" if row["value"] in best else None)
        tables.append(table)
    return tables


def _empty_table(title: str, columns: Sequence[str], names: int) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        if index < names:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def markdown(board: Mapping[str, Any], kind: str = "scores", *, averages: bool = False) -> str:
    """The board as Markdown.

    Args:
        board: See schemas/board.schema.json.
        kind: One of `KINDS`.
        averages: Add the means over tasks.
    """
    shown = _MARKDOWN[kind]
    lines = []
    for task, rows in by_task(board):
        best = best_rows(rows)
        lines += [f"### {task}", "", *_head(_titles(rows), shown)]
        for row in rows:
            line = _line(row, rows)
            lines.append(_piped(_bold(line) if row["run_id"] in best else line, shown))
        lines.append("")
    for entry in board.get("averages", ()) if averages else ():
        best_values = _best_averages(entry)
        names = ("method", "value", "delta", "delta_ci95", "p", "n")
        lines += [f"### Mean of {', '.join(entry['metrics'])}, {entry['model']}", ""]
        lines += _head(_average_titles(entry), names, 1)
        for row, line in zip(entry["rows"], _average_lines(entry), strict=True):
            lines.append(_piped(_bold(line) if row["value"] in best_values else line, names))
        lines += ["", *_left_out(entry)]
    note = f"Δ: against {board['baseline']} on the same samples, with its paired 95 % interval."
    lines += [f"{note} {legend(board, kind, averages=averages)}", ""]
    return "\n".join(lines)


def left_out(board: Mapping[str, Any]) -> list[str]:
    """Which methods have no average, and why."""
    return [line for entry in board.get("averages", ()) for line in _left_out(entry) if line]


def _left_out(entry: Mapping[str, Any]) -> list[str]:
    every = [{**row, "model": entry["model"]} for row in entry["left_out"]]
    told = [f"{name(row, every)} lacks {', '.join(row['missing'])}" for row in every]
    return [f"No mean for {entry['model']}: {'; '.join(told)}.", ""] if told else []


def legend(board: Mapping[str, Any], kind: str = "scores", *, averages: bool = False) -> str:
    """What the tables' marks and short titles mean."""
    parts = (
        (LEGEND, True),
        (COSTS, kind != "scores"),
        (PAIRS, any("(" in _n(row) for row in board["rows"])),
        (IMPORTED, any(row.get("imported") for row in board["rows"])),
        (AVERAGED, averages and bool(board.get("averages"))),
    )
    return " ".join(text for text, present in parts if present)


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
    limit = f":{row['limit']}" if row.get("limit") else ""
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
    n = "n (pairs)" if any("(" in _n(row) for row in rows) else "n"
    costs = ("ans/s", "time", "peak", "KV", "image tokens")
    return Line("model", "method", value, "95 % CI", "Δ", "Δ 95 % CI", "p", n, *costs)


def _line(row: Row, rows: Sequence[Row]) -> Line:
    metric, cost = headline(row), row["cost"]
    speed, time = cost["answers_per_s"], cost["relative_time"]
    tokens = cost.get("visual_tokens_mean")
    return Line(
        model=row["model"],
        method=label(row, rows),
        value=number(metric["value"]),
        ci95=interval(metric["ci95"]),
        **_difference(metric["delta"]),
        n=_n(row),
        speed=f"{speed:.1f}" if speed else "–",
        time=f"{time:.2f}×" if time else "–",
        peak=_bytes(cost.get("peak_bytes")),
        kv=_bytes(cost.get("prompt_kv_bytes")),
        tokens="–" if tokens is None else f"{tokens:.1f}",
    )


def _average_titles(entry: Mapping[str, Any]) -> Line:
    blank = dict.fromkeys(Line._fields, "")
    value = f"mean {ARROWS[entry['direction']]}"
    return Line(
        **{**blank, "method": "method", "value": value, "delta": "Δ", "delta_ci95": "Δ 95 % CI", "p": "p", "n": "pairs"}
    )


def _average_lines(entry: Mapping[str, Any]) -> list[Line]:
    rows = [{**row, "model": entry["model"]} for row in entry["rows"]]
    blank = dict.fromkeys(Line._fields, "")
    lines = []
    for row in rows:
        pairs = str(row["delta"]["n_pairs"]) if row["delta"] else ""
        own = {"method": label(row, rows), "value": number(row["value"]), "n": pairs, **_difference(row["delta"])}
        lines.append(Line(**{**blank, **own}))
    return lines


def _best_averages(entry: Mapping[str, Any]) -> set[float]:
    values = [row["value"] for row in entry["rows"]]
    return {(max if entry["direction"] == "higher" else min)(values)} if len(values) > 1 else set()


def _difference(delta: Mapping[str, Any] | None) -> dict[str, str]:
    """The cells of a difference; empty without one."""
    found = delta or {}
    return {
        "delta": f"{found['value']:+.3f}" if found else "",
        "delta_ci95": interval(found.get("ci95")),
        "p": _p_value(found.get("p_holm")),
    }


def _n(row: Row) -> str:
    """Samples, and the pairs that a difference rests on where these are fewer."""
    delta = headline(row)["delta"]
    return f"{row['n']} ({delta['n_pairs']})" if delta and delta["n_pairs"] != row["n"] else str(row["n"])


def _bytes(value: float | None) -> str:
    """Binary units, three digits."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB" if value < 1000 else f"{value:.0f} GiB"


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _bold(line: Line) -> Line:
    return line._replace(value=f"**{line.value}**")


def _stacked(line: Line, shown: Sequence[str]) -> list[str]:
    """The cells as rich markup, intervals and pairs on a second line of their value's cell."""
    from rich.markup import escape

    number, _, pairs = line.n.partition(" ")
    cells = line._replace(n=number)._asdict()
    below = {"value": line.ci95, "delta": line.delta_ci95, "n": pairs}
    return [
        f"{escape(cells[name])}\n[not bold dim]{escape(below[name])}[/]" if below.get(name) else escape(cells[name])
        for name in shown
    ]


def _head(titles: Line, shown: Sequence[str], names: int = 2) -> list[str]:
    rule = ["---"] * names + ["---:"] * (len(shown) - names)
    return [_piped(titles, shown), f"| {' | '.join(rule)} |"]


def _piped(line: Line, shown: Sequence[str]) -> str:
    cells = line._asdict()
    return f"| {' | '.join(cells[name] for name in shown)} |"
