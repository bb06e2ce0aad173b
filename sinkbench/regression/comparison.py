"""Two runs sample by sample: metrics over the pairs, samples that flipped, and what could not be paired."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sinkbench.leaderboard.compare import compare
from sinkbench.leaderboard.stats import N_RESAMPLES
from sinkbench.regression.cell import Cell, Sample
from sinkbench.regression.pairing import differences
from sinkbench.regression.swaps import swap_test
from sinkbench.scoring.metric import Record, evaluate, sorted_units
from sinkbench.scoring.schemes import SCHEMES

Compared = dict[str, Any]
"""A cell of schemas/comparison.schema.json."""

_SAME = 1e-9
"""Relative difference of a metric that is rounding."""


class Pairs(NamedTuple):
    """Samples that both runs answered to the same question, and why the others are not among them.

    Attributes:
        first: Scored samples of the first run by id.
        second: Of the second run, the same ids in the same order, with the first's clusters and groups.
        texts: Both answers by id.
        counts: What was not paired, by kind.
        failure: Id and reason of a sample that failed in the second run only; empty if there is none.
    """

    first: dict[str, Record]
    second: dict[str, Record]
    texts: dict[str, tuple[str, str]]
    counts: dict[str, int]
    failure: str


def compare_cells(
    first: Cell, second: Cell, *, names: tuple[str, str] = ("A", "B"), n_resamples: int = N_RESAMPLES
) -> Compared:
    """Compare the second run with the first.

    Args:
        first: A run.
        second: Another one of the same task.
        names: What messages call the two.
        n_resamples: Bootstrap samples behind the headline metric, whose p is at least 2 / (1 + n_resamples).
    """
    pairs = _pair_samples(first.samples, second.samples)
    task = first.record["task"]
    problems = [*_unpaired_problems(pairs, names), *_scoring_problems(first, second, names)]
    flips = list(_flips(pairs))
    questions = second.questions({flip["id"] for flip in flips}) or first.questions({flip["id"] for flip in flips})
    for flip in flips:
        flip["question"] = questions.get(flip["id"])
        flip["targets"] = list(second.samples[flip["id"]].targets or first.samples[flip["id"]].targets)
    rescored = sum(flip["first"] == flip["second"] for flip in flips)
    if rescored:
        problems.append(f"{_n(rescored, 'answer')} did not change but their scores did: references or scoring changed")
    flipped = {flip["id"] for flip in flips}
    reworded = sum(a != b for id, (a, b) in pairs.texts.items() if id not in flipped)
    metrics = _metrics(first, second, pairs, n_resamples)
    headline = task["headline"]
    return {
        "title": first.title if first.title == second.title else f"{first.title} → {second.title}",
        **{"model": first.record["model"]["name"], "method": first.method, "task": task["name"]},
        "first": _about(first),
        "second": _about(second),
        "headline": headline,
        "metrics": metrics,
        "p": _headline_p(metrics.get(headline), pairs, task["scheme"], headline, n_resamples),
        "n_pairs": len(pairs.first),
        **pairs.counts,
        "n_better": sum(flip["way"] == "better" for flip in flips),
        "n_worse": sum(flip["way"] == "worse" for flip in flips),
        "n_other": sum(flip["way"] == "other" for flip in flips),
        "n_reworded": reworded,
        "flips": flips,
        "differences": differences(first, second),
        "problems": problems,
    }


def _pair_samples(first: Mapping[str, Sample], second: Mapping[str, Sample]) -> Pairs:
    ours: dict[str, Record] = {}
    theirs: dict[str, Record] = {}
    texts: dict[str, tuple[str, str]] = {}
    failure = ""
    names = ("n_changed", "n_only_first", "n_only_second", "n_failed_first", "n_failed_second", "n_unscored")
    counts = dict.fromkeys(names, 0)
    counts["n_only_second"] = len(second.keys() - first.keys())
    for id, one in first.items():
        other = second.get(id)
        if other is None:
            counts["n_only_first"] += 1
        elif _differ(one.prompt, other.prompt) or _differ(one.image, other.image):
            counts["n_changed"] += 1
        elif one.error or other.error:
            counts["n_failed_first"] += bool(one.error)
            counts["n_failed_second"] += bool(other.error)
            failure = failure or (f"{id}: {other.error}" if other.error and not one.error else "")
        elif one.scored is None or other.scored is None:
            counts["n_unscored"] += 1
        else:
            ours[id] = one.scored
            theirs[id] = {**other.scored, "cluster": one.scored["cluster"], "group": one.scored["group"]}
            texts[id] = (one.text or "", other.text or "")
    return Pairs(ours, theirs, texts, counts, failure)


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two hashes are known and unequal."""
    return one is not None and other is not None and one != other


