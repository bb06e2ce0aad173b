"""SPARC: each time an image token suddenly draws attention, count its value for more from then on."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

AVERAGE, COUNTS = "sparc.average", "sparc.counts"
"""What `ctx.state` holds, each (B, K) float32: the moving average of the attention on each image token; and how often
each was selected."""


@dataclass(frozen=True)
class Sparc(Method):
    """Selective Progressive Attention ReCalibration, as released.

    The released code multiplies cached values in place, again at each selection. Here the weights are multiplied, which
    gives the same Σ_k p_k·alpha^n_k·v_k and leaves the cache to others; so edited rows do not sum to 1. The paper's own
    formula was not compared with the code line by line.

    Attributes:
        alpha: Factor of a token's value for each time that it was selected.
        beta: Memory of the moving average; 0 compares with the step before.
        tau: A token is selected where its attention exceeds the average by at least tau times the average.
        selection_layer: Layer whose attention selects, 0-based; -1 means at LLaVA-1.5-7B's relative depth, 20/32 (for
            other depths: our choice).
        layers: Edited layers, 0-based; empty means all.
    """

    name: ClassVar[str] = "sparc"
    summary: ClassVar[str] = "amplifies image tokens for the rest of the answer when their attention suddenly grows"
    paper: ClassVar[Paper] = Paper(
        title="Visual Attention Never Fades: Selective Progressive Attention ReCalibration for Detailed Image "
        "Captioning in Multimodal Large Language Models",
        authors="Jung et al.",
        venue="ICML 2025",
        arxiv="2502.01419",
        code="mingi000508/SPARC@bad02ff",
    )
    edits: ClassVar[Stage] = Stage.DECODE
    observes: ClassVar[Stage] = Stage.SUFFIX
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "rows"

    alpha: float = 1.1
    beta: float = 0.1
    tau: float = 1.5
    selection_layer: int = -1
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.alpha < inf:
            raise UsageError(
                f"sparc.alpha={self.alpha} amplifies nothing", "Give a finite number above 0; 1 is neutral."
            )
        if not 0 <= self.beta <= 1:
            raise UsageError(f"sparc.beta={self.beta} is no memory", "Give a number from 0 to 1.")
        if not self.tau >= 0:
            raise UsageError(f"sparc.tau={self.tau} is no growth", "Give a number from 0 on.")

    def bind(self, model: ModelInfo) -> "SparcIntervention":
        """Resolve the layers."""
        selecting = model.n_layers * 20 // 32 if self.selection_layer == -1 else self.selection_layer
        model.check_layers("sparc.selection_layer", [selecting])
        layers = self.layers or tuple(range(model.n_layers))
        model.check_layers("sparc.layers", layers)
        return SparcIntervention(self, selecting, frozenset(layers))


class SparcIntervention(Intervention):
    """SPARC on a model.

    Args:
        method: Hyper-parameters.
        selecting: The layer whose attention selects.
        layers: Edited layers.
    """

    capturable = True

    def __init__(self, method: Sparc, selecting: int, layers: frozenset[int]) -> None:
        self.method, self.selecting, self.layers = method, selecting, layers

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """The selecting layer's last prompt row, where the average starts, and every decode row."""
        decodes = ctx.stage is Stage.DECODE and layer in self.layers
        return ctx.last_row if ctx.emits and (decodes or layer == self.selecting) else None

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Amplify what earlier steps selected; then, in the selecting layer, select for the steps to come."""
        attention = weights[:, :, 0].mean(1)
        if ctx.stage is not Stage.DECODE:
            ctx.state[AVERAGE], ctx.state[COUNTS] = attention, torch.zeros_like(attention)
            return weights
        # A selection is for the next step: layers above the selecting one still use what this pass began with.
        if COUNTS not in ctx.scratch:
            ctx.scratch[COUNTS] = ctx.state[COUNTS].clone()
        if layer == self.selecting:
            self.select(attention, ctx)
        if layer not in self.layers:
            return weights
        return weights * (self.method.alpha ** ctx.extend(ctx.scratch[COUNTS]))[:, None, None]

    def select(self, attention: Tensor, ctx: Context) -> None:
        """Compare attention (B, K), the mean over heads, with its average up to the step before; then update that."""
        average, beta = ctx.state[AVERAGE], self.method.beta
        n = average.shape[1]
        attention = attention[:, :n]
        grown = (attention >= (1 + self.method.tau) * average) & (attention > 0)
        ctx.state[COUNTS].add_(grown & ctx.is_image[:, :n])
        average.mul_(beta).add_(attention, alpha=1 - beta)
