"""D8, stop words as magnets and global sinks (Kukleva et al., RefAM, arXiv 2509.22650), read over to language models.

The paper is about diffusion transformers, and its code could not be read: the tests here are ours.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import along, masked_median, masked_sum

COLUMN_MEAN, TIMES_MEDIAN, VARIATION = 0.3, 10.0, 0.25


def word_shares(weights: Tensor, marks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How the attention to text divides into kinds of words.

    Args:
        weights: (B, …, K) attention of a query row, or summed over rows, such as those of the image or of the text.
        marks: Disjoint kinds, such as stop words, content words and punctuation; (B, K) bool each.

    Returns:
        For each kind (B, …) float32, adding up to 1; NaN without attention to any.
    """
    masses = {kind: masked_sum(weights, mark) for kind, mark in marks.items()}
    total = torch.stack(list(masses.values())).sum(0)
    return {kind: mass / total for kind, mass in masses.items()}


def column_variation(total: Tensor, squares: Tensor, rows: Tensor) -> Tensor:
    """Coefficient of variation (B, …, K) of each key's attention over image rows; NaN where it gets none.

    Args:
        total: (B, …, K), Σ_i p_ik over the image rows that see the key.
        squares: (B, …, K), Σ_i p_ik².
        rows: (B, K) number of those rows.
    """
    n = along(rows, total).clamp_min(1)
    mean = total.float() / n
    return (squares.float() / n - mean.square()).clamp_min(0).sqrt() / mean


def is_global_sink(alpha: Tensor, variation: Tensor, valid: Tensor) -> Tensor:
    """Keys that draw much attention from everywhere alike.

    Mean attention above 0.3 or above 10 times the median key's, and varying by less than 0.25 over image rows.

    Args:
        alpha: (B, …, K) mean attention to each key by the queries that see it.
        variation: (B, …, K), of `column_variation`.
        valid: (B, K) bool.

    Returns:
        (B, …, K) bool.
    """
    large = (alpha > COLUMN_MEAN) | (alpha > TIMES_MEDIAN * masked_median(alpha, valid)[..., None])
    return large & (variation < VARIATION) & along(valid, alpha)
