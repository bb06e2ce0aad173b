"""DAMO: where the prediction turns round from layer to layer, replace a layer's update by its running mean."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method, Part
from sinkbench.methods.facts import ModelInfo, Paper


@dataclass(frozen=True)
class Damo(Method):
    """Decoding by accumulating activations momentum.

    Attributes:
        start: First edited layer, 0-based; 0 means half of the layers (16 of 32 in the released code).
        alpha: Memory of the direction in which probabilities move.
        tau: A layer turns round where the cosine of its step to that direction is below this.
        beta1: Memory of the layers' updates,
        beta2: ... and at the layer that turns round first.
    """

    name: ClassVar[str] = "damo"
    summary: ClassVar[str] = "replaces late layers' updates by their momentum once the prediction turns round"
    paper: ClassVar[Paper] = Paper(
        title="DAMO: Decoding by Accumulating Activations Momentum for Mitigating Hallucinations in "
        "Vision-Language Models",
        authors="Wang et al.",
        venue="ICLR 2025",
        code="tunantu/DAMO@10159ad",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "hidden states"
    cost: ClassVar[str] = "rows"

    start: int = 0
    alpha: float = 0.7
    tau: float = -0.3
    beta1: float = 0.05
    beta2: float = 0.20

    def __post_init__(self) -> None:
        if not -1 <= self.tau <= 1:
            raise UsageError(f"damo.tau={self.tau} is no cosine", "Give a number in [-1, 1]; -1 changes nothing.")
        if not all(0 <= value <= 1 for value in (self.alpha, self.beta1, self.beta2)):
            raise UsageError("damo.alpha, beta1 and beta2 are memories", "Give numbers in [0, 1].")

    def bind(self, model: ModelInfo) -> "DamoIntervention":
        """Resolve the first layer."""
        start = self.start or model.n_layers // 2
        if not 2 <= start < model.n_layers:
            raise UsageError(
                f"damo.start={start}: DAMO compares a layer with two before it, and {model.name} has {model.n_layers}",
                f"Give a layer from 2 to {model.n_layers - 1}.",
            )
        return DamoIntervention(self, start)


class DamoIntervention(Intervention):
    """DAMO on a model. What it accumulates begins anew in every pass: zero, and no layer has turned round."""

    edited_parts: Collection[Part] = frozenset({"block"})
    capturable = True

    def __init__(self, method: Damo, start: int) -> None:
        self.method, self.start = method, start

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Edit the last row of the layer's output, from `start` on."""
        if not ctx.emits or layer < self.start - 2:
            return hidden
        last = hidden[:, -1]
        if layer >= self.start:
            last = self._accumulate(last, ctx.scratch, ctx)
        memory = ctx.scratch
        memory["damo.before_last"] = memory.get("damo.probabilities", last)
        memory["damo.probabilities"] = _probabilities(last, ctx)
        memory["damo.last"] = last
        if layer < self.start:
            return hidden
        return torch.cat((hidden[:, :-1], last[:, None]), dim=1)

    def _accumulate(self, last: Tensor, memory: dict[str, Tensor], ctx: Context) -> Tensor:
        """The layer's output (B, d), its update replaced by the momentum where the prediction has turned round."""
        m, before = self.method, memory["damo.probabilities"]
        step, earlier = _probabilities(last, ctx) - before, before - memory["damo.before_last"]
        direction = m.alpha * memory.get("damo.direction", torch.zeros_like(step)) + (1 - m.alpha) * earlier
        turns = F.cosine_similarity(step, direction, dim=-1) < m.tau
        turned = memory.get("damo.turned", torch.zeros_like(turns))
        update = (last - memory["damo.last"]).float()
        beta = torch.where(turns & ~turned, m.beta2, m.beta1)[:, None]
        momentum = beta * memory.get("damo.momentum", torch.zeros_like(update)) + (1 - beta) * update
        turned = turned | turns
        memory |= {"damo.direction": direction, "damo.turned": turned, "damo.momentum": momentum}
        edited = (last.float() - update + momentum).to(last.dtype)
        return torch.where(turned[:, None], edited, last)


def _probabilities(hidden: Tensor, ctx: Context) -> Tensor:
    """(B, V): the head on a hidden state (B, d) without the final norm, as in the released code."""
    assert ctx.read_out is not None
    return ctx.read_out.head(hidden).softmax(-1)
