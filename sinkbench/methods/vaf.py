"""VAF: in the middle layers, scale up the scores of image tokens and scale down those of the system prompt."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper


@dataclass(frozen=True)
class Vaf(Method):
    """Visual Amplification Fusion (ClearSight).

    Scores are multiplied, as in the released code: where enh is above 1, a negative score of an image token falls.

    Attributes:
        enh: Factor of the scores of image tokens; above 1 amplifies (code: README and shell script; argparse has 1).
        sup: Factor of the scores of the system prompt's tokens; below 1 suppresses (likewise).
        layers: Edited layers, 0-based; empty means at LLaVA-1.5-7B's relative depth, 9 to 14 of 32 (for other depths:
            our choice).
    """

    name: ClassVar[str] = "vaf"
    summary: ClassVar[str] = "multiplies scores of image tokens up and of the system prompt down, in the middle layers"
    paper: ClassVar[Paper] = Paper(
        title="ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation in Multimodal Large language "
        "Models",
        authors="Yin et al.",
        venue="CVPR 2025",
        arxiv="2503.13107",
        code="ustc-hyin/ClearSight@5466c94",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "rows"

    enh: float = 1.15
    sup: float = 0.95
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("enh", "sup"):
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise UsageError(f"vaf.{name}={value} would turn scores round", "Give a finite number from 0 on.")

    def bind(self, model: ModelInfo) -> "VafIntervention":
        """Resolve the layers."""
        start = round(model.n_layers * 9 / 32)
        layers = self.layers or tuple(range(start, max(start + 1, round(model.n_layers * 15 / 32))))
        model.check_layers("vaf.layers", layers)
        # Factors of 1 would still replace the fused kernel's rows by rows with another rounding.
        neutral = self.enh == self.sup == 1
        return VafIntervention(self, frozenset() if neutral else frozenset(layers))


class VafIntervention(Intervention):
    """VAF on a model.

    The released code edits the text rows behind its one image; with several images, text between them stays as it is,
    as part of the prefix. Without an image nothing is edited.

    Args:
        method: Hyper-parameters.
        layers: Edited layers.
    """

    capturable = True

    def __init__(self, method: Vaf, layers: frozenset[int]) -> None:
        self.method, self.layers = method, layers

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """Text rows after the last image token, then every decode row."""
        return ctx.all_rows if layer in self.layers and ctx.stage is not Stage.PREFIX else None

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """Multiply scores (B, H, R, K); of masked keys too, which stay far below all others."""
        factor = torch.where(ctx.is_image, self.method.enh, 1.0)
        factor = torch.where(system_tokens(ctx), self.method.sup, factor)
        return scores * factor[:, None, None]


def system_tokens(ctx: Context) -> Tensor:
    """(B, K) bool: template tokens before a sample's first image token; none where there is no image."""
    slots = torch.arange(ctx.n_keys, device=ctx.roles.device)
    # Without an image argmax is 0, and no slot lies before that.
    first_image = ctx.is_image.int().argmax(1, keepdim=True)
    return (slots < first_image) & (ctx.roles == Role.TEMPLATE)
