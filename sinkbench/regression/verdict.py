"""Which cells moved beyond what pairing allows."""

from collections.abc import Mapping, Sequence
from typing import Any

from sinkbench.leaderboard.stats import holm, resamples_for
from sinkbench.regression.cell import Cell
from sinkbench.regression.comparison import Compared, compare_cells
from sinkbench.regression.pairing import Pairing, common
from sinkbench.schemas import validate

SCHEMA_VERSION = 1
ALPHA = 0.05
MOVED = ("better", "worse", "changed")
"""Verdicts on a headline metric whose paired test is significant; "changed": neither way is better."""

Comparison = dict[str, Any]
"""schemas/comparison.schema.json."""


def compare_runs(
    pairing: Pairing,
    *,
    sources: tuple[str, str],
    names: tuple[str, str] = ("A", "B"),
    alpha: float = ALPHA,
    max_flips: float | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare pairs of runs and judge each.

    Args:
        pairing: Which runs belong together.
        sources: Where the two sides come from.
        names: What messages call them.
        alpha: Two-sided level of the headline metrics' paired tests, held over all pairs together (Holm).
        max_flips: The largest share of pairs whose score may change; None sets no limit.
        reasons: Why runs of the first side are missing on the second, by run id.

    Returns:
        See schemas/comparison.schema.json; what is wrong with a cell is in its "problems".
    """
    resamples = resamples_for(len(pairing.pairs), alpha)
    cells = [compare_cells(one, other, names=names, n_resamples=resamples) for one, other in pairing.pairs]
    _judge(cells, alpha, max_flips)
    everywhere = common([cell["differences"] for cell in cells])
    for cell in cells:
        cell["differences"] = [entry for entry in cell["differences"] if entry not in everywhere]
    comparison = {
        "schema_version": SCHEMA_VERSION,
        **{"first": sources[0], "second": sources[1], "alpha": alpha, "max_flips": max_flips},
        "differences": everywhere,
        "cells": cells,
        "missing": [_missing(cell, reasons or {}) for cell in pairing.only_first],
        "new": [cell.title for cell in pairing.only_second],
    }
    validate(comparison, "comparison")
    return comparison


def failures(comparison: Comparison, *, worse_only: bool = False) -> list[str]:
    """What is beyond what pairing allows, a line each; empty if nothing is.

    Args:
        comparison: From `compare_runs`.
        worse_only: A headline metric that moved counts only where it became worse.
    """
    found = []
    for cell in comparison["cells"]:
        if cell["verdict"] == "worse" or (cell["verdict"] in MOVED and not worse_only):
            found.append(f"{cell['title']}: {moved(cell)}")
        found += [f"{cell['title']}: {problem}" for problem in cell["problems"]]
    return found + [f"{entry['title']}: missing ({entry['reason']})" for entry in comparison["missing"]]


def only_better(comparison: Comparison) -> bool:
    """Whether something moved and all that did became better, with nothing else wrong."""
    verdicts = {cell["verdict"] for cell in comparison["cells"]}
    clean = not comparison["missing"] and not any(cell["problems"] for cell in comparison["cells"])
    return clean and "better" in verdicts and not verdicts & {"worse", "changed"}


def moved(cell: Compared) -> str:
    """How a cell's headline moved, in words."""
    metric = cell["metrics"][cell["headline"]]
    words = {"better": "an improvement", "worse": "worse", "changed": "changed"}[cell["verdict"]]
    p = "no test for counts" if cell["p_holm"] is None else f"p {cell['p_holm']:.2g} over all cells"
    return f"{cell['headline']} {metric['first']:.3f} → {metric['second']:.3f} ({metric['delta']:+.3f}, {p}), {words}"


def _judge(cells: Sequence[Compared], alpha: float, max_flips: float | None) -> None:
    """Add p_holm, verdict and the problem of too many flips to each cell."""
    tested = [cell for cell in cells if cell["p"] is not None]
    for cell in cells:
        cell["p_holm"] = None
    for cell, adjusted in zip(tested, holm([cell["p"] for cell in tested]), strict=True):
        cell["p_holm"] = adjusted
    for cell in cells:
        cell["verdict"] = _verdict(cell, alpha)
        flipped = cell["n_better"] + cell["n_worse"] + cell["n_other"]
        if max_flips is not None and cell["n_pairs"] and flipped / cell["n_pairs"] > max_flips:
            share = f"{flipped} of {cell['n_pairs']} samples flipped ({flipped / cell['n_pairs']:.1%})"
            cell["problems"].append(f"{share}, more than {max_flips:.1%}")


def _verdict(cell: Compared, alpha: float) -> str:
    metric = cell["metrics"].get(cell["headline"])
    if metric is None or metric["delta"] is None:
        return "incomparable"
    flipped = cell["n_better"] + cell["n_worse"] + cell["n_other"]
    if not flipped:
        unpaired = any(cell[key] for key in ("n_changed", "n_only_first", "n_only_second", "n_failed_second"))
        return "equal" if cell["n_reworded"] or unpaired else "identical"
    # A metric without a test is a count, which nothing but a changed answer moves.
    significant = metric["delta"] != 0 if cell["p_holm"] is None else cell["p_holm"] < alpha
    if not significant:
        return "within"
    rise = metric["delta"] if metric["direction"] != "lower" else -metric["delta"]
    if metric["direction"] == "neutral":
        return "changed"
    return "better" if rise > 0 else "worse"


def _missing(cell: Cell, reasons: Mapping[str, str]) -> dict[str, str]:
    return {"title": cell.title, "reason": reasons.get(cell.record["run_id"], "no such run")}
