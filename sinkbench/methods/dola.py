"""DoLa: contrast the next token's distribution with that of an early layer, the one that differs most."""

from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence (…) in nats of two distributions (…, V), given as log-probabilities.

    The shapes may broadcast.
    """
    middle = torch.logaddexp(first, second) - log(2)
    # 0 · log 0 counts nothing.
    kept, lost = ((side.exp() * (side - middle)).nan_to_num().sum(-1) for side in (first, second))
    return (kept + lost) / 2


def contrast_layers(final: Tensor, early: Tensor, cut: float) -> Tensor:
    """Take log p − log q for the early layer whose q diverges most from p; −inf where p is implausible.

    Each sample chooses its own layer; the released code averages the divergence over the batch.

    Args:
        final: (B, V) logits.
        early: (C, B, V) logits of the candidate layers.
        cut: A token needs at least this fraction of the most probable token's probability.

    Returns:
        (B, V) scores.
    """
    p, q = final.log_softmax(-1), early.log_softmax(-1)
    chosen = divergence(p, q).argmax(0)
    scores = p - q.take_along_dim(chosen[None, :, None], 0)[0]
    return scores.masked_fill(p < p.amax(-1, keepdim=True) + log(cut), -torch.inf)


@dataclass(frozen=True)
class Dola(Method):
    """Decoding by Contrasting Layers.

    Attributes:
        layers: Candidates: "high" every second layer of the upper half, "low" of the lower half (from the second on).
        candidates: Candidates by name of their input, 0-based; replaces `layers`.
        cut: Plausibility cut; 1 leaves the most probable token alone.
    """

    name: ClassVar[str] = "dola"
    summary: ClassVar[str] = "contrasts the last layer's next-token distribution with an early layer's"
    paper: ClassVar[Paper] = Paper(
        title="DoLa: Decoding by Contrasting Layers Improves Factuality in Large Language Models",
        authors="Chuang et al.",
        venue="ICLR 2024",
        arxiv="2309.03883",
        code="voidism/DoLa",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "decoding"
    cost: ClassVar[str] = "rows"

    layers: Literal["high", "low"] = "high"
    candidates: tuple[int, ...] = ()
    cut: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.cut <= 1:
            raise UsageError(f"dola.cut={self.cut} is no share of a probability", "Give a number in (0, 1].")

    def bind(self, model: ModelInfo) -> "DolaIntervention":
        """Resolve the candidates."""
        half = model.n_layers // 2
        span = range(half, model.n_layers, 2) if self.layers == "high" else range(2, half, 2)
        candidates = self.candidates or tuple(span)
        model.check_layers("dola.candidates", candidates)
        if not candidates:
            raise UsageError(
                f"{model.name} has no layer for dola.layers={self.layers}", "Name some: --set dola.candidates=[1]."
            )
        return DolaIntervention(self, candidates)


class DolaIntervention(Intervention):
    """DoLa on a model: hidden states of the last row are kept at the candidates' inputs, and read out at the end."""

    capturable = True

    def __init__(self, method: Dola, candidates: tuple[int, ...]) -> None:
        self.method = method
        self.hidden_layers = candidates

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Keep the last row (B, d)."""
        if ctx.emits:
            ctx.scratch[f"dola.{layer}"] = hidden[:, -1]

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Contrast with the candidate that differs most."""
        assert ctx.read_out is not None
        kept = torch.stack([ctx.scratch[f"dola.{layer}"] for layer in self.hidden_layers])
        # A second branch, of a composition, comes behind the samples.
        return contrast_layers(logits, ctx.read_out.logits(kept[:, : len(logits)]), self.method.cut)
