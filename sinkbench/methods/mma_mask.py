"""AKI's modality-mutual mask without AKI's training: image tokens may look ahead at the question. An ablation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper


@dataclass(frozen=True)
class MmaMask(Method):
    """Modality-mutual attention on a model that was not trained with it; no result is published for that (spec §6).

    Image rows may look at the text behind the last image, as far as the prompt goes (template behind the question
    included, as released). All else stays causal.

    Attributes:
        layers: Layers with the mask, 0-based; empty is all.
        gamma: What is taken off the unlocked scores: 0 is AKI's mask, a large number none at all.
    """

    name: ClassVar[str] = "mma_mask"
    summary: ClassVar[str] = "lets image tokens look ahead at the question (AKI's mask, training-free)"
    paper: ClassVar[Paper] = Paper(
        title="Seeing is Understanding: Unlocking Causal Attention into Modality-Mutual Attention",
        authors="Wang et al.",
        venue="arXiv 2025",
        arxiv="2503.02597",
        code="sony/aki@c764231",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "ablation"
    cost: ClassVar[str] = "passes"

    layers: tuple[int, ...] = ()
    gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise UsageError(f"mma_mask.gamma={self.gamma} would favour what is unlocked", "Give 0 or more.")

    def bind(self, model: ModelInfo) -> "MmaMaskIntervention":
        """Check the layers.

        Raises:
            UsageError: The model lacks one of them.
        """
        model.check_layers("mma_mask.layers", self.layers)
        return MmaMaskIntervention(self.gamma, frozenset(self.layers or range(model.n_layers)))


class MmaMaskIntervention(Intervention):
    """The mask on a model."""

    whole_prompt = True
    capturable = True

    def __init__(self, gamma: float, layers: frozenset[int]) -> None:
        self.gamma, self.layers = gamma, layers

    def edit_mask(self, layer: int, mask: Tensor, ctx: Context) -> Tensor:
        """Unlock; every layer's mask is the same."""
        if layer not in self.layers:
            return mask
        if "mma_mask" not in ctx.scratch:
            ctx.scratch["mma_mask"] = torch.where(unlocked(ctx.roles)[:, None], -self.gamma, mask)
        return ctx.scratch["mma_mask"]


def unlocked(roles: Tensor) -> Tensor:
    """Pairs that a causal mask hides and this one shows (spec §2).

    Args:
        roles: (B, K) `Role` of the tokens of whole prompts.

    Returns:
        (B, K, K) bool: row is an image token, key a text token behind the last image token.
    """
    image = roles == Role.IMAGE
    places = torch.arange(roles.shape[1], device=roles.device)
    last = torch.where(image, places, -1).amax(1, keepdim=True)
    text = (roles != Role.PAD) & (places > last)
    return image[:, :, None] & text[:, None]
