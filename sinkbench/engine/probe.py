"""Runs prompts through a model and keeps the hidden states of a few tokens for diagnostics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics.sink_dims import first_tokens
from sinkbench.engine.context import Context, Stage
from sinkbench.engine.prefix import prefill_prefixes
from sinkbench.engine.stream import Stream
from sinkbench.methods.base import Intervention
from sinkbench.request import Request


class FirstTokens(Intervention):
    """Keeps the input of some layers at each sample's first prompt token.

    Args:
        layers: Layers to look at.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.hidden_layers = layers
        self.seen: dict[int, Tensor] = {}

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Keep (B, d) of the pass in which the first token is."""
        if ctx.stage is not Stage.DECODE and ctx.start == 0:
            self.seen[layer] = first_tokens(hidden, ctx.is_valid).float().cpu()


@torch.inference_mode()
def first_token_states(adapter: Adapter, requests: Sequence[Request], layers: Sequence[int]) -> Tensor:
    """(L', N, d) float32 inputs of `layers` at the first token of N text-only prompts."""
    probe = FirstTokens(layers)
    prompts = [adapter.encode(request) for request in requests]
    prefixes = prefill_prefixes(adapter, {"probe": probe}, prompts, {})
    Stream(adapter, probe, "probe", prompts, prefixes, 0).prefill()
    return torch.stack([probe.seen[layer] for layer in layers])
