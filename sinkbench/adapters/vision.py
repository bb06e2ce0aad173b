"""Attention weights of one layer of a vision encoder, read through transformers' attention interface.

The encoder computes with its fused kernel as always; beside it, the weights of the one layer that is asked for are
computed explicitly from the same queries and keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "sinkbench_vision"
"""The recorder's name among transformers' attention implementations."""

_recording: ContextVar[tuple[nn.Module, list[Tensor]]] = ContextVar("sinkbench_recording")


@contextmanager
def recorded_attention(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the weights of an attention module while the encoder runs; afterwards the encoder is as it was found.

    Args:
        module: The attention module of one layer.

    Yields:
        A list that receives (B, H, N, N) float32 post-softmax weights at each call of the module.
    """
    config: Any = module.config
    before = config._attn_implementation
    weights: list[Tensor] = []
    token = _recording.set((module, weights))
    config._attn_implementation = NAME
    try:
        yield weights
    finally:
        config._attn_implementation = before
        _recording.reset(token)


def _recorder(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Fused attention of every layer; of the recorded one the weights are kept as well."""
    if attention_mask is not None:
        raise RuntimeError("the recorder of vision attention knows no masks")
    wanted, weights = _recording.get()
    if module is wanted:
        weights.append((query.float() @ key.float().transpose(-1, -2) * scaling).softmax(-1))
    output, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, scaling=scaling, **kwargs)
    return output, None


def block_diagonal(blocks: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Put the blocks of packed images together.

    Args:
        blocks: (H, n, n) each, in the order of the packed sequence.
        sizes: How many rows of the sequence belong to each image; no block crosses from one to the next.

    Returns:
        (H, N, N) of each image, zero between blocks.
    """
    images, rest = [], iter(blocks)
    for size in sizes:
        image = blocks[0].new_zeros(blocks[0].shape[0], size, size)
        done = 0
        while done < size:
            block = next(rest)
            end = done + block.shape[-1]
            image[:, done:end, done:end] = block
            done = end
        images.append(image)
    return images


AttentionInterface.register(NAME, _recorder)
