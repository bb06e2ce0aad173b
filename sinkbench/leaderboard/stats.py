"""Error bars and paired comparisons of methods that answered the same samples.

Samples that share an image are not independent, so the bootstrap draws whole clusters, and it works on their sums:
`sums` holds one row a cluster and one column a count, and a statistic is a function of the columns' totals.

docs/statistics.md says which of these is used when; tools/check_coverage.py measures how often they are right.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Times = NDArray[np.unsignedinteger[Any]]
Statistic = Callable[[Array], Array]
"""From totals (..., S) to values (...)."""

N_RESAMPLES = 2000

_FINENESS = 20
"""How many times finer than the smallest threshold of Holm's method the bootstrap's p-values are."""

_CHUNK = 2_000_000
"""Draws made at once."""

_KEPT = 20_000_000
"""Most draws that are kept for the next metric or method with as many clusters, a byte or two each."""


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
        stderr: Standard deviation of the bootstrap's deltas.
    """

    delta: float
    low: float
    high: float
    p: float
    n: int
    stderr: float


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


def resamples_for(n_tests: int, alpha: float = 0.05) -> int:
    """Bootstrap samples with which Holm's method over so many tests can find something.

    The smallest p that B of them can give is about 2 / (1 + B), and Holm's smallest threshold is alpha / n_tests.
    """
    return max(N_RESAMPLES, math.ceil(2 * _FINENESS * n_tests / alpha))


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
    draws = _kept_draws if n_resamples * n_clusters <= _KEPT else _draws
    return np.concatenate([times.astype(np.float64) @ table for times in draws(n_clusters, n_resamples, seed)])


def _draws(n_clusters: int, n_resamples: int, seed: int) -> Iterator[Times]:
    """How often each cluster is in each bootstrap sample, some samples (R, C) at a time."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n_clusters)
    for start in range(0, n_resamples, chunk):
        rows = min(chunk, n_resamples - start)
        drawn = generator.integers(0, n_clusters, size=(rows, n_clusters))
        drawn += n_clusters * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n_clusters).reshape(rows, n_clusters)
        yield times.astype(np.min_scalar_type(times.max()))


@lru_cache(maxsize=4)
def _kept_draws(n_clusters: int, n_resamples: int, seed: int) -> tuple[Times, ...]:
    return tuple(_draws(n_clusters, n_resamples, seed))


def percentile_interval(values: ArrayLike, n_clusters: int, level: float = 0.95) -> Interval:
    """The expanded percentile interval and the standard deviation of bootstrap values.

    The plain percentile interval of a mean is too narrow by sqrt((n - 1) / n) and by normal in place of t quantiles.
    Tails of Phi(-t * sqrt(n / (n - 1))), t being Student's quantile with n - 1 degrees of freedom, make good for both
    (Hesterberg, The American Statistician 69, 2015, "expanded percentile interval"): with 50 clusters 2.1 % on each
    side instead of 2.5 %.

    Args:
        values: (B,), a statistic of bootstrap samples.
        n_clusters: Clusters that were drawn from; at least two.
        level: Coverage.
    """
    from scipy.special import ndtr

    draws = np.asarray(values, dtype=np.float64)
    tail = float(ndtr(-_t_quantile(level, n_clusters) * math.sqrt(n_clusters / (n_clusters - 1))))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high), float(draws.std(ddof=1)))


def bootstrap_ci(
    sums: ArrayLike, statistic: Statistic, *, level: float = 0.95, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Interval:
    """Bootstrap over clusters with the expanded percentile interval.

    tools/check_coverage.py measures its coverage for F1 from 50 clusters on. Of rare events it holds the truth too
    rarely: for a share use `clustered_mean_ci`. Where the statistic is at its bound in every cluster, it has no width.

    Args:
        sums: (C, S), one row a cluster, in a fixed order.
        statistic: From totals (B, S) to values (B,).
        level: Coverage.
        n_resamples: Number of bootstrap samples B.
        seed: Seeds the draws.

    Raises:
        ValueError: There are fewer than two clusters.
    """
    table = np.asarray(sums, dtype=np.float64)
    if len(table) < 2:
        raise ValueError("a bootstrap interval needs at least two clusters")
    return percentile_interval(statistic(resample_totals(table, n_resamples, seed)), len(table), level)


def clustered_mean_ci(sums: ArrayLike, *, proportion: bool = False) -> Interval:
    """95 % interval of a mean with a cluster-robust standard error and Student's t quantile for G - 1 degrees.

    stderr = sqrt(G/(G-1) * sum_g (sum_{i in g} (x_i - mean))^2) / n; with one sample a cluster this is s / sqrt(n).
    Clusters without samples are left out. The interval is mean +- t * stderr, or, for values that all lie in 0..1,
    Wilson's for mean * (1 - mean) / stderr^2 effective samples (Wilson, JASA 22, 1927; Korn and Graubard, Survey
    Methodology 24, 1998, on effective samples), because the plain one misses high rates too often (`covered_plain` of
    tools/check_coverage.py). Where nothing varies, each cluster counts as one sample.

    Args:
        sums: (C, 2), the sum of the values and their number in each cluster.
        proportion: All values lie in 0..1.

    Raises:
        ValueError: There are fewer than two clusters with samples.
    """
    table = np.asarray(sums, dtype=np.float64)
    table = table[table[:, 1] > 0]
    n_clusters = len(table)
    if n_clusters < 2:
        raise ValueError("a clustered standard error needs at least two clusters")
    value, n = table.sum(axis=0).tolist()
    mean = value / n
    residuals = table[:, 0] - mean * table[:, 1]
    stderr = math.sqrt(n_clusters / (n_clusters - 1) * float(residuals @ residuals)) / n
    t = _t_quantile(0.95, n_clusters)
    if not proportion:
        return Interval(mean - t * stderr, mean + t * stderr, stderr)
    effective = mean * (1 - mean) / stderr**2 if stderr > 0 else n_clusters
    centre = (mean + t**2 / (2 * effective)) / (1 + t**2 / effective)
    half = t / (1 + t**2 / effective) * math.sqrt(mean * (1 - mean) / effective + (t / (2 * effective)) ** 2)
    # Rounding must not leave the mean outside where it is 0 or 1.
    return Interval(min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)), stderr)


def _t_quantile(level: float, n_clusters: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n_clusters - 1, (1 + level) / 2))


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
    return paired_summary(delta, statistic(both[:, columns:]) - statistic(both[:, :columns]), len(first), level)


def paired_summary(delta: float, deltas: Array, n_clusters: int, level: float = 0.95) -> Paired:
    """The interval and p-value that bootstrap deltas (B,) give, those that are NaN left out; see `percentile_interval`.

    The share of deltas on the other side of zero, as a normal quantile, is z = -t * sqrt(n / (n - 1)) of the interval
    that ends at zero; p is the two-sided probability of that t. A single cluster says nothing: its p is 1.
    """
    from scipy.special import ndtri, stdtr

    deltas = deltas[~np.isnan(deltas)]
    if n_clusters < 2 or len(deltas) < 2:
        return Paired(delta, delta, delta, 1.0, n_clusters, 0.0)
    low, high, stderr = percentile_interval(deltas, n_clusters, level)
    tail = (1 + min(np.count_nonzero(deltas <= 0), np.count_nonzero(deltas >= 0))) / (1 + len(deltas))
    t = ndtri(min(tail, 0.5)) * math.sqrt((n_clusters - 1) / n_clusters)
    return Paired(delta, low, high, min(1.0, 2 * float(stdtr(n_clusters - 1, t))), n_clusters, stderr)


def mcnemar_exact(baseline: ArrayLike, method: ArrayLike) -> McNemar:
    """McNemar's test for paired 0/1 scores of independent samples: are the discordant pairs split evenly?

    p = min(1, 2 * P(X <= min(b, c))) with X ~ Binomial(b + c, 1/2). Of samples that share an image see `sign_flip_p`.

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


