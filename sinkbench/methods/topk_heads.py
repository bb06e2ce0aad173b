"""An ablation: of the second half of the heads, every token keeps only those with the longest queries."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.heads import top_heads


@dataclass(frozen=True)
class TopkHeads(Method):
    """Mixture-of-Head attention with its router without parameters (MoH-LLaMA3), on models not tuned for it.

    Routing serves a model that was trained with it. Without that, dropped heads cost quality, and "the first half"
    means nothing but the order in the checkpoint: this is an ablation of ours, not a result of the paper.

    Attributes:
        keep: Share of a layer's heads that are on for a token; the first half always are. MoH-LLaMA3-8B has 0.75.
        layers: Edited layers, 0-based; empty means all, as in the released code.
    """

    name: ClassVar[str] = "topk_heads"
    summary: ClassVar[str] = "turns off, token by token, the heads with the shortest queries"
    paper: ClassVar[Paper] = Paper(
        title="MoH: Multi-Head Attention as Mixture-of-Head Attention",
        authors="Jin et al.",
        venue="arXiv 2024",
        arxiv="2410.11842",
        code="SkyworkAI/MoH@2cefd57",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "ablation"
    cost: ClassVar[str] = "free"

    keep: float = 0.75
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0.5 <= self.keep <= 1:
            raise UsageError(
                f"topk_heads.keep={self.keep}: the first half of the heads is always on", "Give a number from 0.5 to 1."
            )

    def bind(self, model: ModelInfo) -> "TopkHeadsIntervention":
        """Resolve the layers and how many heads are routed."""
        layers = self.layers or tuple(range(model.n_layers))
        model.check_layers("topk_heads.layers", layers)
        pool = model.n_heads // 2
        return TopkHeadsIntervention(pool, round(self.keep * model.n_heads) - (model.n_heads - pool), layers)


class TopkHeadsIntervention(Intervention):
    """The router on a model.

    Args:
        pool: How many heads, the last ones, are routed.
        active: How many of these are on for each token.
        layers: Edited layers.
    """

    capturable = True

    def __init__(self, pool: int, active: int, layers: Collection[int]) -> None:
        self.pool, self.active, self.layers = pool, max(active, 0), frozenset(layers)

    def observe_query(self, layer: int, query: Tensor, ctx: Context) -> None:
        """Route every token of the pass, padding too, which nobody reads."""
        if layer in self.layers:
            ctx.scratch[f"topk_heads.{layer}"] = routed_heads(query, self.pool, self.active)

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Turn off the heads (B, Q, H, d) that were not chosen; the others are not rescaled."""
        if layer not in self.layers or self.active == self.pool:
            return heads
        return heads.masked_fill(~ctx.scratch[f"topk_heads.{layer}"][..., None], 0)


def routed_heads(query: Tensor, pool: int, active: int) -> Tensor:
    """Which heads are on for each token (MoH, spec §2 B).

    Args:
        query: (B, H, Q, d). RoPE may be applied: it turns pairs of numbers, and so leaves the length that counts.
        pool: How many heads, the last ones, are routed.
        active: How many of these are on: those with the longest queries.

    Returns:
        (B, Q, H) bool.
    """
    lengths = query.float().norm(dim=-1)
    shared, routed = lengths[:, : lengths.shape[1] - pool], lengths[:, lengths.shape[1] - pool :]
    return torch.cat((torch.ones_like(shared, dtype=torch.bool), top_heads(routed, active)), dim=1).transpose(1, 2)
