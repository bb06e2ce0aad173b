"""Everything that the page shows of the runs below a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sinkbench.errors import UsageError
from sinkbench.leaderboard import board as boards
from sinkbench.leaderboard import pareto, table
from sinkbench.leaderboard.report.pictures import Gallery
from sinkbench.leaderboard.report.private import publishable
from sinkbench.leaderboard.report.samples import describe, read_groups
from sinkbench.leaderboard.report.views import Key, read_views
from sinkbench.leaderboard.table import Row

SAMPLES = 60
"""Samples of a task and model: with three models on two tasks over COCO-sized images the file stays below 20 MB."""


_TESTS = {
    "mcnemar": "McNemar's exact test where scores are 0 or 1",
    "clustered_mcnemar": "McNemar's test over images where scores are 0 or 1 and samples share an image",
    "paired_bootstrap": "paired bootstrap over images",
}


class Cell(NamedTuple):
    """A number in a table.

    Attributes:
        value: What it is sorted by; None stays last.
        text: As it is printed.
        interval: The same of its 95 % interval.
    """

    value: float | None
    text: str
    interval: str = ""


@dataclass(frozen=True)
class Settings:
    """What a report is made of.

    Attributes:
        folder: With run directories, at any depth.
        baseline: The method that the others are compared with.
        tasks: Only these; empty takes all.
        samples: Most samples of a task and model.
        images: Whether images are embedded.
        attention: Folders with views.json files, at any depth.
        title: Of the page.
    """

    folder: Path
    baseline: str = "greedy"
    tasks: tuple[str, ...] = ()
    samples: int = SAMPLES
    images: bool = True
    attention: tuple[Path, ...] = ()
    title: str = "sinkbench report"


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Attributes:
        settings: What it was made of.
        board: The board, without the machine's paths.
        groups: Of samples (samples.describe).
        images: Data URIs by name.
        missing: Why images are not in the page, by file name.
        unmatched: Views whose sample no run has.
    """

    settings: Settings
    board: Mapping[str, Any]
    groups: Sequence[Mapping[str, Any]]
    images: Mapping[str, str]
    missing: Mapping[str, str]
    unmatched: int


def collect(settings: Settings) -> Report:
    """Build the board, choose the samples and read their images.

    Raises:
        UsageError: There is no finished run, or no such task, baseline or view, or views are asked for without images.
    """
    if settings.attention and not settings.images:
        raise UsageError("--attention brings pictures, and --no-images leaves them out", "Leave out one of the two.")
    views = read_views(settings.attention)
    board = _published(boards.build(settings.folder, baseline=settings.baseline, tasks=settings.tasks))
    gallery = Gallery()
    described = []
    matched: set[Key] = set()
    for group in read_groups(board["rows"], settings.folder) if settings.samples else ():
        described.append(
            describe(group, settings.baseline, views, gallery if settings.images else None, settings.samples)
        )
        first, ids = group.rows[0], set(group.ids)
        matched |= {key for key in views if key[:2] == (first["model"], first["task"]) and key[2] in ids}
    return Report(settings, board, described, gallery.uris, gallery.missing, len(views.keys() - matched))


def _published(board: Mapping[str, Any]) -> dict[str, Any]:
    """The board without the machine's paths; its own are relative, and lead to the runs."""
    rows = [
        {**row, "path": asis["path"], "metrics": {name: _known(metric) for name, metric in row["metrics"].items()}}
        for asis in board["rows"]
        for row in [publishable(asis)]
    ]
    return {**publishable({key: entry for key, entry in board.items() if key != "rows"}), "rows": rows}


def _known(metric: Mapping[str, Any]) -> dict[str, Any]:
    """A metric or difference with None for an interval that has no ends, and for a difference that has no value."""
    known = dict(metric)
    if metric["ci95"] is not None and None in metric["ci95"]:
        known["ci95"] = None
    if metric.get("delta"):
        known["delta"] = None if metric["delta"]["value"] is None else _known(metric["delta"])
    return known


