"""Averages over tasks: every method over the same tasks, with one paired bootstrap over the images of all of them."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from sinkbench.leaderboard.compare import Pairs, Samples, pair
from sinkbench.leaderboard.runs import Run
from sinkbench.leaderboard.stats import N_RESAMPLES, Paired, holm, paired_summary, resample_totals, resamples_for

Row = Mapping[str, Any]
Baseline = Callable[[str], Samples]
"""From a task to the baseline's samples."""

_DIRECTIONS = ("higher", "lower")


def averages(rows: Sequence[Row], runs: Mapping[str, Run], baseline: str) -> list[dict[str, Any]]:
    """The unweighted mean of headline values over tasks, for each model and direction.

    The tasks are those that the baseline ran on, of each the largest set of samples, as far as their values are shares
    of one; a method that lacks one of them has no average, and is named. The difference is the mean of the tasks'
    paired differences. Its interval and p-value come from a joint bootstrap: an image is drawn for both methods and for
    all tasks that ask about it, because differences on one image are not independent, in whichever task.

    Args:
        rows: Of the board, in its order.
        runs: Runs by their id.
        baseline: Method that the others are compared with.

    Returns:
        Entries of "averages" of schemas/board.schema.json; none for fewer than two tasks.
    """
    entries = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for direction in _DIRECTIONS:
            mine = [row for row in rows if row["model"] == model and _headline(row)["direction"] == direction]
            if entry := _average(model, direction, mine, runs, baseline):
                entries.append(entry)
    return entries


def _average(
    model: str, direction: str, rows: Sequence[Row], runs: Mapping[str, Run], baseline: str
) -> dict[str, Any] | None:
    conditions = _conditions(rows, baseline)
    if len(conditions) < 2:
        return None
    by_method: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if conditions.get(row["task"]) == row["conditions"] and _headline(row)["value"] is not None:
            by_method[row["method"], json.dumps(row["params"], sort_keys=True)].setdefault(row["task"], row)
    complete = {key: found for key, found in by_method.items() if found.keys() == conditions.keys()}
    reference = next((found for (method, _), found in complete.items() if method == baseline), None)
    if reference is None:
        return None

    @cache
    def ours(task: str) -> Samples:
        """The baseline's samples, read once for all methods."""
        return runs[reference[task]["run_id"]].samples()

    resamples = resamples_for(len(complete) - 1)
    entry: dict[str, Any] = {
        "model": model,
        "direction": direction,
        "metrics": {task: row["headline"] for task, row in reference.items()},
        "rows": [_row(found, None if found is reference else ours, runs, resamples) for found in complete.values()],
        "left_out": [
            {"method": method, "params": json.loads(params), "missing": sorted(conditions.keys() - found.keys())}
            for (method, params), found in by_method.items()
            if found.keys() != conditions.keys()
        ],
    }
    deltas = [row["delta"] for row in entry["rows"] if row["delta"] and row["delta"]["p"] is not None]
    for delta, adjusted in zip(deltas, holm([delta["p"] for delta in deltas]), strict=True):
        delta["p_holm"] = adjusted
    return entry


def _conditions(rows: Sequence[Row], baseline: str) -> dict[str, str]:
    """Of each task with values in 0..1 the conditions that the baseline ran under, with the largest set of samples."""
    other_scale = {row["task"] for row in rows if not 0 <= (_headline(row)["value"] or 0.0) <= 1}
    chosen: dict[str, str] = {}
    for row in rows:
        if row["method"] == baseline and row["task"] not in other_scale:
            chosen.setdefault(row["task"], row["conditions"])
    return chosen


def _row(found: Mapping[str, Row], ours: Baseline | None, runs: Mapping[str, Run], resamples: int) -> dict[str, Any]:
    rows = list(found.values())
    return {
        "method": rows[0]["method"],
        "params": rows[0]["params"],
        "run_ids": [row["run_id"] for row in rows],
        "value": sum(_headline(row)["value"] for row in rows) / len(rows),
        "n_failed": sum(row["n_failed"] for row in rows),
        "dirty": any(row["dirty"] for row in rows),
        **({"imported": True} if any(row.get("imported") for row in rows) else {}),
        "delta": None if ours is None else _delta(found, ours, runs, resamples),
    }


def _delta(found: Mapping[str, Row], ours: Baseline, runs: Mapping[str, Run], resamples: int) -> dict[str, Any] | None:
    paired = []
    for task, row in found.items():
        run = runs[row["run_id"]]
        pairs = pair(run.record["task"]["scheme"], row["headline"], ours(task), run.samples())
        if pairs is None:
            return None
        paired.append(pairs)
    joint = joint_bootstrap(paired, resamples)
    known = {"value": joint.delta, "n_pairs": sum(len(pairs.units[0]) for pairs in paired)}
    if joint.n < 2:
        return {**known, "ci95": None, "p": None, "test": None}
    return {**known, "ci95": [joint.low, joint.high], "p": joint.p, "test": "joint_bootstrap"}


def joint_bootstrap(tasks: Sequence[Pairs], n_resamples: int = N_RESAMPLES, seed: int = 0) -> Paired:
    """The mean difference over tasks, resampling the images of all of them at once.

    delta = 1/T * sum_t (m_t(method) - m_t(baseline)); each resample draws as many images as there are with
    replacement, and every task takes the images of its own among them.

    Args:
        tasks: The pairs of each.
        n_resamples: Number of bootstrap samples.
        seed: Seeds the draws.

    Returns:
        As of `paired_bootstrap`; n is the smallest number of images of a task.
    """
    images = sorted({cluster for pairs in tasks for cluster in pairs.clusters})
    place = {image: index for index, image in enumerate(images)}
    tables, slices, start = [], [], 0
    for pairs in tasks:
        both = np.concatenate(pairs.tables, axis=1)
        table = np.zeros((len(images), both.shape[1]))
        table[[place[cluster] for cluster in pairs.clusters]] = both
        tables.append(table)
        slices.append((start, start + both.shape[1] // 2, start + both.shape[1]))
        start += both.shape[1]
    whole = np.concatenate(tables, axis=1)
    totals = np.concatenate([whole.sum(axis=0)[None], resample_totals(whole, n_resamples, seed)])
    differences = [
        pairs.statistic(totals[:, middle:end]) - pairs.statistic(totals[:, begin:middle])
        for pairs, (begin, middle, end) in zip(tasks, slices, strict=True)
    ]
    deltas = np.mean(differences, axis=0)
    return paired_summary(float(deltas[0]), deltas[1:], min(len(pairs.clusters) for pairs in tasks))


def _headline(row: Row) -> Mapping[str, Any]:
    metric: Mapping[str, Any] = row["metrics"][row["headline"]]
    return metric
