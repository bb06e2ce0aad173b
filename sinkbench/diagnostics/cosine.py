"""Cosines of hidden states to one reference state, in float32: sums in bfloat16 over d flip tests at 0.9."""

import torch
from torch import Tensor

from sinkbench.diagnostics.rows import Products, Rows, measure_products


def cosines(hidden: Tensor, reference: Tensor, rows: Products | Rows | None = None) -> Tensor:
    """Cosine of each token's state to the sample's reference.

    Args:
        hidden: (B, Q, d).
        reference: (B, d), of the same type.
        rows: Lengths and products with the reference, where they are known.

    Returns:
        (B, Q) float32 in [−1, 1]; 0 where either is zero.
    """
    rows = measure_products(hidden, reference) if rows is None else rows
    length: Tensor = torch.linalg.vector_norm(reference, dim=-1, keepdim=True, dtype=torch.float32)
    return (rows.dots / (rows.norms * length).clamp_min(torch.finfo(torch.float32).tiny)).clamp(-1, 1)
