"""A board: the finished runs below a folder, each compared with the baseline method on the same samples."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError, unknown_name
from sinkbench.leaderboard.averages import averages
from sinkbench.leaderboard.runs import Run, find_runs
from sinkbench.leaderboard.stats import N_RESAMPLES, holm, resamples_for
from sinkbench.schemas import validate
from sinkbench.store import read_record

SCHEMA_VERSION = 1
COSTS = ("answers_per_s", "peak_bytes", "visual_tokens_mean", "prefill_macs", "prompt_kv_bytes")
"""What of a run's efficiency stands on the board."""

Board = dict[str, Any]
"""schemas/board.schema.json."""


def build(
    folder: Path,
    *,
    baseline: str = "greedy",
    tasks: Sequence[str] = (),
    directories: Sequence[Path] | None = None,
) -> Board:
    """Collect the runs below a folder and compare them.

    Args:
        folder: Where to look, at any depth.
        baseline: The method that the others are compared with, on the same model and task.
        tasks: Only these; empty takes all.
        directories: Exactly these run directories, all below the folder; None takes every run there.

    Raises:
        UsageError: There is no finished run, or none of the task or baseline.
    """
    runs = find_runs(folder) if directories is None else [Run(at, read_record(at / "run.json")) for at in directories]
    finished = [run for run in runs if run.record["metrics"]]
    if not finished:
        raise UsageError(
            f"no finished run below {folder}", "Make one: sinkbench eval --model tiny-llava --task scenes_pope"
        )
    for task in tasks:
        if task not in {run.task for run in finished}:
            raise unknown_name("run of task", task, {run.task for run in finished})
    if baseline not in {run.method for run in finished}:
        raise unknown_name("baseline", baseline, {run.method for run in finished})
    finished = [run for run in finished if not tasks or run.task in tasks]
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in finished:
        groups[run.conditions].append(run)
    rows = [row for group in groups.values() for row in _compared(group, baseline, folder)]
    rows.sort(key=lambda row: _order(row, baseline))
    board = {
        "schema_version": SCHEMA_VERSION,
        "baseline": baseline,
        "rows": rows,
        "averages": averages(rows, {run.record["run_id"]: run for run in finished}, baseline),
        "unfinished": [
            {"path": _path(run, folder), "status": run.record["status"]} for run in runs if not run.record["metrics"]
        ],
    }
    validate(board, "board")
    return board


def _compared(runs: list[Run], baseline: str, folder: Path) -> list[dict[str, Any]]:
    """Rows of runs under equal conditions."""
    reference = max((run for run in runs if run.method == baseline), key=_age, default=None)
    rows = [_row(run, folder) for run in runs]
    if reference is None:
        return rows
    speed = reference.record["efficiency"].get("answers_per_s")
    for row in rows:
        if speed and row["cost"]["answers_per_s"]:
            row["cost"]["relative_time"] = speed / row["cost"]["answers_per_s"]
    _add_deltas(reference, [(run, row) for run, row in zip(runs, rows, strict=True) if run is not reference])
    return rows


def _order(row: dict[str, Any], baseline: str) -> tuple[Any, ...]:
    """By task, model and conditions, the largest set of samples first, the baseline on top."""
    first = row["method"] != baseline
    return row["task"], row["model"], -row["n"], row["conditions"], first, row["method"], row["run_id"]


def _age(run: Run) -> str:
    return str(run.record["updated"])


def _add_deltas(reference: Run, others: Sequence[tuple[Run, dict[str, Any]]]) -> None:
    """Compare each metric, and adjust its p-values over the methods (Holm).

    The headline's are as fine as that adjustment needs; for twenty further metrics that would take minutes.
    """
    from sinkbench.leaderboard.compare import compare

    task = reference.record["task"]
    ours, fine = reference.samples(), resamples_for(len(others))
    deltas: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run, row in others:
        theirs = run.samples()
        for name, metric in row["metrics"].items():
            resamples = fine if name == task["headline"] else N_RESAMPLES
            delta = compare(task["scheme"], name, ours, theirs, n_resamples=resamples)
            metric["delta"] = delta
            if delta and delta["p"] is not None:
                deltas[name].append(delta)
    for family in deltas.values():
        for delta, adjusted in zip(family, holm([delta["p"] for delta in family]), strict=True):
            delta["p_holm"] = adjusted


def _row(run: Run, folder: Path) -> dict[str, Any]:
    record = run.record
    task, git = record["task"], record["env"]["git"]
    return {
        "model": record["model"]["name"],
        "method": record["method"]["name"],
        "params": record["method"]["params"],
        "task": task["name"],
        "task_version": task["version"],
        "conditions": run.conditions,
        "headline": task["headline"],
        "n": record["metrics"][task["headline"]]["n"],
        "n_failed": task["n_failed"],
        "limit": record["spec"]["limit"],
        "dtype": record["model"]["dtype"],
        "status": record["status"],
        "commit": git["commit"],
        "dirty": git["dirty"],
        "run_id": record["run_id"],
        "path": _path(run, folder),
        **({"imported": True} if run.imported else {}),
        "metrics": {name: {**metric, "delta": None} for name, metric in record["metrics"].items()},
        "cost": {**{name: record["efficiency"].get(name) for name in COSTS}, "relative_time": None},
    }


def _path(run: Run, folder: Path) -> str:
    return run.directory.relative_to(folder).as_posix()
