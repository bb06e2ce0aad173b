"""Where sink dimensions are looked for: the first token's hidden states, and massive entries of any token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.observe import observe
from sinkbench.inspection.probe import Choice, Probe
from sinkbench.methods.base import Intervention
from sinkbench.request import Request


class FirstTokens(Intervention):
    """Keeps the input of some layers at each sample's first prompt token.

    Args:
        layers: Layers to look at.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.hidden_layers = layers

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Keep (B, d) of the pass in which the first token is."""
        if ctx.stage is not Stage.DECODE and ctx.start == 0:
            ctx.state[f"first.{layer}"] = hidden[torch.arange(len(hidden), device=hidden.device), ctx.first_slot]


def first_token_states(adapter: Adapter, requests: Sequence[Request], layers: Sequence[int]) -> Tensor:
    """(L', N, d) float32 inputs of `layers` at the first token of N text-only prompts."""
    prompts = [adapter.encode(request) for request in requests]
    places = {id(prompt): place for place, prompt in enumerate(prompts)}
    states = torch.empty(len(layers), len(prompts), adapter.info.hidden_size)
    for batch in observe(adapter, FirstTokens(layers), prompts):
        chosen = [places[id(prompt)] for prompt in batch.prompts]
        for row, layer in enumerate(layers):
            states[row, chosen] = batch.state[f"first.{layer}"].float().cpu()
    return states


def massive_evidence(adapter: Adapter, requests: Sequence[Request]) -> dict[str, Any]:
    """What the detector of massive dimensions finds in any token of the prompts: `MassiveDims.evidence()`."""
    probe = Probe(adapter.info, Choice(mlp=False), adapter.device)
    for _ in observe(adapter, probe, [adapter.encode(request) for request in requests]):
        pass  # the detector counts as batches go by
    return probe.massive.evidence()
