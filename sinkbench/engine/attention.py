"""The seam: the attention function of the language model, and the only place where methods touch it.

Every layer runs the fused kernel. Where a method names query rows, exact float32 weights of just those rows are
computed beside it (O(R·K), never O(K²)), edited, and the rows of the output replaced. Edits that treat whole groups of
keys alike need no explicit weights on a GPU: kernels apply them (sinkbench.engine.grouped).

Transformers passes no mask to an implementation that is not in its mask registry, so the seam builds the mask from the
active context and refuses to run without one: silently dropped padding is a classic bug.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context
from sinkbench.engine.grouped import GroupedDecode, grouped_suffix, has_kernels, plain_suffix
from sinkbench.engine.hooks import edited, observed, output_projection
from sinkbench.engine.keys import LayerKeys, in_steps, masked_scores
from sinkbench.engine.norms import fused_norms
from sinkbench.engine.rope import steady
from sinkbench.engine.view import AttentionView

if TYPE_CHECKING:
    from sinkbench.methods.base import Intervention

NAME = "sinkbench"
"""The seam's name among transformers' attention implementations."""


@dataclass(eq=False)
class Pass:
    """One forward pass of the decoder stack.

    Attributes:
        acting: The methods, each with its own view of the pass. Where there are several, none edits. Where tokens are
            dropped on the way (`engine.pruning`) the view changes from layer to layer.
        cache: Keys and values.
        edits: Whether what a method returns is used; otherwise it only looks.
        decode: Prepared key groups of the decode passes, where kernels run these.
        longest: No position of the pass reaches it.
    """

    acting: "tuple[tuple[Intervention, Context], ...]"
    cache: SlotCache
    edits: bool = True
    decode: GroupedDecode | None = None
    longest: int = 1 << 62

    @property
    def context(self) -> Context:
        """What holds for all methods: roles and mask."""
        return self.acting[0][1]

    def attend(self, layer: int, query: Tensor, keys: LayerKeys, scaling: float) -> Tensor:
        """Attention of one layer under the pass's methods.

        Args:
            layer: 0-based layer.
            query: (B, H, Q, d).
            keys: The layer's keys and values.
            scaling: Factor of the scores.

        Returns:
            (B, Q, H, d).
        """
        for method, ctx in self.acting:
            method.observe_query(layer, query, ctx)
        if self.edits:
            self._edit_mask(layer)
            method, ctx = self.acting[0]
            heads = self._edited(layer, query, keys, scaling).transpose(1, 2)
            return _spare_untouched(method.edit_heads(layer, heads, ctx), heads, ctx)
        out = fused_attention(query, keys, self.context, scaling)
        for method, ctx in self.acting:
            if (rows := method.rows(layer, ctx)) is not None:
                ExplicitRows.of(query[:, :, rows], keys, rows, layer, ctx, method, scaling)
        return out.transpose(1, 2)

    def show(
        self, layer: int, query: Tensor, keys: LayerKeys, scaling: float, heads: Tensor, module: nn.Module
    ) -> None:
        """Let the methods that observe attention look at a layer; `heads` (B, Q, H, d) are its outputs."""
        for method, ctx in self.acting:
            if method.observes_attention:
                new_keys, new_values = self.cache.newest(layer, ctx.n_queries)
                weight = output_projection(module)
                view = AttentionView(query, keys, scaling, ctx, heads, new_keys, new_values, weight)
                method.observe_attention(layer, view, ctx)

    def _edit_mask(self, layer: int) -> None:
        method, ctx = self.acting[0]
        if method.edits_mask and ctx.n_queries > 1:
            edited = method.edit_mask(layer, ctx.additive_mask, ctx)
            ctx.bias = None if edited is ctx.additive_mask else edited

    def _edited(self, layer: int, query: Tensor, keys: LayerKeys, scaling: float) -> Tensor:
        method, ctx = self.acting[0]
        rows = method.rows(layer, ctx)
        if self.decode is not None and (rows is None or method.is_grouped):
            return self.decode.attend(layer, query, keys, ctx, scaling, plain=rows is None)
        if rows is None:
            return fused_attention(query, keys, ctx, scaling)
        whole = rows == ctx.all_rows
        fusable = whole and query.shape[2] > 1 and ctx.bias is None
        if has_kernels(query) and fusable and method.is_grouped and not method.score_gains(layer):
            return grouped_suffix(query, keys, method, layer, ctx, scaling)
        explicit = ExplicitRows.of(query[:, :, rows], keys, rows, layer, ctx, method, scaling)
        if has_kernels(query) and whole:
            return keys.mix(explicit.edited).to(query.dtype)
        out = fused_attention(query, keys, ctx, scaling)
        if explicit.edits:
            # Rows and heads that the method leaves alone keep the fused kernel's result to the bit.
            edited = keys.mix(explicit.edited).to(out.dtype)
            out[:, :, rows] = torch.where(explicit.changed[..., None], edited, out[:, :, rows])
        return out


class _Peek(Exception):
    """Stands for a pass, and ends it, where only queries and keys are wanted."""

    query: Tensor
    key: Tensor
    scaling: float


_active: ContextVar[Pass | _Peek | None] = ContextVar("sinkbench_active", default=None)


def peek(attention: nn.Module, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, float]:
    """What an attention module would compare, without its attention.

    Args:
        attention: The module, on which the seam is active.
        hidden: (B, Q, d_model) its input.
        embeddings: Rotary embeddings of the tokens.

    Returns:
        Queries (B, H, Q, d) and keys (B, H_kv, Q, d), RoPE applied, and the factor of their scores.
    """
    token = _active.set(looking := _Peek())
    try:
        attention(hidden_states=hidden, position_embeddings=embeddings, attention_mask=None, past_key_values=None)
    except _Peek:
        return looking.query, looking.key, looking.scaling
    finally:
        _active.reset(token)
    raise RuntimeError(f"{type(attention).__name__} does not go through sinkbench's attention")


def seam(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, with the active methods' edits.

    Args:
        module: The attention module; `module.layer_idx` tells the layer.
        query: (B, H, Q, d), RoPE applied.
        key: (B, H_kv, K, d), the samples' own slots as the cache's `update` returned them.
        value: (B, H_kv, K, d).
        attention_mask: Must be None: the context holds the mask.
        scaling: Factor of the scores, 1/√d as a rule.
        dropout: Must be 0: the seam is for inference.

    Returns:
        (B, Q, H, d) head outputs before the output projection, and None for the weights.

    Raises:
        RuntimeError: No context is active, or the caller asks for what the seam does not do.
    """
    active = _active.get()
    if isinstance(active, _Peek):
        active.query, active.key, active.scaling = query, key, scaling
        raise active
    if active is None:
        raise RuntimeError(
            "sinkbench's attention was called outside a context: padding would be ignored. "
            "Run the model through sinkbench.engine.Engine, or restore its own attention implementation."
        )
    if attention_mask is not None or dropout:
        raise RuntimeError("sinkbench's attention takes its mask from the context and has no dropout")
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys = active.cache.layer(layer, key, value)
    heads = active.attend(layer, query, keys, scaling)
    active.show(layer, query, keys, scaling, heads, module)
    return heads, None


