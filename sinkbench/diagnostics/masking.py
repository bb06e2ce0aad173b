"""What every diagnostic needs of masks: padding may lie anywhere, so tokens are counted, never sliced."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sinkbench.errors import UsageError


def along(mask: Tensor, values: Tensor) -> Tensor:
    """A mask (B, K) shaped to multiply values (B, …, K)."""
    return mask.view(len(mask), *(1,) * (values.dim() - 2), -1)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum (B, …) float32 of values (B, …, K) over a mask (B, K)."""
    return torch.where(along(mask, values), values.float(), 0.0).sum(-1)


def masked_max(values: Tensor, mask: Tensor) -> Tensor:
    """Largest (B, …) float32 of values (B, …, K) over a mask (B, K); −inf where the mask is empty."""
    return values.float().masked_fill(~along(mask, values), -torch.inf).amax(-1)


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Median (B, …) float32 of values (B, …, K) over a mask (B, K), the lower of two; NaN where the mask is empty."""
    return values.float().masked_fill(~along(mask, values), torch.nan).nanmedian(-1).values


def at(values: Tensor, slot: Tensor) -> Tensor:
    """The values (B, …) of values (B, …, K) at one slot a sample, slot (B,)."""
    return values.take_along_dim(along(slot[:, None], values), -1)[..., 0]


def without(mask: Tensor, slot: Tensor) -> Tensor:
    """A mask (B, K) bool less one slot a sample, slot (B,)."""
    return mask.scatter(1, slot[:, None], torch.zeros_like(mask[:, :1]))


def ranks(valid: Tensor) -> Tensor:
    """(B, K) int64: how many real tokens lie before each slot; for a real token, its place in the sample."""
    counts = valid.long()
    return counts.cumsum(1) - counts


def real_slots(valid: Tensor) -> Tensor:
    """(B, K) int64: the slots of a sample's real tokens, in order; behind them those of padding."""
    return (~valid).int().argsort(dim=1, stable=True)


def place(flags: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Flags per sample, in the order of the tokens of a mask, put where those tokens lie.

    Args:
        flags: B tensors (n_b,) bool.
        mask: (B, K) bool with n_b tokens in sample b, such as the image tokens.

    Returns:
        (B, K) bool.

    Raises:
        UsageError: A sample has another number of flags than of tokens.
    """
    expected, given = mask.sum(1).tolist(), [len(row) for row in flags]
    if given != expected:
        raise UsageError(f"{given} flags were given for {expected} tokens", "Give one flag for each token of the mask.")
    out = torch.zeros_like(mask)
    out[mask] = torch.cat(list(flags)).to(mask.device)
    return out
