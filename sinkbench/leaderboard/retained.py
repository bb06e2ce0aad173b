"""Retained performance: how much of the whole model's scores a method keeps, as papers on pruning report it."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sinkbench.leaderboard.table import headline, name


def retained(board: Mapping[str, Any]) -> list[dict[str, Any]]:
    """100 · mean over tasks of score / score of the baseline (pruning_protocol §3), unweighted.

    A method with its parameters is counted over the tasks on which it and the baseline ran under equal conditions;
    scores of which less is better are left out, for their ratio says nothing. Means over different tasks cannot be
    compared, so that the tasks are named.

    Args:
        board: See schemas/board.schema.json.

    Returns:
        For each model, method and parameters: "model", "method", "params", "label" (how tables name it), "percent",
        "tasks".
    """
    baseline = {
        (row["model"], row["conditions"]): headline(row)["value"]
        for row in board["rows"]
        if row["method"] == board["baseline"]
    }
    shares: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    labels: dict[tuple[str, str, str], str] = {}
    for row in board["rows"]:
        whole, metric = baseline.get((row["model"], row["conditions"])), headline(row)
        if whole and metric["value"] is not None and metric["direction"] == "higher":
            key = (row["model"], row["method"], json.dumps(row["params"], sort_keys=True))
            shares[key][row["task"]] = metric["value"] / whole
            labels[key] = name(row, board["rows"])
    return [
        {
            "model": model,
            "method": method,
            "params": json.loads(params),
            "label": labels[model, method, params],
            "percent": 100 * sum(by_task.values()) / len(by_task),
            "tasks": sorted(by_task),
        }
        for (model, method, params), by_task in shares.items()
    ]
