"""A paired permutation test: would the difference be as large if each pair of answers were swapped at random?"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sinkbench.leaderboard.stats import Array, Statistic

_EXACT = 12
"""Up to so many changed samples every way of swapping them is tried."""

_CHUNK = 2_000_000
"""Swaps held in memory at once."""

_ROUNDING = 1e-12


def swap_test(first: Array, second: Array, statistic: Statistic, *, n_draws: int, seed: int = 0) -> float:
    """Two-sided p of a difference between paired samples (Fisher's paired randomisation test).

    If nothing but chance told two runs apart, either could have given either answer. So each sample that changed keeps
    or swaps its two results with equal chance, and p is the share of differences at least as large as the one found.
    m changes of one kind have p = 2 / 2^m, and one or two flips are never significant, however few images there are.

    Args:
        first: (N, S), one row a sample and one column a count.
        second: (N, S), the same samples.
        statistic: From totals (..., S) to values (...).
        n_draws: Random swaps where there are too many changed samples to try all.
        seed: Seeds them.
    """
    changes = (second - first)[np.any(first != second, axis=1)]
    if not len(changes):
        return 1.0
    totals = first.sum(axis=0), second.sum(axis=0)
    observed = abs(float(statistic(totals[1]) - statistic(totals[0]))) - _ROUNDING
    hits = tried = 0
    for swaps in _swaps(len(changes), n_draws, seed):
        swapped = swaps @ changes
        deltas = statistic(totals[1] - swapped) - statistic(totals[0] + swapped)
        hits += int(np.count_nonzero(np.abs(deltas) >= observed))
        tried += len(swaps)
    return hits / tried if len(changes) <= _EXACT else (1 + hits) / (1 + tried)


def _swaps(n: int, n_draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Which of `n` samples are swapped, (draws, n) of zeros and ones, in parts."""
    if n <= _EXACT:
        yield (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // n)
    for start in range(0, n_draws, chunk):
        yield generator.integers(0, 2, size=(min(chunk, n_draws - start), n))
