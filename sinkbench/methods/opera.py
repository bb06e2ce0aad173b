"""OPERA: beam search that makes tokens dear whose attention hangs on one earlier token of the answer."""

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.view import AttentionView
    from sinkbench.request import Generation

COLUMNS = "opera.columns"
"""In `ctx.state`, (B, t) float32: log of each generated token's column product Π_{i≥j} w_ij."""

ON_IMAGE = "opera.on_image"
"""In `ctx.scratch`, (B,) float32: attention of this pass's token on the image."""

_UNIT = log(1e-7)
"""Log of the factor of column scores (released code)."""

_MOST = log(65504.0)
"""Log of the largest column score; the released code holds them as half floats, which end there."""

_EARLY = 10
"""Tokens of an answer that are rewarded for looking at the image (released code)."""


def trust_row(weights: Tensor) -> Tensor:
    """The largest of the heads' weights of each key, made to sum to 1: (B, H, K) to (B, K)."""
    row = weights.amax(1)
    return row / row.sum(-1, keepdim=True)


def extend_columns(columns: Tensor | None, row: Tensor, scale: float) -> Tensor:
    """Log column products with one more token.

    Args:
        columns: (B, t − 1) of the tokens before; None for the first.
        row: (B, t) weights w_tj of the new token on the generated tokens, itself included.
        scale: Factor of the weights.

    Returns:
        (B, t): Σ_{i≥j} log(scale·w_ij).
    """
    before = row[:, :0] if columns is None else columns
    return torch.nn.functional.pad(before, (0, 1)) + (scale * row).log()


def over_trust(columns: Tensor) -> tuple[Tensor, Tensor]:
    """max_j φ_j with φ_j = 1e-7·Π_{i≥j} scale·w_ij, and that j: (B,) float32 and (B,) int64, from (B, t) logs."""
    highest, token = columns.max(-1)
    return (highest + _UNIT).clamp_max(_MOST).exp(), token


@dataclass(frozen=True)
class Opera(Method):
    """Over-trust Penalty and Retrospection-Allocation.

    Each sample is searched for by itself; a step takes one pass of beams·candidates rows. `beam` is its baseline. In a
    composition the last layer's attention is seen before the other methods' edits.

    Attributes:
        beams: Hypotheses that are kept.
        candidates: Next tokens of each hypothesis that are tried; no others are considered. With one, nothing is left
            to choose but where the search goes back.
        scale_factor: Factor of the attention weights in the column scores.
        threshold: The search goes back where one token was trusted most at more than so many steps, in every beam.
        penalty_weight: Factor of the penalty, which is subtracted from a candidate's logit.
        early_reward: For the first 10 tokens of an answer, reward attention on the image instead, as the released code
            does and the paper does not say.
    """

    name: ClassVar[str] = "opera"
    summary: ClassVar[str] = "beam search that penalises over-trusted tokens, and goes back where one governs the rest"
    paper: ClassVar[Paper] = Paper(
        title="OPERA: Alleviating Hallucination in Multi-Modal Large Language Models via Over-Trust Penalty and "
        "Retrospection-Allocation",
        authors="Huang et al.",
        venue="CVPR 2024",
        arxiv="2311.17911",
        code="shikiw/OPERA@61426ef",
    )
    observes: ClassVar[Stage] = Stage.DECODE
    family: ClassVar[str] = "decoding"
    cost: ClassVar[str] = "beams"

    beams: int = 5
    candidates: int = 5
    scale_factor: float = 50.0
    threshold: int = 15
    penalty_weight: float = 1.0
    early_reward: bool = True

    def __post_init__(self) -> None:
        for name in ("beams", "candidates", "threshold"):
            if getattr(self, name) < 1:
                raise UsageError(f"opera.{name}={getattr(self, name)} is too small", "Give 1 or more.")
        if self.scale_factor <= 0:
            raise UsageError(f"opera.scale_factor={self.scale_factor} leaves no weight", "Give a number above 0.")

    def generation(self, generation: "Generation") -> "Generation":
        """The search.

        Raises:
            UsageError: The task, the command or another part of a composition samples.
        """
        return replace(generation, num_beams=self.beams, candidates=self.candidates, patience=self.threshold)

    def bind(self, model: ModelInfo) -> "OperaIntervention":
        """Find the last layer."""
        return OperaIntervention(self, model.n_layers - 1)


class OperaIntervention(Intervention):
    """OPERA on a model.

    Args:
        method: Hyper-parameters.
        last: The last layer.
    """

    def __init__(self, method: Opera, last: int) -> None:
        self.method = method
        self.last = last

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Add the new token's row of the last layer to the column scores."""
        if layer != self.last or ctx.stage is not Stage.DECODE:
            return
        row = trust_row(view.rows(ctx.last_row)[:, :, 0])
        ctx.state[COLUMNS] = extend_columns(ctx.state.get(COLUMNS), row[:, -ctx.step :], self.method.scale_factor)
        ctx.scratch[ON_IMAGE] = (row * ctx.is_image).sum(-1)

    def rate_tokens(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """The penalty, or early in the answer the reward; and the token whose column score is highest."""
        penalty, token = over_trust(ctx.state[COLUMNS])
        if self.method.early_reward and ctx.step <= _EARLY:
            penalty = -ctx.scratch[ON_IMAGE]
        return self.method.penalty_weight * penalty, token
