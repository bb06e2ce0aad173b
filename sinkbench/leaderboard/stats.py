"""Error bars and paired comparisons of methods that answered the same samples.

Samples that share an image are not independent, so the bootstrap draws whole clusters, and it works on their sums:
`sums` holds one row a cluster and one column a count, and a statistic is a function of the columns' totals.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From totals (..., S) to values (...)."""

N_RESAMPLES = 2000
Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

_CHUNK = 2_000_000
"""Draws held in memory at once."""


class Interval(NamedTuple):
    """A confidence interval and the standard error."""

    low: float
    high: float
    stderr: float


class Paired(NamedTuple):
    """A paired bootstrap comparison.

    Attributes:
        delta: The method's value minus the baseline's.
        low: Lower end of the interval of `delta`.
        high: Upper end.
        p: Two-sided p-value, consistent with the interval: below 0.05 exactly when the 95 % interval leaves out zero.
        n: Clusters.
    """

    delta: float
    low: float
    high: float
    p: float
    n: int


class McNemar(NamedTuple):
    """McNemar's exact test.

    Attributes:
        n: Pairs.
        only_baseline: Pairs that only the baseline got right.
        only_method: Pairs that only the method got right.
        p: Two-sided exact binomial p-value.
    """

    n: int
    only_baseline: int
    only_method: int
    p: float


def resample_totals(sums: ArrayLike, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Array:
    """Totals of bootstrap samples of clusters.

    Args:
        sums: (C, S), one row a cluster. The same rows in another order give other draws: sort them.
        n_resamples: Number of bootstrap samples B.
        seed: Seeds the draws; equal seeds and C give the same clusters, which is what pairs two methods.

    Returns:
        (B, S).

    Raises:
        ValueError: There is no cluster.
    """
    table = np.asarray(sums, dtype=np.float64)
    n_clusters = len(table)
    if n_clusters == 0:
        raise ValueError("a bootstrap needs at least one cluster")
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n_clusters)
    totals = []
    for start in range(0, n_resamples, chunk):
        rows = min(chunk, n_resamples - start)
        drawn = generator.integers(0, n_clusters, size=(rows, n_clusters))
        drawn += n_clusters * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, n_clusters)
        totals.append(times @ table)
    return np.concatenate(totals)


def percentile_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """The percentile interval and standard deviation of bootstrap values (B,)."""
    draws = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), float(draws.std(ddof=1)))


def bootstrap_ci(
    sums: ArrayLike, statistic: Statistic, *, level: float = 0.95, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap over clusters (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13).

    Args:
        sums: (C, S), one row a cluster, in a fixed order.
        statistic: From totals (B, S) to values (B,).
        level: Coverage.
        n_resamples: Number of bootstrap samples B.
        seed: Seeds the draws.
    """
    return percentile_interval(statistic(resample_totals(sums, n_resamples, seed)), level)


def clustered_mean_ci(sums: ArrayLike) -> Interval:
    """Normal 95 % interval of a mean with a cluster-robust standard error.

    stderr = sqrt(G/(G-1) * sum_g (sum_{i in g} (x_i - mean))^2) / n; with one sample a cluster this is s / sqrt(n).
    Clusters without samples are left out.

    Args:
        sums: (C, 2), the sum of the values and their number in each cluster.

    Raises:
        ValueError: There are fewer than two clusters with samples.
    """
    table = np.asarray(sums, dtype=np.float64)
    table = table[table[:, 1] > 0]
    n_clusters = len(table)
    if n_clusters < 2:
        raise ValueError("a clustered standard error needs at least two clusters")
    value, n = table.sum(axis=0)
    mean = value / n
    residuals = table[:, 0] - mean * table[:, 1]
    stderr = math.sqrt(n_clusters / (n_clusters - 1) * float(residuals @ residuals)) / n
    return Interval(mean - Z95 * stderr, mean + Z95 * stderr, stderr)


def paired_bootstrap(
    baseline: ArrayLike,
    method: ArrayLike,
    statistic: Statistic,
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Compare two methods on the same clusters, each bootstrap sample drawing the same clusters for both.

    Args:
        baseline: (C, S), one row a cluster.
        method: (C, S), rows of the same clusters in the same order.
        statistic: From totals (..., S) to values (...).
        level: Coverage of the interval.
        n_resamples: Number of bootstrap samples.
        seed: Seeds the draws.

    Raises:
        ValueError: The two tables differ in shape.
    """
    first, second = np.asarray(baseline, dtype=np.float64), np.asarray(method, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired tables differ in shape: {first.shape} and {second.shape}")
    delta = float(statistic(second.sum(axis=0)) - statistic(first.sum(axis=0)))
    both = resample_totals(np.concatenate([first, second], axis=1), n_resamples, seed)
    columns = first.shape[1]
    deltas = statistic(both[:, columns:]) - statistic(both[:, :columns])
    low, high, _ = percentile_interval(deltas, level)
    tail = min(np.count_nonzero(deltas <= 0), np.count_nonzero(deltas >= 0))
    return Paired(delta, low, high, min(1.0, 2 * (1 + tail) / (1 + n_resamples)), len(first))


def mcnemar_exact(baseline: ArrayLike, method: ArrayLike) -> McNemar:
    """McNemar's test for paired 0/1 scores: are the discordant pairs split evenly?

    p = min(1, 2 * P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2).

    Args:
        baseline: (N,), scores of 0 or 1.
        method: (N,), scores of the same samples.

    Raises:
        ValueError: The lengths differ, or a score is neither 0 nor 1.
    """
    first, second = np.asarray(baseline, dtype=np.float64), np.asarray(method, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores differ in number: {first.shape} and {second.shape}")
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise ValueError("McNemar's test takes scores of 0 or 1")
    only_baseline = int(np.count_nonzero(first > second))
    only_method = int(np.count_nonzero(first < second))
    return McNemar(len(first), only_baseline, only_method, _two_sided_sign_p(only_baseline, only_method))


def _two_sided_sign_p(one: int, other: int) -> float:
    """Exact two-sided binomial p at 1/2, in integers, so that thousands of pairs neither overflow nor underflow."""
    trials = one + other
    term, tail = 1, 0
    for successes in range(min(one, other) + 1):
        tail += term
        term = term * (trials - successes) // (successes + 1)
    p: float = 2 * tail / 2**trials
    return min(1.0, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
