"""D7.5, the recency curve (Zhao et al., Attention Debiasing for Token Pruning, arXiv 2508.17807).

The last row's attention to the i-th image token in raster order, averaged over a calibration set, and its trend
A exp(κ i), which the released weights of four pruning methods follow. Their fitting script is not released.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.errors import UsageError


class Curve(NamedTuple):
    """A recency curve.

    Attributes:
        position: (n,) float64 relative position in the image, from 0 to 1.
        density: (C, n) float64 mean attention to the tokens there times the number of the image's tokens; for each
            of C curves, such as layers. NaN where no token was counted. With images of one size n, the paper's curve
            is density / n.
        tokens: (n,) int64 number of tokens behind each mean.
    """

    position: Tensor
    density: Tensor
    tokens: Tensor


class Trend(NamedTuple):
    """A fit A exp(κ x); (C,) float64 each.

    Attributes:
        scale: A.
        kappa: κ per image: x runs from 0 to 1. With images of one size n, κ per token is this over n − 1.
        r2: Share of the (weighted) variance of ln(density) that the line explains.
    """

    scale: Tensor
    kappa: Tensor
    r2: Tensor


class RecencyCurve:
    """Accumulates image rows of a calibration set: exact where all images have one size, else in relative bins.

    Args:
        bins: Number of bins for images of several sizes.
    """

    def __init__(self, bins: int = 64) -> None:
        self.bins = bins
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, Tensor] = {}

    def update(
        self, weights: Tensor, image: Tensor, counted: Tensor, sizes: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Take in one batch.

        Args:
            weights: (B, C, K) last-row attention, mean over heads, for C curves such as layers.
            image: (B, K) bool.
            counted: (B, K) bool, without padding patches; they keep their place in the raster.
            sizes: For each sample the number of tokens of its images, each of which starts again at 0 [ours];
                without it a sample has one image.

        Raises:
            UsageError: The sizes of a sample do not add up to its image tokens.
        """
        totals = image.sum(1).tolist()
        split = [[total] for total in totals] if sizes is None else [list(sample) for sample in sizes]
        if [sum(sample) for sample in split] != totals:
            raise UsageError(f"images of {split} tokens were given for {totals} tokens", "Give each image's size.")
        for row, inside, real, sample in zip(weights, image, counted, split, strict=True):
            looked, known = row[:, inside].double().cpu(), real[inside].cpu()
            for values, kept in zip(looked.split(sample, dim=1), known.split(sample), strict=True):
                self._add(values * kept, kept)

    def _add(self, values: Tensor, kept: Tensor) -> None:
        size = len(kept)
        if size == 0:
            return
        self.sums[size] = self.sums.get(size, 0) + values * size
        self.counts[size] = self.counts.get(size, 0) + kept.long()

    def curve(self) -> Curve:
        """The curve of what was taken in.

        Raises:
            UsageError: No image was.
        """
        if not self.sums:
            raise UsageError("there is no recency curve without an image", "Give prompts with images.")
        sizes = list(self.sums)
        n = sizes[0] if len(sizes) == 1 else self.bins
        index = torch.cat([(_relative(size) * (n - 1)).round().long() for size in sizes])
        sums = torch.cat(list(self.sums.values()), dim=1)
        counts = torch.cat(list(self.counts.values()))
        total = torch.zeros(len(sums), n, dtype=torch.float64).index_add(1, index, sums)
        count = torch.zeros(n, dtype=torch.int64).index_add(0, index, counts)
        return Curve(_relative(n), total / count, count)


def _relative(size: int) -> Tensor:
    return torch.linspace(0, 1, size, dtype=torch.float64)


def fit_trend(curve: Curve) -> Trend:
    """Least squares of ln(density) on position, weighted by tokens; bins without attention are left out."""
    used = (curve.density > 0) & (curve.tokens > 0)
    weight = used * curve.tokens / (used * curve.tokens).sum(1, keepdim=True)
    log = torch.where(used, curve.density, 1.0).log()
    x = curve.position - (weight * curve.position).sum(1, keepdim=True)
    y = log - (weight * log).sum(1, keepdim=True)
    covariance, variance = (weight * x * y).sum(1), (weight * x.square()).sum(1)
    kappa = covariance / variance
    intercept = (weight * (log - kappa[:, None] * curve.position)).sum(1)
    return Trend(intercept.exp(), kappa, covariance.square() / (variance * (weight * y.square()).sum(1)))
