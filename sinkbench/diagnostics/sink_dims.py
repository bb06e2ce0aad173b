"""Sink dimensions: the few hidden dimensions in which a model's massive activations live.

Procedure (VAR, arXiv 2503.03321, extended to unlisted models): take the hidden state of the first prompt token of
text-only prompts at the input of layers 3 to L−2; a dimension belongs to the sink dimensions if its magnitude exceeds
tau times the token's root mean square in most of these layers. Pure functions of tensors; nothing here runs a model.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from sinkbench.diagnostics.sink_metric import first_token

MOST_LAYERS = 0.5
"""A sink dimension stands out in more than this share of the layers looked at."""


@dataclass(frozen=True)
class SinkDims:
    """The result of the detector, with its evidence.

    Attributes:
        dims: Sink dimensions, strongest first.
        tau: Threshold on |x_k| / RMS(x).
        layers: Layers whose inputs were looked at, 0-based.
        ratios: For each of `dims`, the median over prompts of |x_k| / RMS(x) in each layer.
        runner_up: The largest such ratio of any other dimension: how clear the cut is.
        n_prompts: Prompts behind the medians.
    """

    dims: tuple[int, ...]
    tau: float
    layers: tuple[int, ...]
    ratios: dict[int, tuple[float, ...]]
    runner_up: float
    n_prompts: int


def default_tau(hidden_size: int) -> float:
    """The detector's threshold: 20 as VAR has it; half the largest possible ratio, √d, where d is too small for 20.

    Tokens are judged by `visual_sinks.tau_for`, which keeps VAR's share of a token's energy and so is lower for small
    d: one of a few known dimensions reaches a ratio by chance less often than any of all d.
    """
    return min(20.0, sqrt(hidden_size) / 2)


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Layers 3 to L−2: after massive activations arise and before the last layer removes them."""
    return tuple(range(3, n_layers - 1)) or (n_layers - 1,)


def activation_ratios(hidden: Tensor) -> Tensor:
    """|x_k| / RMS(x) of hidden states (..., d), float32; at most √d."""
    x = hidden.float()
    return x.abs() / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def find_sink_dims(hidden: Tensor, layers: tuple[int, ...], tau: float) -> SinkDims:
    """Find the sink dimensions.

    Args:
        hidden: (L', N, d) hidden states of one token of each of N prompts at the inputs of L' layers.
        layers: The L' layers.
        tau: Threshold on |x_k| / RMS(x).
    """
    ratios = activation_ratios(hidden).median(dim=1).values
    stands_out = (ratios > tau).float().mean(0) > MOST_LAYERS
    strength = ratios.median(dim=0).values
    dims = sorted(stands_out.nonzero()[:, 0].tolist(), key=lambda k: -float(strength[k]))
    rest = ratios[:, ~stands_out]
    return SinkDims(
        dims=tuple(dims),
        tau=tau,
        layers=layers,
        ratios={k: tuple(round(float(r), 2) for r in ratios[:, k]) for k in dims},
        runner_up=round(float(rest.max()), 2) if rest.numel() else 0.0,
        n_prompts=hidden.shape[1],
    )


def first_tokens(hidden: Tensor, valid: Tensor) -> Tensor:
    """(B, d) hidden state of the first valid token of each sample; hidden (B, Q, d), valid (B, Q)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), first_token(valid)]
