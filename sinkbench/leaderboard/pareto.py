"""Score against cost: which runs of a board no other run beats in both, and a picture of them."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.leaderboard.files import write_bytes
from sinkbench.leaderboard.table import ARROWS, Row, headline, label

COSTS = {
    "time": ("relative_time", "time for an answer, greedy = 1"),
    "macs": ("prefill_macs", "multiply-adds of the prefill"),
    "kv": ("prompt_kv_bytes", "bytes of the prompt's keys and values"),
    "tokens": ("visual_tokens_mean", "image tokens, mean over layers"),
}
"""By what the command line calls it: the entry of a row's "cost", and what it is."""


_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))


def cost_of(row: Row, cost: str) -> float | None:
    """A row's cost by its name in `COSTS`; None where it was not measured."""
    value: float | None = row["cost"].get(COSTS[cost][0])
    return value


def front(rows: Sequence[Row], cost: str) -> list[Row]:
    """The rows that no other row beats: none is as cheap and better, or as good and cheaper; cheapest first.

    Args:
        rows: Under equal conditions; those without cost or score are left out.
        cost: One of `COSTS`.
    """
    known = [row for row in rows if cost_of(row, cost) is not None and headline(row)["value"] is not None]
    sign = -1 if known and headline(known[0])["direction"] == "lower" else 1
    ordered = sorted(known, key=lambda row: (cost_of(row, cost), -sign * headline(row)["value"]))
    best, kept = float("-inf"), []
    for row in ordered:
        score = sign * headline(row)["value"]
        if score > best:
            best = score
            kept.append(row)
    return kept


def draw(board: Mapping[str, Any], cost: str, path: Path) -> None:
    """Draw scores over costs, a panel for each task and model, methods joined over their budgets, the front ringed.

    Args:
        board: See schemas/board.schema.json.
        cost: One of `COSTS`.
        path: PNG to write; its folder is made.

    Raises:
        UsageError: No run of the board has this cost, or the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

    panels: list[list[Row]] = []
    for _, same in groupby(board["rows"], key=lambda row: (row["task"], row["model"], row["conditions"])):
        known = [row for row in same if cost_of(row, cost) is not None and headline(row)["value"] is not None]
        if len(known) > 1:
            panels.append(known)
    if not panels:
        raise UsageError(
            f"no runs of the board can be compared by {cost}",
            f"Run greedy and another method, or take another cost: {', '.join(COSTS)}.",
        )
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * columns, 3.3 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        baseline = board["baseline"]
        methods = sorted({row["method"] for rows in panels for row in rows})
        looks = _looks(methods, str(baseline))
        for panel, rows in zip(axes, panels, strict=False):
            _panel(panel, rows, cost, looks)
        for panel in axes[len(panels) :]:
            panel.set_axis_off()
        handles = [matplotlib.lines.Line2D([], [], **looks[name]) for name in methods]
        # A column takes the longest name, in inches, and what stands before it.
        fitting = int(4.2 * columns / (0.07 * max(map(len, methods)) + 0.45))
        figure.legend(
            handles, methods, loc="outside lower center", ncols=max(1, min(len(methods), fitting)), frameon=False
        )
        drawn = BytesIO()
        figure.savefig(drawn, dpi=110)
    small = BytesIO()
    Image.open(drawn).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    write_bytes(path, small.getvalue())


def _looks(methods: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """How each method is drawn: a colour for each first part of a composition, a line and a mark for what is added."""
    import matplotlib

    parts = sorted({name.partition("+")[0] for name in methods} - {baseline})
    palette = matplotlib.color_sequences["tab10" if len(parts) <= 10 else "tab20"]
    colours = {part: palette[index % len(palette)] for index, part in enumerate(parts)} | {baseline: "black"}
    looks = {}
    for part in colours:
        for name, (line, mark) in zip(
            (n for n in methods if n.partition("+")[0] == part), cycle(_STYLES), strict=False
        ):
            looks[name] = {"color": colours[part], "ls": line, "marker": mark, "ms": 4, "lw": 0.8}
    return looks


def _panel(axes: Any, rows: Sequence[Row], cost: str, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """One task and model."""
    metric = headline(rows[0])
    for method, same in groupby(sorted(rows, key=lambda row: (row["method"], cost_of(row, cost))), _method):
        points = [(cost_of(row, cost), headline(row)["value"]) for row in same]
        axes.plot(*zip(*points, strict=True), alpha=0.9, **looks[method])
    best = front(rows, cost)
    ringed = [(cost_of(row, cost), headline(row)["value"]) for row in best]
    axes.plot(*zip(*ringed, strict=True), "o", ms=9, mfc="none", mec="0.2", mew=0.9)
    axes.set(
        title=f"{rows[0]['task']}, {rows[0]['model']}",
        xlabel=COSTS[cost][1],
        ylabel=f"{rows[0]['headline']} {ARROWS[metric['direction']]}".strip(),
    )
    axes.grid(alpha=0.25)


def _method(row: Row) -> str:
    return str(row["method"])


def table(board: Mapping[str, Any], cost: str) -> list[tuple[str, str, str, str, str]]:
    """The fronts as text: task, model, method with its parameters, cost and score."""
    lines = []
    for _, same in groupby(board["rows"], key=lambda row: (row["task"], row["model"], row["conditions"])):
        rows = list(same)
        for row in front(rows, cost):
            value = f"{headline(row)['value']:.3f}"
            lines.append((row["task"], row["model"], label(row, rows), f"{cost_of(row, cost):.4g}", value))
    return lines