def fused_attention(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Tensor:
    """Plain attention by the fastest way that the device and the layout of the keys allow.

    Args:
        query: (B, H, Q, d).
        keys: The layer's keys and values.
        ctx: Supplies the mask.
        scaling: Factor of the scores.

    Returns:
        (B, H, Q, d).
    """
    if ctx.is_plain_causal:
        grouped = query.shape[1] > keys.own_k.shape[1]
        return F.scaled_dot_product_attention(
            query, keys.own_k, keys.own_v, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    if has_kernels(query) and ctx.bias is None:
        return plain_suffix(query, keys, ctx, scaling)
    return _masked_attention(query, keys, ctx, scaling) if keys.n_prefix == 0 else _chunked(query, keys, ctx, scaling)


def _masked_attention(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Tensor:
    """Attention over the samples' own slots by the framework's kernel."""
    b, h, q, d = query.shape
    key, value = keys.own_k, keys.own_v
    groups = h // key.shape[1]
    mask = ctx.mask if ctx.bias is None else ctx.bias.clamp_min(torch.finfo(query.dtype).min).to(query.dtype)
    if groups > 1 and q == 1:
        # One query row sees the same keys in every head of a group: the group becomes the row dimension.
        folded = query.reshape(b, key.shape[1], groups, d)
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(b, h, 1, d)
    if groups > 1:
        # With a mask, CUDA's fused kernels know no grouped heads.
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _chunked(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Tensor:
    """Attention over both parts of the keys with explicit weights, a few rows at a time."""
    parts = [
        keys.mix(masked_scores(query[:, :, rows], keys, rows, ctx, scaling).softmax(-1))
        for rows in in_steps(query, ctx.n_keys)
    ]
    return torch.cat(parts, dim=2).to(query.dtype)


@dataclass(frozen=True, eq=False)
class ExplicitRows:
    """The weights of some query rows before and after a method's edits.

    Attributes:
        scores: (B, H, R, K) float32, scaled and masked.
        edited_scores: The same after `edit_scores`.
        weights: Their softmax.
        edited: The same after `edit_weights`.
    """

    scores: Tensor
    edited_scores: Tensor
    weights: Tensor
    edited: Tensor

    @classmethod
    def of(
        cls,
        query: Tensor,
        keys: LayerKeys,
        rows: slice,
        layer: int,
        ctx: Context,
        method: "Intervention",
        scaling: float,
    ) -> "ExplicitRows":
        """Show a method the weights of the query rows (B, H, R, d), which are the rows `rows` of the pass."""
        scores = masked_scores(query, keys, rows, ctx, scaling)
        edited_scores = _spare_untouched(method.edit_scores(layer, scores, ctx), scores, ctx)
        weights = edited_scores.softmax(dim=-1)
        edited = _spare_untouched(method.edit_weights(layer, weights, ctx), weights, ctx)
        return cls(scores, edited_scores, weights, edited)

    @property
    def edits(self) -> bool:
        """Whether the method may have changed anything."""
        return self.edited_scores is not self.scores or self.edited is not self.weights

    @property
    def changed(self) -> Tensor:
        """(B, H, R) bool: where the method changed a score or a weight."""
        return (self.edited_scores != self.scores).any(-1) | (self.edited != self.weights).any(-1)


def _spare_untouched(edited: Tensor, before: Tensor, ctx: Context) -> Tensor:
    """The edit, undone where no edit may reach."""
    if ctx.untouched is None or edited is before:
        return edited
    return torch.where(ctx.untouched[:, None, None, None], before, edited)


@contextmanager
def attached(language_model: Any, layers: nn.ModuleList, active: Pass) -> Iterator[None]:
    """Let methods act on one forward pass; afterwards the model is as it was found.

    Args:
        language_model: The decoder stack whose `config` names the attention implementation.
        layers: Its decoder layers.
        active: The pass.
    """
    config = language_model.config
    before = config._attn_implementation
    with ExitStack() as stack:
        stack.enter_context(observed(language_model, layers, active))
        if active.edits:
            stack.enter_context(edited(layers, active))
        token = _active.set(active)
        stack.callback(_active.reset, token)
        stack.enter_context(steady(language_model, active.longest))
        stack.enter_context(fused_norms(language_model))
        config._attn_implementation = NAME
        stack.callback(setattr, config, "_attn_implementation", before)
        yield


AttentionInterface.register(NAME, seam)
