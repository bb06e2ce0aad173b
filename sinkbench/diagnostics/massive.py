"""D2, massive activations (Sun et al., Massive Activations in Large Language Models, arXiv 2402.17762).

An entry of a hidden state is massive if |x| > 100 and |x| ≥ 1000 times the median |x| of that hidden state (their §2;
"loosely", they say). Hidden states are residual-stream values X[i], i = 0 … L, before any norm. To leave the first
token out, leave it out of `valid`.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import real_slots
from sinkbench.diagnostics.rows import Rows, column_extremes, measure_rows

FLOOR, FACTOR = 100.0, 1000.0

MEDIAN_ENTRIES = 16384
"""Entries that a sample's median is taken of: all if there are no more, else as many, spread evenly."""


class Magnitudes(NamedTuple):
    """How large the entries of one hidden state are, all in float32.

    Attributes:
        largest: (B, K) max |x| of each token, 0 for padding.
        dim: (B, K) int64, the dimension that holds it.
        values: (B, d) of each dimension the entry of largest magnitude over the sample's real tokens, with its sign.
        tokens: (B, d) int64, the slot of the token that holds it.
        norms: (B, K) ‖x‖₂, 0 for padding.
        median: (B,) median |x| over real tokens × dimensions.
    """

    largest: Tensor
    dim: Tensor
    values: Tensor
    tokens: Tensor
    norms: Tensor
    median: Tensor

    @property
    def rms(self) -> Tensor:
        """(B, K) root mean square of each token, 0 for padding."""
        return self.norms / sqrt(self.values.shape[1])


def magnitudes(
    hidden: Tensor,
    valid: Tensor,
    rows: Rows | None = None,
    columns: tuple[Tensor, Tensor] | None = None,
    median: Tensor | None = None,
) -> Magnitudes:
    """Measure one hidden state without a float32 or absolute copy of it.

    Args:
        hidden: (B, K, d), any floating type.
        valid: (B, K) bool, the tokens that count.
        rows: Its statistics by token, where they are known.
        columns: Its `column_extremes`, likewise.
        median: Its `median_magnitude`, likewise.
    """
    rows = measure_rows(hidden) if rows is None else rows
    values, tokens = column_extremes(hidden, valid) if columns is None else columns
    median = median_magnitude(hidden, valid) if median is None else median
    return Magnitudes(rows.largest * valid, rows.dims, values, tokens, rows.norms * valid, median)


def median_magnitude(hidden: Tensor, valid: Tensor) -> Tensor:
    """Median |x| (B,) float32 over a sample's real tokens × dimensions; the lower of two middle ones.

    Exact up to `MEDIAN_ENTRIES` = m entries. Of n tokens with more, the m entries are dimension i mod d of real token
    ⌊i n / m⌋, i < m: all different, every dimension and token equally often. NaN where a sample has no token.

    Args:
        hidden: (B, K, d).
        valid: (B, K) bool.
    """
    _, n_slots, width = hidden.shape
    real = valid.sum(1, keepdim=True)
    taken = (real * width).clamp_max(MEDIAN_ENTRIES)
    entry = torch.arange(min(MEDIAN_ENTRIES, n_slots * width), device=hidden.device)
    rank = (entry * real // taken.clamp_min(1)).clamp_max(n_slots - 1)
    place = real_slots(valid).gather(1, rank) * width + entry % width
    found = hidden.flatten(1).gather(1, place).float().abs()
    return found.masked_fill(entry >= taken, torch.nan).nanmedian(1).values


def is_massive(magnitude: Tensor, median: Tensor, floor: float = FLOOR, factor: float = FACTOR) -> Tensor:
    """Sun et al.'s criterion, elementwise.

    Args:
        magnitude: (…) |x|.
        median: Median |x| of the hidden state, in a shape that broadcasts.
        floor: |x| must exceed this,
        factor: ... and be at least this many medians.
    """
    return (magnitude > floor) & (magnitude >= factor * median)


class TopEntries(NamedTuple):
    """The entries of largest magnitude of one hidden state, largest first.

    Attributes:
        values: (B, n) float32, with sign; 0 where a sample has fewer entries.
        tokens: (B, n) int64 slots.
        dims: (B, n) int64.
    """

    values: Tensor
    tokens: Tensor
    dims: Tensor


def top_entries(hidden: Tensor, seen: Magnitudes, n: int = 3) -> TopEntries:
    """The n entries of largest magnitude: they lie in the n tokens of largest maximum, so only those are looked at.

    Args:
        hidden: (B, K, d).
        seen: Its magnitudes.
        n: How many; Sun et al. plot 3.
    """
    width = hidden.shape[-1]
    rows = seen.largest.topk(min(n, hidden.shape[1]), dim=1)
    states = hidden.take_along_dim(rows.indices[..., None], 1).float() * (rows.values > 0)[..., None]
    flat = states.flatten(1)
    place = flat.abs().topk(n, dim=1).indices
    tokens = rows.indices.gather(1, place // width)
    return TopEntries(flat.gather(1, place), tokens, place % width)
