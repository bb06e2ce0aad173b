"""Tokens that are left over are merged into a few of their own number, as VisionZip and VisionDrop do."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Merged:
    """What tokens were merged into.

    Attributes:
        tokens: (B, C, d) float32.
        at: (B, C) int64, where the targets stood, ascending.
        present: (B, C) bool; the others do not exist.
    """

    tokens: Tensor
    at: Tensor
    present: Tensor


def merge_tokens(tokens: Tensor, metric: Tensor, among: Tensor, count: Tensor) -> Merged:
    """Merge some tokens of each sample into a few targets (VisionZip's spec, §2 steps 3 to 5).

    Every ⌊R / C⌋-th of a sample's R tokens is a target, C of them. Each other token goes to the target with the most
    similar metric by cosine. A merged token is the sum of its target and the mean of what went there, which is what the
    released code computes and about twice as long as either; a target to which nothing went stays as it is.

    What becomes of a sample depends on its own tokens alone.

    Args:
        tokens: (B, Q, d).
        metric: (B, Q, d_k) what is compared.
        among: (B, Q) bool, the tokens to merge.
        count: (B,) int64, C of each sample, at most as many as there are.
    """
    width = int(count.max())
    if not width:
        empty = among[:, :0]
        return Merged(tokens[:, :0].float(), empty.long(), empty)
    rank = among.cumsum(1) - 1
    step = (among.sum(1) // count.clamp_min(1)).clamp_min(1)[:, None]
    is_target = among & (rank % step == 0) & (rank // step < count[:, None])
    at = (~is_target).int().argsort(dim=1, stable=True)[:, :width]
    present = torch.arange(width, device=at.device) < count[:, None]

    unit = torch.nn.functional.normalize(metric.float(), dim=-1)
    similarity = unit @ _rows(unit, at).transpose(1, 2)
    nearest = similarity.masked_fill(~present[:, None], -torch.inf).argmax(-1)
    goes = (torch.nn.functional.one_hot(nearest, width) * (among & ~is_target)[..., None]).float()
    # As a product, since sums that add up in any order are not the same twice on a GPU.
    sums = goes.transpose(1, 2) @ tokens.float()
    means = sums / goes.sum(1).clamp_min(1)[..., None]
    return Merged(_rows(tokens, at).float() + means, at, present)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, C, d) of (B, Q, d)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
