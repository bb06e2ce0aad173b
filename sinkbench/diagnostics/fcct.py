"""FCCT, causal tracing of a model's components (Li et al., AAAI 2026, arXiv 2511.05923): what a patch brings back.

A model answers about an image, about the image under noise, and about the noisy image with one component's clean value
put back ("patched"). P is each time the probability of the right answer. Pure functions; nothing here runs a model.
"""

from typing import Literal

import torch
from torch import Tensor

EPSILON = 0.1
"""A sample counts where the noise costs more than this probability [ours: the paper names no bound]."""

Aggregation = Literal["mean_of_ratios", "ratio_of_means"]


def lost_enough(clean: Tensor, corrupted: Tensor, epsilon: float = EPSILON) -> Tensor:
    """(N,) bool: samples with P_clean − P_corrupted > ε, from (N,) each; of the others a rate says nothing."""
    return clean - corrupted > epsilon


def recovery_rate(clean: Tensor, corrupted: Tensor, patched: Tensor) -> Tensor:
    """RR = (P_patched − P_corrupted) / (P_clean − P_corrupted): 1 where a patch repairs all, 0 where nothing.

    Args:
        clean: (…, N) probabilities.
        corrupted: (…, N).
        patched: (…, N).
    """
    return (patched - corrupted) / (clean - corrupted)


def mean_recovery(
    clean: Tensor, corrupted: Tensor, patched: Tensor, counts: Tensor, aggregation: Aggregation = "mean_of_ratios"
) -> Tensor:
    """The recovery rate of several samples as one number.

    The paper averages over samples and does not say how: "mean_of_ratios" is the mean of the samples' rates,
    "ratio_of_means" the rate of the mean probabilities, in which samples weigh as much as the noise costs them.

    Args:
        clean: (…, N) probabilities.
        corrupted: (…, N).
        patched: (…, N).
        counts: (…, N) bool, the samples that count.
        aggregation: Which of the two.

    Returns:
        (…), NaN where no sample counts.
    """
    gained, lost = (torch.where(counts, patched - corrupted, 0.0), torch.where(counts, clean - corrupted, 0.0))
    if aggregation == "ratio_of_means":
        return gained.sum(-1) / lost.sum(-1)
    rates = torch.where(counts, recovery_rate(clean, corrupted, patched), 0.0)
    return rates.sum(-1) / counts.sum(-1)