def sign_flip_p(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip test of cluster differences: McNemar's test for samples that share images.

    If it makes no difference which method gave which answers, each cluster's difference is as likely to have the other
    sign. p is the probability, over all 2^C sign patterns, of a total at least as far from zero (Fisher's randomisation
    test; Winkler et al., NeuroImage 92, 2014, §2 on flipping whole blocks). With one sample a cluster it is McNemar's
    exact p. For many clusters it goes over into Obuchowski's (Statistics in Medicine 17, 1998), a normal test of
    sum(d) / sqrt(sum(d^2)), which asks for no more than a mean difference of zero.

    Args:
        differences: (C,), the method's right answers minus the baseline's in each cluster; whole numbers.

    Raises:
        ValueError: A difference is no whole number.
    """
    given = np.asarray(differences, dtype=np.float64)
    whole = np.rint(given).astype(np.int64)
    if not np.array_equal(whole, given):
        raise ValueError("the sign-flip test takes differences of numbers of right answers")
    sizes, times = np.unique(np.abs(whole[whole != 0]), return_counts=True)
    # Twice the sum over clusters that keep their sign, minus the total, is the flipped total.
    kept = np.ones(1)
    for size, count in zip(sizes.tolist(), times.tolist(), strict=True):
        wider = np.zeros(len(kept) + size * count)
        for positive, probability in enumerate(_half_binomial(count)):
            wider[size * positive : size * positive + len(kept)] += probability * kept
        kept = wider
    extreme = (int(sizes @ times) - abs(int(whole.sum()))) // 2
    return min(1.0, 2 * float(kept[: extreme + 1].sum()))


def _half_binomial(trials: int) -> Array:
    """Probabilities (trials + 1,) of Binomial(trials, 1/2)."""
    from scipy.special import gammaln

    successes = np.arange(trials + 1)
    logs = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1) - trials * math.log(2)
    probabilities: Array = np.exp(logs)
    return probabilities


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
