"""A method against the baseline on one metric, from the scored samples that both have."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sinkbench.leaderboard.stats import N_RESAMPLES, Array, mcnemar_exact, paired_bootstrap
from sinkbench.scoring.metric import Metric, Record, Unit, cluster_sums, sorted_units
from sinkbench.scoring.schemes import SCHEMES

Samples = Mapping[str, Record]
"""Scored samples by id."""


def compare(
    scheme: str, name: str, baseline: Samples, method: Samples, *, n_resamples: int = N_RESAMPLES
) -> dict[str, Any] | None:
    """The difference in one metric over the samples that both answered.

    The interval comes from a paired bootstrap over images. The p-value comes from McNemar's exact test where the metric
    is a mean of 0/1 scores, else from the same bootstrap; "count" metrics have neither.

    Args:
        scheme: A key of `SCHEMES`.
        name: The metric.
        baseline: The baseline's samples.
        method: The method's samples.
        n_resamples: Bootstrap samples.

    Returns:
        value, ci95, p, test and n_pairs; None where no pair has a share in the metric.
    """
    family = SCHEMES[scheme]
    metric = family.metric(name)
    common = baseline.keys() & method.keys()
    first = sorted_units(family, [baseline[key] for key in common])
    second = sorted_units(family, [method[key] for key in common])
    supported = [any(unit.counts.get(part.support) for part in metric.parts) for unit in first]
    n_pairs = sum(supported)
    if not n_pairs:
        return None
    tables = [cluster_sums(units, metric.columns) for units in (first, second)]
    paired = paired_bootstrap(tables[0], tables[1], lambda totals: metric.value(totals)[0], n_resamples=n_resamples)
    if metric.kind == "count":
        return {"value": paired.delta, "ci95": None, "p": None, "test": None, "n_pairs": n_pairs}
    scores = [_zero_one(units, metric) for units in (first, second)]
    if scores[0] is not None and scores[1] is not None:
        p, test = mcnemar_exact(scores[0], scores[1]).p, "mcnemar"
    else:
        p, test = paired.p, "paired_bootstrap"
    return {"value": paired.delta, "ci95": [paired.low, paired.high], "p": p, "test": test, "n_pairs": n_pairs}


def _zero_one(units: list[Unit], metric: Metric) -> Array | None:
    """Values (N,) of the units when the metric is a plain mean of zeros and ones, else None."""
    if metric.kind != "mean" or len(metric.parts) != 1:
        return None
    part = metric.parts[0]
    sums = np.array(
        [[unit.counts.get(column, 0.0) for column in part.columns] for unit in units if unit.counts.get(part.support)]
    )
    values: Array = part.statistic(sums)
    return values if np.isin(values, (0.0, 1.0)).all() else None
