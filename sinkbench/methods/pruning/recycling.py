"""What pruned tokens leave behind: one merged token for each cell of a grid (VFlowOpt's recycling)."""

import torch
from torch import Tensor


def recycle(
    features: Tensor, importance: Tensor, places: Tensor, budget: int, cell: float, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Keep the most important tokens, and merge the others cell by cell (spec §2, stage 1).

    ⌊n / cell²⌋ of the budget are left to merged tokens. A merged token is the mean of what its cell lost, weighted by
    importance [negative ones, which only α < 0 can make, count as 0: ours], in the place of the most important of them.
    There are as many as cells that lost something: the result may be larger or smaller than the budget.

    Args:
        features: (n, d) tokens of an image.
        importance: (n,) float32.
        places: (n, 3) int64: grid, row and column. Cells do not reach from one grid into another.
        budget: How many tokens to keep, at least 1.
        cell: Side of a cell, in tokens.
        exact: Keep just the budget: the least important merged tokens go; or where there are too few, the most
            important of the pruned tokens stay as they are [the latter ours].

    Returns:
        (m,) int64 which tokens are left, ascending; and (m, d) what stands there.
    """
    n = len(importance)
    order = importance.argsort(descending=True, stable=True)
    kept = max(0, budget - int(n / cell**2))
    lost = order[kept:]
    rows, columns = (places[lost, 1:].double() / cell).floor().long().unbind(1)
    # One number for each cell, since rows of a table are slow to tell apart on a GPU.
    cells = (places[lost, 0] << 40) + (rows << 20) + columns
    in_cell = torch.unique(cells, return_inverse=True)[1]
    merged, first = _merge(features[lost], importance[lost].clamp_min(0), in_cell)
    again = torch.zeros_like(lost, dtype=torch.bool).index_fill_(0, first, True)
    if exact:
        room = budget - kept
        again &= again.cumsum(0) <= room
        spare = room - int(again.sum())
        again |= ~again & ((~again).cumsum(0) <= spare)
    tokens = features.float().index_copy(0, lost[first], merged)
    index = torch.cat((order[:kept], lost[again])).sort().values
    return index, tokens[index].to(features.dtype)


def _merge(features: Tensor, weights: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means (C, d) float32 of features (n, d) in C groups, and (C,) where each group comes first."""
    count = int(group.max()) + 1 if len(group) else 0
    totals = weights.new_zeros(count).index_add_(0, group, weights)
    # Where nothing in a group has any weight, all have the same.
    weights = torch.where(totals[group] > 0, weights, 1.0)
    totals = weights.new_zeros(count).index_add_(0, group, weights)
    sums = weights.new_zeros(count, features.shape[1]).index_add_(0, group, weights[:, None] * features.float())
    order = torch.arange(len(group), device=group.device)
    first = order.new_full((count,), len(group)).scatter_reduce_(0, group, order, "amin")
    return sums / totals[:, None], first
