"""Attention weights and keys of a vision encoder's layers, read through transformers' attention interface.

The encoder computes with its fused kernel as always; beside it, the weights of the layers that are asked for are
computed explicitly from the same queries and keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from sinkbench.adapters.base import ImageFeatures

NAME = "sinkbench_vision"
"""The recorder's name among transformers' attention implementations."""


@dataclass(frozen=True, eq=False)
class EncoderLayer:
    """What was seen of a layer: of an image, or of one call of its attention module.

    Attributes:
        weights: (V, H, N, N) float32 post-softmax weights of V views.
        keys: (V, N, d) float32, mean over heads, as the layer uses them: projected, and rotated where it has RoPE.
    """

    weights: Tensor
    keys: Tensor


@dataclass(frozen=True, eq=False)
class EncoderPass:
    """What was seen of the encoder's pass over an image.

    Attributes:
        layers: The layers that were asked for.
        features: What the language model would read.
        states: (N, D) what stands before the projector, class tokens first; None where the features are not these
            states, each by itself, through the projector.
    """

    layers: tuple[EncoderLayer, ...]
    features: "ImageFeatures"
    states: Tensor | None = None


_recording: ContextVar[Mapping[nn.Module, list[EncoderLayer]]] = ContextVar("sinkbench_recording")


@contextmanager
def recorded_attention(modules: Sequence[nn.Module]) -> Iterator[Mapping[nn.Module, list[EncoderLayer]]]:
    """Record weights and keys of attention modules while the encoder runs; afterwards the encoder is as it was found.

    Args:
        modules: The attention modules of one layer or more of one encoder.

    Yields:
        For each module a list that receives what is seen of it at each call.
    """
    config: Any = modules[0].config
    before = config._attn_implementation
    seen: dict[nn.Module, list[EncoderLayer]] = {module: [] for module in modules}
    token = _recording.set(seen)
    config._attn_implementation = NAME
    try:
        yield seen
    finally:
        config._attn_implementation = before
        _recording.reset(token)


@contextmanager
def recorded_output(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """Record what a module returns at each call of it; of no module, nothing.

    Yields:
        A list that receives the outputs.
    """
    outputs: list[Tensor] = []
    if module is None:
        yield outputs
        return
    handle = module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _recorder(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Fused attention of every layer; of the recorded ones weights and keys are kept as well."""
    if attention_mask is not None:
        raise RuntimeError("the recorder of vision attention knows no masks")
    if (seen := _recording.get().get(module)) is not None:
        weights = (query.float() @ key.float().transpose(-1, -2) * scaling).softmax(-1)
        seen.append(EncoderLayer(weights, key.float().mean(1)))
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
