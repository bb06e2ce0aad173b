"""D1, the sink metric (Gu et al., When Attention Sink Emerges in Language Models, arXiv 2410.10781).

α_k is the mean attention that key k gets from itself and the queries behind it, and a head has a sink at k if α_k > ε.
The paper's figure is Sink_1^ε at T = 64 tokens; α falls slowly with T even for true sinks, so report T beside it.
"""

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import along, masked_max, masked_sum

EPSILONS = (0.2, 0.3, 0.4, 0.5)
"""Thresholds reported; the paper's is 0.3."""

MIN_ROWS = 8
"""Queries behind a key for it to be scanned [ours]: pure self-attention makes "sinks" of the last three keys."""


def counts(valid: Tensor) -> Tensor:
    """(B, K) int64: real queries at or behind each real key, 0 for padding; valid (B, K) bool."""
    real = valid.long()
    return (real.sum(1, keepdim=True) - real.cumsum(1) + real) * real


def received(mass: Tensor, valid: Tensor) -> Tensor:
    """α (§3 of the paper): mean attention to each key by the queries that see it.

    Args:
        mass: (B, …, K) attention to each key summed over the real queries of a whole prompt.
        valid: (B, K) bool, real tokens; the prompt's queries are the same tokens.

    Returns:
        (B, …, K) float32 in [0, 1], 0 for padding.
    """
    return mass.float() * along(valid, mass) / along(counts(valid).clamp_min(1), mass)


def is_sink(alpha: Tensor, eps: float) -> Tensor:
    """Where α (any shape) is strictly above ε."""
    return alpha > eps


def sink_rate(alpha: Tensor, eps: float) -> Tensor:
    """Sink_k^ε: percentage (B,) of heads with a sink at one key, its α given as (B, L, H).

    The threshold applies to each sequence, and means are taken of what it leaves.
    """
    return is_sink(alpha, eps).float().flatten(1).mean(1) * 100


def first_token(valid: Tensor) -> Tensor:
    """(B,) int64 slot of the first real token, wherever padding lies; valid (B, K) bool."""
    return valid.int().argmax(1)


def scannable(valid: Tensor) -> Tensor:
    """(B, K) bool: keys that at least `MIN_ROWS` queries see, the ones that a scan over tokens may call sinks."""
    return counts(valid) >= MIN_ROWS


def largest(alpha: Tensor, where: Tensor, valid: Tensor) -> Tensor:
    """Largest α (B, …) over the scannable keys of a mask: above ε iff any of them is a sink; 0 if there are none.

    Args:
        alpha: (B, …, K).
        where: (B, K) bool, such as the image tokens.
        valid: (B, K) bool, real tokens.
    """
    return masked_max(alpha, where & scannable(valid)).clamp_min(0)


def set_mass(mass: Tensor, members: Tensor, valid: Tensor) -> Tensor:
    """Mean attention to a set of keys by the queries at or behind its first member; for one key this is its α.

    Args:
        mass: (B, …, K) attention to each key summed over the real queries of a whole prompt.
        members: (B, K) bool, the set.
        valid: (B, K) bool, real tokens.

    Returns:
        (B, …) float32 in [0, 1], 0 for an empty set.
    """
    members = members & valid
    rows = (counts(valid) * members).amax(1)
    total = masked_sum(mass, members)
    return total / rows.clamp_min(1).view(-1, *(1,) * (total.dim() - 1))


def argmax_class(alpha: Tensor, classes: Tensor, valid: Tensor) -> Tensor:
    """Which class of token holds the scannable key that a head attends to most.

    Args:
        alpha: (B, …, K).
        classes: (C, B, K) bool, such as first token, image, text; a token counts for the first class that has it.
        valid: (B, K) bool, real tokens.

    Returns:
        (B, …) int64 index of the class; −1 if none has the key, or no key is scannable.
    """
    scanned = scannable(valid)
    top = alpha.masked_fill(~along(scanned, alpha), -1.0).argmax(-1, keepdim=True)
    known = classes.any(0) & scanned
    codes = torch.where(known, classes.int().argmax(0), -1)
    return along(codes, alpha).expand(*alpha.shape).take_along_dim(top, -1)[..., 0]
