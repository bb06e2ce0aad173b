"""EE-MLLM's composite attention without its training: no image token looks at another one. An ablation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper


@dataclass(frozen=True)
class NoVisVis(Method):
    """Attention among image tokens removed, in our reading of the paper's abstract (spec §2). It saves no time here.

    Attributes:
        layers: Layers without it, 0-based; empty is all.
        rows: What image tokens get instead: "self", themselves alone; "bypass", no output of attention at all.
        see_prefix: Whether they still see the text before them.
    """

    name: ClassVar[str] = "no_vis_vis"
    summary: ClassVar[str] = "no attention among image tokens (EE-MLLM's, training-free)"
    paper: ClassVar[Paper] = Paper(
        title="EE-MLLM: A Data-Efficient and Compute-Efficient Multimodal Large Language Model",
        authors="Ma et al.",
        venue="arXiv 2024",
        arxiv="2408.11795",
    )
    edits: ClassVar[Stage] = Stage.PREFIX
    family: ClassVar[str] = "ablation"
    cost: ClassVar[str] = "rows"

    layers: tuple[int, ...] = ()
    rows: Literal["self", "bypass"] = "self"
    see_prefix: bool = True

    def bind(self, model: ModelInfo) -> "NoVisVisIntervention":
        """Check the layers.

        Raises:
            UsageError: The model lacks one of them.
        """
        model.check_layers("no_vis_vis.layers", self.layers)
        return NoVisVisIntervention(self, frozenset(self.layers or range(model.n_layers)))


class NoVisVisIntervention(Intervention):
    """The mask on a model."""

    capturable = True

    def __init__(self, method: NoVisVis, layers: frozenset[int]) -> None:
        self.method, self.layers = method, layers

    def edit_mask(self, layer: int, mask: Tensor, ctx: Context) -> Tensor:
        """Hide other image tokens, and what else image rows shall not see; every layer's mask is the same."""
        if layer not in self.layers or not _holds_images(ctx):
            return mask
        if "no_vis_vis" not in ctx.scratch:
            hidden = hidden_from_images(ctx.roles, self.method.see_prefix)[:, None, ctx.start :]
            ctx.scratch["no_vis_vis"] = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        return ctx.scratch["no_vis_vis"]

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Where asked for, image rows get nothing."""
        if self.method.rows == "self" or layer not in self.layers or not _holds_images(ctx):
            return heads
        return heads.masked_fill(ctx.is_image[:, ctx.start :, None, None], 0)


def _holds_images(ctx: Context) -> bool:
    """Whether the pass may have image rows: it is a prefix, or a whole prompt."""
    return ctx.stage is not Stage.DECODE and ctx.start == 0


def hidden_from_images(roles: Tensor, see_prefix: bool) -> Tensor:
    """Keys that image rows may not look at.

    Args:
        roles: (B, K) `Role`.
        see_prefix: Whether they may look at text.

    Returns:
        (B, K, K) bool; never a row's own key.
    """
    image = roles == Role.IMAGE
    keys = image if see_prefix else torch.ones_like(image)
    others = ~torch.eye(roles.shape[1], dtype=torch.bool, device=roles.device)
    return image[:, :, None] & keys[:, None] & others
