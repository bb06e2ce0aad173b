"""What an observing method is shown of a layer: its attention, in reductions that never hold a whole map; its MLP."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sinkbench.engine.columns import Columns, Sums, attention_sums
from sinkbench.engine.context import Context
from sinkbench.engine.keys import LayerKeys, masked_scores, received
from sinkbench.engine.rows import mapped_norms, row_products

_roots: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By output projection: (H, d, d) R with |R v| = |W_O v| for each head. Weights are taken not to change."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """The attention of one layer in one pass.

    Attributes:
        query: (B, H, Q, d), RoPE applied.
        keys: Keys and values of all K slots; query head h reads KV head h // (H / H_kv).
        scaling: Factor of the scores.
        ctx: The pass.
        heads: (B, Q, H, d) outputs of the heads before the output projection, edits included.
        new_keys: (B, H_kv, Q, d) keys of this pass's own tokens, RoPE applied.
        new_values: (B, H_kv, Q, d) their values.
        projection: (d_model, H·d) weight of the output projection.
    """

    query: Tensor
    keys: LayerKeys
    scaling: float
    ctx: Context
    heads: Tensor
    new_keys: Tensor
    new_values: Tensor
    projection: Tensor

    @property
    def output_weight(self) -> Tensor:
        """(d_model, H, d): W_O by head."""
        return self.projection.view(len(self.projection), self.query.shape[1], -1)

    def scores(self, rows: slice) -> Tensor:
        """(B, H, R, K) float32 scaled scores of some query rows before any edit, very low where they may not look."""
        return masked_scores(self.query[:, :, rows], self.keys, rows, self.ctx, self.scaling)

    def rows(self, rows: slice) -> Tensor:
        """(B, H, R, K) float32 weights of some query rows before any edit. A padding row looks at itself."""
        return self.scores(rows).softmax(-1)

    def received(self, rows: Tensor) -> Tensor:
        """(B, H, K) float32: the weights before any edit, summed over the query rows (B, Q) bool."""
        return received(self.query, self.keys, rows, self.ctx, self.scaling)

    @cached_property
    def _sums(self) -> Sums:
        return attention_sums(self.query, self.keys, self.ctx, self.scaling)

    def columns(self) -> Columns:
        """Sums over this pass's valid query rows, of the weights before any edit."""
        return Columns.of(self._sums, self.ctx)

    def value_norms(self) -> Tensor:
        """(B, H_kv, Q) float32: ‖v_t‖ of this pass's tokens."""
        return row_products(self.new_values).norms

    def output_norms(self) -> Tensor:
        """(B, H, Q) float32: ‖W_O^h v_t‖ of this pass's tokens, for each query head (arXiv 2410.13835)."""
        if self.projection not in _roots:
            _roots[self.projection] = _gram_roots(self.output_weight).to(self.new_values.dtype)
        return mapped_norms(self.new_values, _roots[self.projection])

    def logit_gap(self) -> tuple[Tensor, Tensor]:
        """How far the first token's score lies above those of the others (arXiv 2410.13835, "sink logits").

        Returns:
            (B, H) float32: over the valid query rows i, Σ_i (z_i1 − mean of z_ij over the other keys j ≤ i). And (B,)
            int64, how many rows have another key; the rest are left out.
        """
        ctx = self.ctx
        h = self.query.shape[1]
        first = self.keys.at(ctx.first_slot)
        by_head = first.repeat_interleave(h // first.shape[1], dim=1)
        to_first = row_products(self.query, by_head).dots * self.scaling
        others = (ctx.keys_seen - 1)[:, None]
        gap = to_first - (self._sums.scores - to_first) / others.clamp_min(1)
        counted = ctx.valid_rows & (ctx.keys_seen > 1)
        return gap.masked_fill(~counted[:, None], 0).sum(-1), counted.sum(1)


@dataclass(frozen=True, eq=False)
class MlpParts:
    """The inside of one layer's gated MLP in one pass.

    Attributes:
        input: (B, Q, d_model), after the norm.
        gate: (B, Q, d_ff), before the activation function.
        up: (B, Q, d_ff).
        product: (B, Q, d_ff), the activated gate times `up`: the input of the down projection.
        output: (B, Q, d_model), before the residual sum.
    """

    input: Tensor
    gate: Tensor
    up: Tensor
    product: Tensor
    output: Tensor


def _gram_roots(weight: Tensor) -> Tensor:
    """(H, d, d) float32 triangular R with RᵀR = WᵀW for each head of (d_model, H, d).

    Norms through R take no squares of what is small, so that half types do for the product.
    """
    by_head = weight.detach().transpose(0, 1).double()
    gram = by_head.transpose(1, 2) @ by_head
    scale = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    # Where columns of W are dependent, rounding may leave the product slightly indefinite.
    ridge = 1e-12 * scale[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    roots: Tensor = torch.linalg.cholesky(gram + ridge).transpose(1, 2).float()
    return roots
