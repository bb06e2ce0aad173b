"""The KV cache: allocated once per batch, written in place, re-indexed when samples fork or finish."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache


class SlotCache(Cache):
    """Keys and values of every layer in preallocated slots.

    It stands where transformers expects a `Cache`; attention modules call `update` and get views of the filled slots.

    Args:
        capacity: Slots per sample and layer.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.lengths: dict[int, int] = {}
        self.layers: list[Any] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H_kv, Q, d) keys and values into the next slots of a layer.

        Returns:
            Views (B, H_kv, K, d) of all filled slots.

        Raises:
            RuntimeError: The slots are used up.
        """
        b, h, q, _d = key_states.shape
        if layer_idx not in self.keys:
            self.keys[layer_idx] = key_states.new_empty(b, h, self.capacity, key_states.shape[-1])
            self.values[layer_idx] = value_states.new_empty(b, h, self.capacity, value_states.shape[-1])
            self.lengths[layer_idx] = 0
        start = self.lengths[layer_idx]
        end = start + q
        if end > self.capacity:
            raise RuntimeError(f"KV cache of {self.capacity} slots is full at layer {layer_idx} ({end} needed)")
        self.keys[layer_idx][:, :, start:end] = key_states
        self.values[layer_idx][:, :, start:end] = value_states
        self.lengths[layer_idx] = end
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        """Filled slots of a layer."""
        return self.lengths.get(layer_idx, 0)

    def get_max_cache_shape(self, *_: Any) -> int:
        """Slots of a layer."""
        return self.capacity

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Key length of the coming pass and its offset; transformers asks even where the seam needs no mask."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def select(self, index: Tensor, capacity: int | None = None) -> "SlotCache":
        """A cache of the samples `index` (N,), in that order; an index may repeat.

        Args:
            index: Which samples.
            capacity: Slots of the new cache; as many as now if None.
        """
        new = SlotCache(capacity or self.capacity)
        for layer, length in self.lengths.items():
            for old, target in ((self.keys[layer], new.keys), (self.values[layer], new.values)):
                _b, h, _k, d = old.shape
                target[layer] = old.new_empty(len(index), h, new.capacity, d)
                target[layer][:, :, :length] = old[:, :, :length].index_select(0, index)
            new.lengths[layer] = length
        return new

    def bytes_per_token(self) -> int:
        """Bytes that one token of one sample takes over all layers."""
        return sum(2 * keys.shape[1] * keys.shape[3] * keys.element_size() for keys in self.keys.values())
