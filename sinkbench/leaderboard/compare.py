"""A method against the baseline on one metric, from the scored samples that both have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkbench.leaderboard.stats import N_RESAMPLES, Array, Statistic, mcnemar_exact, paired_bootstrap, sign_flip_p
from sinkbench.scoring.metric import Metric, Record, Unit, cluster_sums, sorted_units
from sinkbench.scoring.schemes import SCHEMES

Samples = Mapping[str, Record]
"""Scored samples by id."""


@dataclass(frozen=True)
class Pairs:
    """The samples that two methods answered, for one metric.

    Attributes:
        metric: The metric.
        units: What the metric sums, the baseline's and the method's in the same order.
    """

    metric: Metric
    units: tuple[list[Unit], list[Unit]]

    @property
    def clusters(self) -> list[str]:
        """Names of the clusters (images), in the order of the tables' rows."""
        return sorted({unit.cluster for unit in self.units[0]})

    @property
    def tables(self) -> tuple[Array, Array]:
        """Sums of the counts, the baseline's and the method's: (C, S) each."""
        first, second = (cluster_sums(units, self.metric.columns) for units in self.units)
        return first, second

    @property
    def statistic(self) -> Statistic:
        """The metric's value from such sums; NaN where no pair has a share in it."""
        return lambda totals: self.metric.value(totals)[0]


def pair(scheme: str, name: str, baseline: Samples, method: Samples) -> Pairs | None:
    """The pairs that have a share in a metric.

    Args:
        scheme: A key of `SCHEMES`.
        name: The metric.
        baseline: The baseline's samples.
        method: The method's samples.

    Returns:
        None where no pair has a share.
    """
    family = SCHEMES[scheme]
    metric = family.metric(name)
    common = baseline.keys() & method.keys()
    first = sorted_units(family, [baseline[key] for key in common])
    second = sorted_units(family, [method[key] for key in common])
    shares = [index for index, unit in enumerate(first) if any(unit.counts.get(part.support) for part in metric.parts)]
    return Pairs(metric, ([first[i] for i in shares], [second[i] for i in shares])) if shares else None


def compare(
    scheme: str, name: str, baseline: Samples, method: Samples, *, n_resamples: int = N_RESAMPLES
) -> dict[str, Any] | None:
    """The difference in one metric over the samples that both answered.

    The interval comes from a paired bootstrap over images. Where the metric is a mean of 0/1 scores, the p-value comes
    from McNemar's exact test, or, if several samples share an image, from its form for clusters (`sign_flip_p`); else
    from the same bootstrap. "count" metrics have neither, nor has a single image.

    Args:
        scheme: A key of `SCHEMES`.
        name: The metric.
        baseline: The baseline's samples.
        method: The method's samples.
        n_resamples: Bootstrap samples where the p-value comes from them; an interval alone takes the usual number.

    Returns:
        value, ci95, p, test and n_pairs; None where no pair has a share in the metric.
    """
    pairs = pair(scheme, name, baseline, method)
    if pairs is None:
        return None
    exact = _zero_one_test(pairs)
    paired = paired_bootstrap(*pairs.tables, pairs.statistic, n_resamples=N_RESAMPLES if exact else n_resamples)
    known = {"value": paired.delta, "n_pairs": len(pairs.units[0])}
    if pairs.metric.kind == "count" or paired.n < 2:
        return {**known, "ci95": None, "p": None, "test": None}
    p, test = exact or (paired.p, "paired_bootstrap")
    return {**known, "ci95": [paired.low, paired.high], "p": p, "test": test}


def _zero_one_test(pairs: Pairs) -> tuple[float, str] | None:
    """The p-value and the test's name where the metric is a plain mean of zeros and ones."""
    first, second = (_zero_one(units, pairs.metric) for units in pairs.units)
    if first is None or second is None:
        return None
    clusters = [unit.cluster for unit in pairs.units[0]]
    if len(set(clusters)) == len(clusters):
        return mcnemar_exact(first, second).p, "mcnemar"
    _, index = np.unique(np.array(clusters, dtype=str), return_inverse=True)
    return sign_flip_p(np.bincount(index, weights=second - first)), "clustered_mcnemar"


def _zero_one(units: list[Unit], metric: Metric) -> Array | None:
    """Values (N,) of the units when the metric is a plain mean of zeros and ones, else None."""
    if metric.kind != "mean" or len(metric.parts) != 1:
        return None
    part = metric.parts[0]
    sums = np.array([[unit.counts.get(column, 0.0) for column in part.columns] for unit in units])
    values: Array = part.statistic(sums)
    return values if np.isin(values, (0.0, 1.0)).all() else None
