"""D7.6, attention to letterbox padding (Attention Debiasing, arXiv 2508.17807; released code).

Only for processors that pad images to squares, such as LLaVA-1.5's; Qwen-VL and InternVL resize without padding.
"""

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import masked_sum

AREA = 0.5
"""A patch is padding if more than this share of it is; the code passes this for FastV (its default argument is 0.3)."""


def square_padding(width: int, height: int, grid: int, area: float = AREA) -> Tensor:
    """Which patches of an image padded to a square, centred, are padding.

    Args:
        width: Of the original image, in pixels.
        height: Of the original image, in pixels.
        grid: Patches along a side.
        area: A patch is padding if more than this share of its area is.

    Returns:
        (grid²,) bool in raster order.
    """
    side = max(width, height)
    shown = _shown(width, side, grid)[None, :] * _shown(height, side, grid)[:, None]
    return (1 - shown > area).flatten()


def _shown(length: int, side: int, grid: int) -> Tensor:
    """Share (grid,) float64 of each patch, along one side, that the image covers."""
    start = torch.arange(grid, dtype=torch.float64)
    pad = (side - length) / (2 * side) * grid
    return (start + 1).clamp_max(grid - pad).sub(start.clamp_min(pad)).clamp_min(0)


def padding_share(weights: Tensor, padding: Tensor, image: Tensor) -> Tensor:
    """Share (B, …) of a row's attention to the image that lies on padding patches; NaN without any.

    Args:
        weights: (B, …, K) attention of a query row.
        padding: (B, K) bool, from `square_padding` by `masking.place`.
        image: (B, K) bool.
    """
    return masked_sum(weights, padding & image) / masked_sum(weights, image)
