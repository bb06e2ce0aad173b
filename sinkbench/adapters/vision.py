"""Attention weights of a vision encoder's layers, read through transformers' attention interface.

The encoder computes with its fused kernel as always; beside it, the weights of the layers that are asked for are
computed explicitly from the same queries and keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "sinkbench_vision"
"""The recorder's name among transformers' attention implementations."""

_recording: ContextVar[Mapping[nn.Module, list[Tensor]]] = ContextVar("sinkbench_recording")


@contextmanager
def recorded_attention(modules: Sequence[nn.Module]) -> Iterator[Mapping[nn.Module, list[Tensor]]]:
    """Record the weights of attention modules while the encoder runs; afterwards the encoder is as it was found.

    Args:
        modules: The attention modules of one layer or more of one encoder.

    Yields:
        For each module a list that receives (B, H, N, N) float32 post-softmax weights at each call of it.
    """
    config: Any = modules[0].config
    before = config._attn_implementation
    weights: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
    token = _recording.set(weights)
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
    """Fused attention of every layer; of the recorded ones the weights are kept as well."""
    if attention_mask is not None:
        raise RuntimeError("the recorder of vision attention knows no masks")
    if (weights := _recording.get().get(module)) is not None:
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
