"""D5, visual sink tokens (Kang et al., See What You Are Told, VAR, arXiv 2503.03321, §3).

A token is a sink at layer l if φ of the layer's input exceeds τ; a visual sink is one inside an image. The released
code skips layers 0 and 1, where massive activations have not arisen yet.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import along, masked_sum

SKIPPED = 2
"""Layers at the start without visual sinks."""

IMAGE_MASS, SINK_PORTION = 0.2, 0.5
"""A head is image-centric from this mass on the image on, if no more than this portion of it lies on visual sinks."""


def tau_for(width: int) -> float:
    """τ(d) = 20 √(d / 4096) [ours]: VAR's threshold at the same share of a token's energy in one dimension.

    It judges tokens by known sink dimensions; `sink_dims.default_tau`, by which those are looked for among all d, is
    stricter for small d.
    """
    return 20 * sqrt(width / 4096)


def phi(hidden: Tensor, dims: Sequence[int] | Tensor, norms: Tensor | None = None) -> Tensor:
    """φ(x) = max over sink dimensions of |x_j| / sqrt(mean x² + 1e-6), without the norm's learned gain.

    Args:
        hidden: (…, d), the input of a layer.
        dims: The model's sink dimensions; on a GPU a tensor there, (n,) int64, spares a wait for the device.
        norms: (…) float32 ‖x‖₂, where they are known.

    Returns:
        (…) float32, at most √d.
    """
    if norms is None:
        norms = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    rms = (norms.square() / hidden.shape[-1] + 1e-6).sqrt()
    chosen = hidden.index_select(-1, torch.as_tensor(dims, device=hidden.device))
    return chosen.float().abs().amax(-1) / rms


def sink_tokens(phis: Tensor, valid: Tensor, tau: float) -> Tensor:
    """Sinks (B, L, K) bool of φ (B, L, K) at the inputs of layers 0, 1, …; none in the skipped layers or in padding."""
    layers = torch.arange(phis.shape[1], device=phis.device)[:, None]
    return (phis > tau) & valid[:, None] & (layers >= SKIPPED)


def visual_count(sinks: Tensor, image: Tensor) -> Tensor:
    """Number (B, L) of visual sinks in each layer; sinks (B, L, K) bool, image (B, K) bool."""
    return (sinks & along(image, sinks)).sum(-1)


def persistence(sinks: Tensor) -> Tensor:
    """Jaccard index (B, L − 1) of successive layers' sinks (B, L, K) bool; NaN where both have none."""
    before, after = sinks[:, :-1], sinks[:, 1:]
    return (before & after).sum(-1) / (before | after).sum(-1)


def portion(weights: Tensor, sinks: Tensor, image: Tensor) -> Tensor:
    """Share (B, …) of the attention to the image that lies on visual sinks; 0 without attention to the image.

    Args:
        weights: (B, …, K) attention of a query row, or summed over rows.
        sinks: (B, K) bool, of this layer.
        image: (B, K) bool, over all of a sample's images.
    """
    on_image = masked_sum(weights, image)
    return masked_sum(weights, image & sinks) / on_image.clamp_min(torch.finfo(torch.float32).tiny)


def image_centric(weights: Tensor, sinks: Tensor, image: Tensor) -> Tensor:
    """VAR's image-centric heads (B, …) bool in its released code: mass ≥ 0.2 and portion ≤ 0.5.

    Args:
        weights: (B, …, K) attention of a query row, or its mean over rows.
        sinks: (B, K) bool, of this layer.
        image: (B, K) bool.
    """
    return (masked_sum(weights, image) >= IMAGE_MASS) & (portion(weights, sinks, image) <= SINK_PORTION)
