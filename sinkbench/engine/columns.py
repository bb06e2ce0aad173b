"""How much attention each key receives, and how spread each row is, without ever holding a map of Q × K on a GPU.

Two phases, as in the backward pass of FlashAttention (arXiv 2205.14135): the log-sum-exp of every row, then for every
block of keys a loop over the rows that see it; scores are computed in both. On other devices, and for a single row,
explicit weights of a few rows at a time: the reference.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.engine.context import Context
from sinkbench.engine.grouped import has_kernels
from sinkbench.engine.kernels import LOG2_E, Tile, ceil_div, check_layout, launch_options, padded_width
from sinkbench.engine.keys import LayerKeys, in_steps, masked_scores

COLUMN_TILES = {2: Tile(64, 64, 4, 2), 4: Tile(32, 32, 4, 2)}
"""By element size in bytes."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Sums over the valid query rows i of a pass, with p the attention weights.

    Attributes:
        mass: (B, H, K) float32, Σ_i p_ik.
        plogp: (B, H, K) float32, Σ_i p_ik · ln p_ik, in nats.
        row_entropy: (B, H) float32, Σ_i H_i / ln n_i: H_i the entropy of row i, n_i the keys that it sees. A row that
            sees one key counts 0.
        n_rows: (B,) int64, how many rows were summed.
    """

    mass: Tensor
    plogp: Tensor
    row_entropy: Tensor
    n_rows: Tensor

    @classmethod
    def of(cls, sums: "Sums", ctx: Context) -> "Columns":
        """The columns of a pass."""
        several = ctx.valid_rows & (ctx.keys_seen > 1)
        share = torch.where(several, 1 / ctx.keys_seen.clamp_min(2).log(), 0.0)
        row_entropy = (sums.entropy * share[:, None]).sum(-1)
        return cls(sums.mass, sums.plogp, row_entropy, ctx.valid_rows.sum(1))


class Sums(NamedTuple):
    """What one look at all scores z and weights p of a pass leaves; padding rows count nothing.

    Attributes:
        mass: (B, H, K) float32, Σ_i p_ik.
        plogp: (B, H, K) float32, Σ_i p_ik · ln p_ik.
        entropy: (B, H, Q) float32, −Σ_k p_ik · ln p_ik.
        scores: (B, H, Q) float32, Σ_k z_ik over the keys that row i sees.
    """

    mass: Tensor
    plogp: Tensor
    entropy: Tensor
    scores: Tensor


def attention_sums(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Sums:
    """The sums by the fastest way that the device allows.

    Args:
        query: (B, H, Q, d).
        keys: The layer's keys, this pass's included.
        ctx: Supplies the mask.
        scaling: Factor of the scores, positive.
    """
    if has_kernels(query) and ctx.n_queries > 1 and ctx.bias is None:
        return kernel_sums(query, keys, ctx.codes, keys.own_k.shape[2], scaling)
    return plain_sums(query, keys, ctx, scaling)


def plain_sums(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Sums:
    """The sums by explicit weights, a few rows at a time."""
    b, h, _q, _d = query.shape
    mass, plogp = query.new_zeros(2, b, h, ctx.n_keys, dtype=torch.float32)
    by_row = []
    for rows in in_steps(query, ctx.n_keys):
        scores = masked_scores(query[:, :, rows], keys, rows, ctx, scaling)
        counted = ctx.valid_rows[:, None, rows, None]
        logs = scores.log_softmax(-1)
        weights = logs.exp() * counted
        surprise = weights * logs
        mass += weights.sum(2)
        plogp += surprise.sum(2)
        seen = scores > torch.finfo(torch.float32).min
        by_row.append((-surprise.sum(-1), (scores * (seen & counted)).sum(-1)))
    entropy, score_sums = (torch.cat(parts, dim=2) for parts in zip(*by_row, strict=True))
    return Sums(mass, plogp, entropy, score_sums)


def kernel_sums(query: Tensor, keys: LayerKeys, codes: Tensor, own_length: int, scaling: float) -> Sums:
    """The sums by Triton kernels.

    Row i sits at own slot own_length − Q + i and sees the prefix slots and the own slots up to its own.

    Args:
        query: (B, H, Q, d), last stride 1.
        keys: The layer's keys.
        codes: (B, ≥ P + own_length) uint8: `kernels.PAD` where a slot is padding.
        own_length: Filled own slots.
        scaling: Factor of the scores, positive.
    """
    from sinkbench.engine import triton_columns

    check_layout(query, codes)
    b, h, q, d = query.shape
    n_prefix = keys.n_prefix
    n_keys = n_prefix + own_length
    tile = COLUMN_TILES[query.element_size()]
    share = h // keys.own_k.shape[1]
    sizes = {"SHARE": share, "ROWS": tile.rows, "KEYS": tile.keys, "D": padded_width(d), "HEAD_DIM": d}
    options = sizes | launch_options(query, tile)
    level, entropy, scores = (query.new_empty(b, h, q, dtype=torch.float32) for _ in range(3))
    mass, plogp = (query.new_empty(b, h, n_keys, dtype=torch.float32) for _ in range(2))
    parts: list[tuple[Tensor, Tensor | None, int, int]] = [(keys.own_k, None, n_prefix, own_length)]
    if keys.prefix_k is not None and keys.grouping is not None:
        parts.append((keys.prefix_k, keys.grouping.group, 0, n_prefix))
    shared, group = parts[-1][:2]  # never read without a prefix
    triton_columns.row_kernel[(ceil_div(q, tile.rows), h, b)](
        query,
        shared,
        keys.own_k,
        codes if group is None else group,
        codes,
        level,
        entropy,
        scores,
        scaling * LOG2_E,
        q,
        own_length,
        n_prefix,
        *query.stride()[:3],
        *shared.stride()[:3],
        *keys.own_k.stride()[:3],
        codes.stride(0),
        PREFIX=group is not None,
        **options,
    )
    for part, part_of, first_slot, n_slots in parts:
        triton_columns.column_kernel[(ceil_div(n_slots, tile.keys), h, b)](
            query,
            part,
            codes if part_of is None else part_of,
            codes,
            level,
            mass,
            plogp,
            scaling * LOG2_E,
            q,
            n_keys,
            n_slots,
            first_slot,
            *query.stride()[:3],
            *part.stride()[:3],
            codes.stride(0),
            SHARED=part_of is not None,
            **options,
        )
    return Sums(mass, plogp, entropy, scores)
