"""Choosing heads by how much attention they spend on something."""

import torch
from torch import Tensor


def top_heads(mass: Tensor, count: int) -> Tensor:
    """The `count` heads with the largest mass: from (B, H, …) to a mask (B, H, …) bool, chosen apart for every …."""
    top = mass.topk(count, dim=1).indices
    return torch.zeros_like(mass, dtype=torch.bool).scatter(1, top, True)
