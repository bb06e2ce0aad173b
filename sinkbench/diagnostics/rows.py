"""Lengths, dot products and largest entries of vectors, in plain torch: the reference of `engine.rows`."""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK_ENTRIES = 1 << 24
"""Entries that are copied at once, to hide padding."""


class Products(NamedTuple):
    """Lengths of vectors (…, Q, d) and their products with a reference, in float32.

    Attributes:
        norms: (…, Q) ‖x‖₂.
        dots: (…, Q) x · r; zeros where no reference r was given.
    """

    norms: Tensor
    dots: Tensor


class Rows(NamedTuple):
    """Statistics of vectors (…, Q, d), in float32.

    Attributes:
        norms: (…, Q) ‖x‖₂.
        dots: (…, Q) x · r; zeros where no reference r was given.
        largest: (…, Q) max |x_j|.
        dims: (…, Q) int64, the j that holds it.
    """

    norms: Tensor
    dots: Tensor
    largest: Tensor
    dims: Tensor


def measure_rows(values: Tensor, reference: Tensor | None = None) -> Rows:
    """Measure vectors without a float32 copy of them, unless they are compared with a reference.

    Args:
        values: (B, Q, d) or (B, H, Q, d), any floating type.
        reference: (B, d) or (B, H, d), of the same type.
    """
    high, low = values.max(-1), values.min(-1)
    largest, dims = _larger(high.values, high.indices, low.values, low.indices)
    return Rows(*measure_products(values, reference), largest.abs(), dims)


def measure_products(values: Tensor, reference: Tensor | None = None) -> Products:
    """The first half of `measure_rows`."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    dots = torch.zeros_like(norms) if reference is None else (values.float() @ reference.float()[..., None])[..., 0]
    return Products(norms, dots)


def column_extremes(hidden: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Of each dimension the entry of largest magnitude over a sample's tokens; some samples at a time.

    Args:
        hidden: (B, K, d).
        valid: (B, K) bool, the tokens that count.

    Returns:
        (B, d) float32 entries with their signs, 0 without a token; (B, d) int64, the slots that hold them.
    """
    samples = max(1, _CHUNK_ENTRIES // hidden[0].numel())
    parts = []
    for start in range(0, len(hidden), samples):
        chunk = slice(start, start + samples)
        shown = hidden[chunk].masked_fill(~valid[chunk, :, None], 0)
        high, low = shown.max(1), shown.min(1)
        parts.append(_larger(high.values, high.indices, low.values, low.indices))
    values, tokens = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(tokens)


def _larger(high: Tensor, high_at: Tensor, low: Tensor, low_at: Tensor) -> tuple[Tensor, Tensor]:
    """Of maxima and minima the ones of larger magnitude, float32 with their signs, and their places."""
    upper = high >= -low
    return torch.where(upper, high, low).float(), torch.where(upper, high_at, low_at)
