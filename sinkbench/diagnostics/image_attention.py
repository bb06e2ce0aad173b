"""D7.2, D7.3 and D7.9: how much, how evenly and when query rows look at the image."""

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import masked_sum


def image_ratio(weights: Tensor, image: Tensor) -> Tensor:
    """Attention (B, …) of a query row (B, …, K) to the image (B, K) bool (D7.2)."""
    return masked_sum(weights, image)


def image_density(weights: Tensor, image: Tensor, valid: Tensor) -> Tensor:
    """`image_ratio` over the image's share of the tokens: 1 if attention is even (D7.2) [ours].

    Without visual sinks: give `image & ~sinks`.

    Args:
        weights: (B, …, K) attention of a query row.
        image: (B, K) bool.
        valid: (B, K) bool, the tokens that the row sees.

    Returns:
        (B, …) float32; NaN without an image.
    """
    ratio = image_ratio(weights, image)
    share = image.sum(1) / valid.sum(1)
    return ratio / share.view(-1, *(1,) * (ratio.dim() - 1))


def image_entropy(weights: Tensor, image: Tensor) -> Tensor:
    """H = −Σ p ln p / ln|image| of a row's attention, averaged over heads and normalised over the image (D7.3).

    CARVE (Ge et al., arXiv 2509.06461) states that it rises with visual complexity; its code has no entropy, so the
    normalisation is ours.

    Args:
        weights: (B, H, K) attention of a query row.
        image: (B, K) bool.

    Returns:
        (B,) float32 in [0, 1]; NaN where the image has fewer than two tokens or no attention.
    """
    looked = weights.float().mean(1) * image
    p = looked / looked.sum(1, keepdim=True)
    size = image.sum(1).float()
    return -torch.xlogy(p, p).sum(1) / torch.where(size > 1, size, torch.nan).log()


def gaze_shift(
    rows: Tensor, image: Tensor, valid_rows: Tensor, counted: Tensor, before: Tensor | None = None
) -> Tensor:
    """Where the question moves attention to: positive changes between successive rows, summed (D7.9).

    GIFT (Qi et al., arXiv 2510.22067), stage A before its selection of heads: Σ_i max(A_i − A_{i−1}, 0) over the image.

    Args:
        rows: (B, H, R, K) attention of successive query rows of one layer.
        image: (B, K) bool.
        valid_rows: (B, R) bool, rows that are no padding; a row is compared with the last such one before it.
        counted: (B, R) bool, rows whose shift counts, such as content words.
        before: (B, H, K) the row before the first; without it the first real row has no shift.

    Returns:
        (B, H, K) float32.
    """
    looks = rows.float() * image[:, None, None]
    start = looks[:, :, :1] if before is None else (before.float() * image[:, None])[:, :, None]
    # Index r of `known` is the row before row r; index 0 is what comes before them all.
    known = torch.cat((start, looks), dim=2)
    places = torch.arange(1, rows.shape[2] + 1, device=rows.device)
    latest = torch.where(valid_rows, places, 0).cummax(1).values
    previous = torch.cat((torch.zeros_like(latest[:, :1]), latest[:, :-1]), dim=1)
    counted = counted & valid_rows
    if before is None:
        counted = counted & (previous > 0)
    shifts = (looks - known.take_along_dim(previous[:, None, :, None], 2)).clamp_min(0)
    return (shifts * counted[:, None, :, None]).sum(2)
