"""A control: scale the outputs of heads that were drawn at random, where head reinforcement scales chosen ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.heads import top_heads


@dataclass(frozen=True)
class RandomHeads(Method):
    """A control of ours with the budget of VHR (He et al., ACL 2025, arXiv 2412.13949), which goes by the image.

    Half of the heads of each edited layer are drawn, for every sample the same ones, with an image or without; in the
    last prompt row and all decode rows their outputs are multiplied before the output projection.

    Attributes:
        alpha: Factor of a drawn head's output (VHR: 2).
        layers: Edited layers, 0-based; empty means the last 14 of 32, in proportion (VHR on LLaVA-1.5-7B, by a
            reimplementation: not verified).
        seed: Of the draw; a layer's heads do not depend on which other layers are edited.
    """

    name: ClassVar[str] = "random_heads"
    summary: ClassVar[str] = "scales a random half of the heads in the last layers"
    paper: ClassVar[None] = None
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "control"
    cost: ClassVar[str] = "free"

    alpha: float = 2.0
    layers: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < inf:
            raise UsageError(
                f"random_heads.alpha={self.alpha} would turn heads round", "Give a finite number from 0 on."
            )
        if self.seed < 0:
            raise UsageError(f"random_heads.seed={self.seed} is no seed", "Give a number from 0 on.")

    def bind(self, model: ModelInfo) -> "RandomHeadsIntervention":
        """Draw the heads of every layer.

        Raises:
            UsageError: The model lacks a layer, or heads to halve.
        """
        if model.n_heads < 2:
            raise UsageError(
                f"random_heads halves the heads of a layer, and {model.name} has one", "Use another model."
            )
        start = model.n_layers - max(1, round(model.n_layers * 14 / 32))
        layers = self.layers or tuple(range(start, model.n_layers))
        model.check_layers("random_heads.layers", layers)
        draw = torch.rand(model.n_layers, model.n_heads, generator=torch.Generator().manual_seed(self.seed))
        drawn = top_heads(draw, model.n_heads // 2)
        return RandomHeadsIntervention(torch.where(drawn, self.alpha, 1.0), layers)


class RandomHeadsIntervention(Intervention):
    """The drawn heads of a model.

    Args:
        factors: (L, H) float32, of each head's output.
        layers: Edited layers.
    """

    capturable = True

    def __init__(self, factors: Tensor, layers: Sequence[int]) -> None:
        self.factors, self.layers = factors, frozenset(layers)

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Scale the drawn heads in the row from which the next token comes."""
        if not ctx.emits or layer not in self.layers:
            return heads
        # Moved in the pass over the prompt, if at all: a captured pass may not copy from the host.
        self.factors = self.factors.to(heads.device)
        last = heads[:, -1:].float() * self.factors[layer, :, None]
        return torch.cat((heads[:, :-1], last.to(heads.dtype)), dim=1)