def tables(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The board's tables, one a task, with cells as the page prints them and the values that they are sorted by."""
    return [
        {
            "task": task,
            "model": rows[0]["model"] if len({row["model"] for row in rows}) == 1 else None,
            "metric": _metric(rows[0]),
            "rows": [
                {
                    **_cells(row, rows),
                    "best": row["run_id"] in best,
                    "first": index > 0 and row["conditions"] != rows[index - 1]["conditions"],
                }
                for index, row in enumerate(rows)
            ],
            "metrics": list(dict.fromkeys(name for row in rows for name in row["metrics"])),
        }
        for task, rows in table.by_task(board)
        for best in [table.best_rows(rows)]
    ]


def _metric(row: Row) -> str:
    return f"{row['headline']} {table.ARROWS[table.headline(row)['direction']]}".strip()


def _cells(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    metric, cost = table.headline(row), row["cost"]
    delta = metric["delta"] or {}
    speed, time = cost["answers_per_s"], cost["relative_time"]
    return {
        "model": row["model"],
        "method": table.label(row, rows),
        "value": _score(metric),
        **_compared(delta),
        "n": Cell(row["n"], str(row["n"])),
        "speed": Cell(speed, f"{speed:.1f}" if speed else "–"),
        "time": Cell(time, f"{time:.2f}×" if time else "–"),
        "metrics": {name: _score(entry) for name, entry in row["metrics"].items()},
    }


def _score(metric: Mapping[str, Any]) -> "Cell":
    return Cell(metric["value"], table.number(metric["value"]), table.interval(metric.get("ci95")))


def _compared(delta: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a difference; empty ones where there is none."""
    p = delta.get("p_holm")
    return {
        "sure": _is_sure(delta),
        "delta": Cell(delta.get("value"), f"{delta['value']:+.3f}" if delta else "", table.interval(delta.get("ci95"))),
        "p": Cell(p, "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"),
    }


def averages(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The means over tasks, a table for each model and direction; boards of earlier releases have none."""
    return [
        {
            "model": entry["model"],
            "tasks": list(entry["metrics"]),
            "metric": f"mean {table.ARROWS[entry['direction']]}",
            "rows": [_averaged(row, entry, named) for row in entry["rows"]],
            "left_out": [
                f"{table.name({**one, 'model': entry['model']}, named)} (not run on {', '.join(one['missing'])})"
                for one in entry["left_out"]
            ],
        }
        for entry in board.get("averages", ())
        for named in [[{**row, "model": entry["model"]} for row in (*entry["rows"], *entry["left_out"])]]
    ]


def _averaged(row: Mapping[str, Any], entry: Mapping[str, Any], named: Sequence[Row]) -> dict[str, Any]:
    value, values = row["value"], [other["value"] for other in entry["rows"]]
    best = max(values) if entry["direction"] == "higher" else min(values)
    return {
        "method": table.label({**row, "model": entry["model"], "limit": None}, named),
        "best": len(values) > 1 and value == best,
        "value": Cell(value, table.number(value)),
        **_compared(_known(row["delta"]) if row["delta"] else {}),
    }


def _is_sure(delta: Mapping[str, Any]) -> bool:
    p = delta.get("p_holm")
    return p is not None and bool(p < 0.05)


def tests(board: Mapping[str, Any]) -> list[str]:
    """The tests behind the headline metrics' p-values, in words."""
    deltas = [delta for row in board["rows"] if (delta := table.headline(row)["delta"])]
    used = sorted({delta["test"] for delta in deltas if delta["test"]})
    return [_TESTS.get(test, test.replace("_", " ")) for test in used]


def panels(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plots' data: for each task, model and conditions every run's headline metric and costs, and the fronts."""
    found = []
    for (task, model, conditions), same in groupby(
        board["rows"], key=lambda row: (row["task"], row["model"], row["conditions"])
    ):
        rows = list(same)
        fronts = {cost: {row["run_id"] for row in pareto.front(rows, cost)} for cost in pareto.COSTS}
        found.append(
            {
                "task": task,
                "model": model,
                "conditions": conditions,
                "metric": _metric(rows[0]),
                "direction": table.headline(rows[0])["direction"],
                "runs": [_run(row, rows, board["baseline"], fronts) for row in rows],
            }
        )
    return found


def _run(row: Row, rows: Sequence[Row], baseline: str, fronts: Mapping[str, set[str]]) -> dict[str, Any]:
    metric = table.headline(row)
    delta = metric["delta"]
    return {
        "method": row["method"],
        "label": table.name(row, rows),
        "marked": table.label(row, rows),
        "baseline": row["method"] == baseline,
        "value": metric["value"],
        "ci": metric["ci95"],
        "delta": delta and {"value": delta["value"], "ci": delta["ci95"], "sure": _is_sure(delta)},
        "costs": {cost: pareto.cost_of(row, cost) for cost in pareto.COSTS},
        "fronts": [cost for cost, front in fronts.items() if row["run_id"] in front],
    }


def costs(board: Mapping[str, Any]) -> list[dict[str, str]]:
    """The costs that can be chosen: those by which two runs of some panel can be compared."""
    return [
        {"key": cost, "title": title.replace("greedy", board["baseline"])}
        for cost, (_, title) in pareto.COSTS.items()
        if any(
            sum(run["costs"][cost] is not None and run["value"] is not None for run in panel["runs"]) > 1
            for panel in panels(board)
        )
    ]
