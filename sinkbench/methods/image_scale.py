"""A control: one constant factor on the attention that image tokens get."""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo


@dataclass(frozen=True)
class ImageScale(Method):
    """A control of ours, which tells what the image's share of attention does by itself.

    It is the core of DARA (Chen et al., COLM 2025, arXiv 2507.15807) without its training: DARA learns a factor for
    each image and head, here one constant serves for all. DARA scales the columns in every query row; here the rows
    up to the last image token are left alone, so that questions on an image and other methods share its prefix.

    Attributes:
        factor: Above 1 the image gets more attention, below 1 less.
        layers: Edited layers, 0-based; DARA's is the first. Empty means all.
        mode: "logit_mul" multiplies scores by the factor, so that negative ones fall where it is above 1. The other two
            are the same by algebra and monotone: "logit_add_log" adds its logarithm to scores, "post_softmax_renorm"
            multiplies weights and restores each row's sum. Which one DARA means is not verified.
    """

    name: ClassVar[str] = "image_scale"
    summary: ClassVar[str] = "scales the attention to image tokens by a constant"
    paper: ClassVar[None] = None
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "control"
    cost: ClassVar[str] = "rows"

    factor: float = 1.2
    layers: tuple[int, ...] = (0,)
    mode: Literal["logit_mul", "logit_add_log", "post_softmax_renorm"] = "logit_add_log"

    def __post_init__(self) -> None:
        if not 0 < self.factor < inf:
            raise UsageError(f"image_scale.factor={self.factor} scales nothing", "Give a finite number above 0.")

    def bind(self, model: ModelInfo) -> "ImageScaleIntervention":
        """Resolve the layers."""
        layers = self.layers or tuple(range(model.n_layers))
        model.check_layers("image_scale.layers", layers)
        # A factor of 1 would still replace the fused kernel's rows by rows with another rounding.
        layers = () if self.factor == 1 else layers
        return ScaledScores(self.factor, layers) if self.mode == "logit_mul" else ScaledWeights(self.factor, layers)


class ImageScaleIntervention(Intervention):
    """The factor on a model, whichever way it acts; prompts without an image stay as they are.

    Args:
        factor: Of the image's attention.
        layers: Edited layers.
    """

    capturable = True

    def __init__(self, factor: float, layers: Collection[int]) -> None:
        self.factor, self.layers = factor, frozenset(layers)

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """Text rows after the last image token, then every decode row."""
        return ctx.all_rows if layer in self.layers and ctx.stage is not Stage.PREFIX else None


class ScaledScores(ImageScaleIntervention):
    """Mode logit_mul."""

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """Multiply the scores of image tokens."""
        return scores * torch.where(ctx.is_image, self.factor, 1.0)[:, None, None]


class ScaledWeights(ImageScaleIntervention):
    """Modes logit_add_log and post_softmax_renorm: softmax(s + log f) is f·w on the image, over the new sum."""

    n_groups = 2

    def key_groups(self, layer: int, ctx: Context) -> Tensor:
        """(B, K) codes: 1 for image tokens, 0 for the rest."""
        return ctx.is_image.long()

    def scale_groups(self, layer: int, mass: Tensor, ctx: Context) -> Tensor:
        """Factors (B, H, R, 2); exactly 1 where there is no attention on an image."""
        total = mass.sum(-1)
        rest = total / (total + (self.factor - 1) * mass[..., 1])
        return torch.stack((rest, self.factor * rest), dim=-1)
