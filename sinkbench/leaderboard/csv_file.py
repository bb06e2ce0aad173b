"""A board as CSV: a line for each run and metric, then one for each average."""

import csv
import json
from collections.abc import Iterator, Mapping
from io import StringIO
from typing import Any

COSTS = ("answers_per_s", "relative_time", "peak_bytes", "visual_tokens_mean", "prefill_macs", "prompt_kv_bytes")

COLUMNS = (
    *("kind", "task", "task_version", "model", "method", "params", "metric", "is_headline", "direction"),
    *("value", "stderr", "ci95_low", "ci95_high", "n", "undefined"),
    *("baseline", "delta", "delta_ci95_low", "delta_ci95_high", "p", "p_holm", "test", "n_pairs"),
    *COSTS,
    *("n_failed", "limit", "dtype", "status", "dirty", "failed", "imported", "is_best"),
    *("conditions", "commit", "run_id", "path"),
)
"""Units are those of the board's JSON; what is not known is empty, marks are true or false."""

_SAME = ("task_version", "model", "method", "n_failed", "limit", "dtype", "status", "conditions", "commit", "run_id")


def to_csv(board: Mapping[str, Any]) -> str:
    """The board as CSV (RFC 4180) with a title line, see `COLUMNS`."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for line in [*_runs(board), *_averages(board)]:
        writer.writerow({name: _plain(value) for name, value in line.items()})
    return buffer.getvalue()


def _runs(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    from sinkbench.leaderboard.table import best_rows, by_task

    best = {run_id for _, rows in by_task(board) for run_id in best_rows(rows)}
    for row in board["rows"]:
        for name, metric in row["metrics"].items():
            is_headline = name == row["headline"]
            yield {
                "kind": "run",
                "task": row["task"],
                "metric": name,
                "is_headline": is_headline,
                "is_best": is_headline and row["run_id"] in best,
                "undefined": bool(metric.get("undefined")),
                **{key: row[key] for key in _SAME},
                **{key: metric[key] for key in ("direction", "value", "stderr", "n")},
                **_interval("ci95", metric["ci95"]),
                **_compared(board, row, metric["delta"]),
                **{key: row["cost"].get(key) for key in COSTS},
                "path": row["path"],
            }


def _averages(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in board.get("averages", ()):
        for row in entry["rows"]:
            yield {
                "kind": "average",
                "task": "+".join(entry["metrics"]),
                "model": entry["model"],
                "method": row["method"],
                "metric": "+".join(entry["metrics"].values()),
                "direction": entry["direction"],
                "value": row["value"],
                "n_failed": row["n_failed"],
                **_compared(board, row, row["delta"]),
            }


def _compared(board: Mapping[str, Any], row: Mapping[str, Any], delta: Mapping[str, Any] | None) -> dict[str, Any]:
    """What runs and averages have in common: parameters, marks and the difference."""
    found = delta or {}
    return {
        "params": json.dumps(row["params"], sort_keys=True),
        "baseline": board["baseline"],
        "delta": found.get("value"),
        **_interval("delta_ci95", found.get("ci95")),
        **{key: found.get(key) for key in ("p", "p_holm", "test", "n_pairs")},
        "dirty": row["dirty"],
        "failed": row["n_failed"] > 0,
        "imported": bool(row.get("imported")),
    }


def _interval(name: str, ends: Any) -> dict[str, Any]:
    low, high = ends or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value
