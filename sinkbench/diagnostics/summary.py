"""Means over samples and their bootstrap intervals, for all reports of diagnostics."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sinkbench.leaderboard.stats import N_RESAMPLES, resample_totals

Array = NDArray[np.float64]


class Summary(NamedTuple):
    """Means over samples; arrays of the values' trailing shape.

    Attributes:
        mean: NaN where no sample has a value.
        low: Lower end of the interval.
        high: Upper end.
        n: int64, samples with a value.
    """

    mean: Array
    low: Array
    high: Array
    n: NDArray[np.int64]


def summarise(values: ArrayLike, level: float = 0.95, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Summary:
    """Mean and percentile bootstrap interval over samples (Efron and Tibshirani, An Introduction to the Bootstrap).

    Args:
        values: (N, …), one row a sample; NaN where a sample has no value.
        level: Coverage.
        n_resamples: Number of bootstrap samples.
        seed: Seeds the draws.

    Raises:
        ValueError: There is no sample.
    """
    table = np.asarray(values, dtype=np.float64)
    shape = table.shape[1:]
    flat = table.reshape(len(table), math.prod(shape))
    known = ~np.isnan(flat)
    sums = np.concatenate([np.where(known, flat, 0.0), known], axis=1)
    totals, counts = np.split(resample_totals(sums, n_resamples, seed), 2, axis=1)
    n = known.sum(0)
    with np.errstate(invalid="ignore"):
        draws = totals / counts
        mean = sums[:, : flat.shape[1]].sum(0) / n
    low, high = _quantiles(draws, [(1 - level) / 2, (1 + level) / 2])
    return Summary(mean.reshape(shape), low.reshape(shape), high.reshape(shape), n.reshape(shape))


def _quantiles(draws: Array, q: list[float]) -> Array:
    """(len(q), S) of draws (B, S); a draw without a value counts for nothing."""
    out = np.full((len(q), draws.shape[1]), np.nan)
    missing = np.isnan(draws)
    whole, some = ~missing.any(0), ~missing.all(0)
    out[:, whole] = np.quantile(draws[:, whole], q, axis=0)
    for column in np.flatnonzero(some & ~whole):
        out[:, column] = np.nanquantile(draws[:, column], q)
    return out
