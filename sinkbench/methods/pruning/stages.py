"""What methods share that drop image tokens in stages: after which layers, and by which rows of the prompt."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt

DEPTH = 32
"""Layers of LLaVA-1.5-7B's language model, for which papers name theirs."""


def scaled_layers(published: tuple[int, ...], n_layers: int, lowest: int = 0) -> tuple[int, ...]:
    """Rising layers at the same depth in a shallower model, each later than the one before; deeper models keep them.

    Args:
        published: Of a model with `DEPTH` layers, rising.
        n_layers: Of the model at hand. One with hardly more layers than stages may lack the last of the result.
        lowest: The first of the result is no lower.
    """
    layers: list[int] = []
    for layer in published:
        least = layers[-1] + 1 if layers else lowest
        layers.append(max(least, round(layer * min(1.0, n_layers / DEPTH))))
    return tuple(layers)


def even_layers(stages: int, n_layers: int) -> tuple[int, ...]:
    """Where so many stages are that cut the layers into equal stretches: 8, 16 and 24 of 32."""
    return tuple(n_layers * (stage + 1) // (stages + 1) for stage in range(stages))


def after_images(prompt: "Prompt") -> Tensor:
    """(L,) bool: tokens behind the last image, its separators included with it; none where there is no image.

    With several images, what stands between them is left out: it does not see them all [ours].
    """
    places = torch.arange(len(prompt))
    return places >= (prompt.prefix_length or len(prompt))
