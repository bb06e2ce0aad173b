"""The seam: the attention function of the language model, and the only place where methods touch it.

Every layer runs the fused kernel. Where a method names query rows, exact float32 weights of just those rows are
computed beside it (O(R·K), never O(K²)), edited, and the rows of the output replaced.

Transformers passes no mask to an implementation that is not in its mask registry, so the seam builds the mask from the
active context and refuses to run without one: silently dropped padding is a classic bug.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from sinkbench.engine.context import Context

if TYPE_CHECKING:
    from sinkbench.methods.base import Intervention

NAME = "sinkbench"
"""The seam's name among transformers' attention implementations."""

_active: ContextVar[tuple[Context, "Intervention"] | None] = ContextVar("sinkbench_active", default=None)


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
    """Attention of one layer, with the active method's edits.

    Args:
        module: The attention module; `module.layer_idx` tells the layer.
        query: (B, H, Q, d), RoPE applied.
        key: (B, H_kv, K, d), the whole cache of the layer.
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
    if active is None:
        raise RuntimeError(
            "sinkbench's attention was called outside a context: padding would be ignored. "
            "Run the model through sinkbench.engine.Engine, or restore its own attention implementation."
        )
    if attention_mask is not None or dropout:
        raise RuntimeError("sinkbench's attention takes its mask from the context and has no dropout")
    ctx, method = active
    layer: int = module.layer_idx  # type: ignore[assignment]
    out = fused_attention(query, key, value, ctx, scaling)
    rows = method.rows(layer, ctx)
    if rows is not None:
        edited, changed = edited_rows(query[:, :, rows], key, value, rows, layer, ctx, method, scaling)
        # Rows and heads that the method leaves alone keep the fused kernel's result to the bit.
        out[:, :, rows] = torch.where(changed[..., None], edited.to(out.dtype), out[:, :, rows])
    heads = out.transpose(1, 2)
    return method.edit_heads(layer, heads, ctx), None


def fused_attention(query: Tensor, key: Tensor, value: Tensor, ctx: Context, scaling: float) -> Tensor:
    """Plain attention by the fused kernel.

    Args:
        query: (B, H, Q, d).
        key: (B, H_kv, K, d).
        value: (B, H_kv, K, d).
        ctx: Supplies the mask.
        scaling: Factor of the scores.

    Returns:
        (B, H, Q, d).
    """
    b, h, q, d = query.shape
    groups = h // key.shape[1]
    if ctx.is_plain_causal:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=groups > 1)
    if groups > 1 and q == 1:
        # One query row sees the same keys in every head of a group: the group becomes the row dimension.
        folded = query.reshape(b, key.shape[1], groups, d)
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=ctx.mask, scale=scaling)
        return out.reshape(b, h, 1, d)
    if groups > 1:
        # With a mask, CUDA's fused kernels know no grouped heads.
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=ctx.mask, scale=scaling)


def edited_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: slice,
    layer: int,
    ctx: Context,
    method: "Intervention",
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of some query rows with explicit weights that the method may edit.

    Args:
        query: (B, H, R, d), the chosen rows only.
        key: (B, H_kv, K, d).
        value: (B, H_kv, K, d).
        rows: Which rows of this pass they are.
        layer: 0-based layer.
        ctx: The pass.
        method: Its `edit_scores` and `edit_weights` are called.
        scaling: Factor of the scores.

    Returns:
        (B, H, R, d) float32, and (B, H, R) bool: where the method changed a score or a weight.
    """
    b, h, r, d = query.shape
    kv_heads, k = key.shape[1], key.shape[2]
    grouped = query.float().reshape(b, kv_heads, -1, d)
    scores = (grouped @ key.float().transpose(2, 3) * scaling).view(b, h, r, k)
    if ctx.mask is not None:
        mask = ctx.mask if ctx.n_queries == 1 else ctx.mask[:, :, rows]
        scores = scores.masked_fill(~mask, torch.finfo(torch.float32).min)
    edited_scores = method.edit_scores(layer, scores, ctx)
    weights = edited_scores.softmax(dim=-1)
    edited = method.edit_weights(layer, weights, ctx)
    changed = (edited_scores != scores).any(-1) | (edited != weights).any(-1)
    return (edited.view(b, kv_heads, -1, k) @ value.float()).view(b, h, r, d), changed


@contextmanager
def attached(language_model: Any, layers: nn.ModuleList, ctx: Context, method: "Intervention") -> Iterator[None]:
    """Let `method` act on one forward pass; afterwards the model is as it was found.

    Args:
        language_model: The decoder stack whose `config` names the attention implementation.
        layers: Its decoder layers.
        ctx: The pass.
        method: The method.
    """
    config = language_model.config
    before = config._attn_implementation
    with ExitStack() as stack:
        for index in method.hidden_layers:
            hook = layers[index].register_forward_pre_hook(_hidden_hook(index, ctx, method), with_kwargs=True)
            stack.callback(hook.remove)
        token = _active.set((ctx, method))
        stack.callback(_active.reset, token)
        config._attn_implementation = NAME
        stack.callback(setattr, config, "_attn_implementation", before)
        yield


def _hidden_hook(layer: int, ctx: Context, method: "Intervention") -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        method.observe_hidden(layer, args[0] if args else kwargs["hidden_states"], ctx)

    return hook


AttentionInterface.register(NAME, seam)