def _flips(pairs: Pairs) -> Iterable[dict[str, Any]]:
    for id, one in pairs.first.items():
        other = pairs.second[id]
        if one["score"] == other["score"] and one["counts"] == other["counts"]:
            continue
        rise = other["score"] - one["score"]
        texts = pairs.texts[id]
        yield {
            "id": id,
            "way": "better" if rise > 0 else "worse" if rise < 0 else "other",
            **{"first": texts[0], "second": texts[1]},
            **{"first_score": one["score"], "second_score": other["score"]},
        }


def _metrics(first: Cell, second: Cell, pairs: Pairs, n_resamples: int) -> dict[str, Any]:
    """Values, difference, interval and p of every metric that both runs have, over the pairs."""
    task = first.record["task"]
    scheme = SCHEMES.get(task["scheme"])
    if scheme is None or task["scheme"] != second.record["task"]["scheme"] or not pairs.first:
        return {}
    found = {}
    for name, metric in first.record["metrics"].items():
        if name not in second.record["metrics"]:
            continue
        resamples = n_resamples if name == task["headline"] else N_RESAMPLES
        delta = compare(task["scheme"], name, pairs.first, pairs.second, n_resamples=resamples)
        if delta is None:
            continue
        values = [evaluate(scheme, name, side.values()).value for side in (pairs.first, pairs.second)]
        found[name] = {
            **{"first": _number(values[0]), "second": _number(values[1]), "delta": _number(delta["value"])},
            **{key: delta[key] for key in ("ci95", "p", "test", "n_pairs")},
            "direction": metric["direction"],
        }
    return found


def _headline_p(metric: Mapping[str, Any] | None, pairs: Pairs, scheme: str, name: str, n_draws: int) -> float | None:
    """The headline's p; None for a count or where there are no pairs.

    A bootstrap of few images would call a handful of flips certain: all its draws hold them. So its p counts only where
    swapping answers at random gives one as small, which is all there is to go by with a single image.
    """
    if metric is None or metric["test"] not in (None, "paired_bootstrap"):
        return metric["p"] if metric else None
    headline = SCHEMES[scheme].metric(name)
    if headline.kind == "count":
        return None
    tables = [
        np.array([[unit.counts.get(column, 0.0) for column in headline.columns] for unit in units])
        for units in (sorted_units(SCHEMES[scheme], side.values()) for side in (pairs.first, pairs.second))
    ]
    swapped = swap_test(tables[0], tables[1], lambda totals: headline.value(totals)[0], n_draws=n_draws)
    return max(metric["p"] or 0.0, swapped)


def _unpaired_problems(pairs: Pairs, names: tuple[str, str]) -> list[str]:
    counts = pairs.counts
    problems = []
    if counts["n_changed"]:
        problems.append(f"{_n(counts['n_changed'], 'question')} changed (other words, generation settings or image)")
    if counts["n_only_first"]:
        problems.append(f"{_n(counts['n_only_first'], 'sample')} of {names[0]} missing in {names[1]}")
    if counts["n_only_second"]:
        problems.append(f"{_n(counts['n_only_second'], 'sample')} of {names[1]} not in {names[0]}")
    if pairs.failure:
        problems.append(f"{_n(counts['n_failed_second'], 'sample')} failed, for example {pairs.failure}")
    if counts["n_unscored"]:
        problems.append(f"{_n(counts['n_unscored'], 'answer')} without a score")
    return problems


def _scoring_problems(first: Cell, second: Cell, names: tuple[str, str]) -> list[str]:
    task, other = first.record["task"], second.record["task"]
    if task["scheme"] != other["scheme"]:
        return [f"{names[0]} is scored by {task['scheme']}, {names[1]} by {other['scheme']}"]
    headline = task["headline"]
    if headline not in second.record["metrics"]:
        return [f"{names[1]} has no {headline}"]
    return [problem for name, cell in zip(names, (first, second), strict=True) if (problem := _drift(cell, name))]


def _drift(cell: Cell, name: str) -> str:
    """How the headline that a run recorded differs from what its samples give with this code; empty if it does not."""
    task = cell.record["task"]
    headline = task["headline"]
    recorded = cell.record["metrics"].get(headline, {}).get("value")
    scored = [sample.scored for sample in cell.samples.values() if sample.scored is not None]
    try:
        now = evaluate(SCHEMES[task["scheme"]], headline, scored).value
    except (KeyError, ValueError):
        return f"this code has no {headline} of {task['scheme']}"
    if recorded is None or math.isclose(recorded, now, rel_tol=_SAME, abs_tol=_SAME):
        return ""
    return f"{name} recorded {headline} {recorded:.4f}, but its samples give {now:.4f} with this code"


def _about(cell: Cell) -> dict[str, Any]:
    git = cell.record["env"]["git"]
    return {"source": cell.source, "run_id": cell.record["run_id"], "commit": git["commit"], "dirty": git["dirty"]}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _n(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
