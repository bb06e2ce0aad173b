"""The KV cache: allocated once per batch, written in place, re-indexed when samples fork or finish."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache

from sinkbench.engine.keys import Grouping, LayerKeys


class SlotCache(Cache):
    """Keys and values of every layer in preallocated slots.

    It stands where transformers expects a `Cache`; attention modules call `update` and get views of the filled slots.
    Layers fill their slots independently. A cache may continue the slots of another one, which it reads and never
    writes: its samples share that one's rows.

    Args:
        samples: B.
        capacity: Slots per sample and layer.
        prefix: The cache that this one continues, if any.
        groups: (B,) which sample of `prefix` each sample continues, -1 for none.
    """

    def __init__(
        self, samples: int, capacity: int, prefix: "SlotCache | None" = None, groups: Sequence[int] = ()
    ) -> None:
        self.samples = samples
        self.capacity = capacity
        self.prefix = prefix
        self.groups = list(groups)
        self.grouping: Grouping | None = None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.lengths: dict[int, int] = {}
        self.cursor: Tensor | None = None
        """(1,) int64 on the device, the next slot, while decode passes take it from there and not from `lengths`."""
        self.rows = slice(0, samples)
        """The samples of the pass in flight."""
        self.shows_prefix = True
        """Whether the prefix's slots stand before the own ones in the pass in flight."""
        self.first = 0
        self.shifts: dict[int, int] = {}
        """By layer: how many slots fewer it has, on the left, because its prompts are shorter."""
        self.layers: list[Any] = []  # transformers looks here for layers of its own.

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write (b, H_kv, Q, d) keys and values into the next slots of a layer.

        Returns:
            Views (b, H_kv, K, d) of the filled slots of the pass's samples, or of all slots under a `cursor`.

        Raises:
            RuntimeError: The slots are used up.
        """
        if layer_idx not in self.keys:
            # Zeros, because a slot's weight is 0 before it is filled, and 0 times garbage can be NaN.
            for store, states in ((self.keys, key_states), (self.values, value_states)):
                h, d = states.shape[1], states.shape[3]
                slots = self.capacity - self.shifts.get(layer_idx, 0)
                store[layer_idx] = states.new_zeros(self.samples, h, slots, d)
            self.lengths[layer_idx] = self.first
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if self.cursor is not None:
            slot = self.cursor - self.shifts.get(layer_idx, 0)
            keys.index_copy_(2, slot, key_states)
            values.index_copy_(2, slot, value_states)
            return keys, values
        start = self.lengths[layer_idx]
        end = start + key_states.shape[2]
        if end > keys.shape[2]:
            raise RuntimeError(f"KV cache of {keys.shape[2]} slots is full at layer {layer_idx} ({end} needed)")
        keys[self.rows, :, start:end] = key_states
        values[self.rows, :, start:end] = value_states
        self.lengths[layer_idx] = end
        return keys[self.rows, :, :end], values[self.rows, :, :end]

    def newest(self, layer_idx: int, n: int) -> tuple[Tensor, Tensor]:
        """The keys and values (b, H_kv, n, d) that the pass in flight has just written."""
        both = (self.keys[layer_idx][self.rows], self.values[layer_idx][self.rows])
        if self.cursor is not None:
            slot = self.cursor - self.shifts.get(layer_idx, 0)
            keys, values = (stored.index_select(2, slot) for stored in both)
        else:
            end = self.lengths[layer_idx]
            keys, values = (stored[:, :, end - n : end] for stored in both)
        return keys, values

    def layer(self, layer_idx: int, own_k: Tensor, own_v: Tensor) -> LayerKeys:
        """A layer's keys in both parts; `own_k` and `own_v` are what `update` returned."""
        if self.prefix is None or not self.shows_prefix:
            return LayerKeys(own_k, own_v)
        if self.grouping is None:
            self.grouping = Grouping.of(self.groups[self.rows], self.prefix.samples, own_k.device)
        return LayerKeys(own_k, own_v, self.prefix.keys[layer_idx], self.prefix.values[layer_idx], self.grouping)

    def start_rows(self, rows: slice, first: int = 0, shows_prefix: bool = True) -> None:
        """Let the coming passes fill the slots of these samples, from slot `first` on."""
        self.rows = rows
        self.shows_prefix = shows_prefix
        self.first = first
        self.lengths = dict.fromkeys(self.lengths, first)
        self.grouping = None

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        """Filled slots of a layer."""
        return self.lengths.get(layer_idx, 0)

    def get_max_cache_shape(self, *_: Any) -> int:
        """Slots of a layer."""
        return self.capacity

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Key length of the coming pass and its offset; transformers asks even where the seam needs no mask."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def select(self, index: Tensor) -> None:
        """Keep the samples `index` (N,) only, in that order; an index may repeat. Layer by layer, to spare memory."""
        for store in (self.keys, self.values):
            for layer, old in store.items():
                store[layer] = old.index_select(0, index)
        chosen = index.tolist()
        self.samples = len(chosen)
        self.rows = slice(0, self.samples)
        if self.prefix is not None:
            self.groups = [self.groups[sample] for sample in chosen]
            self.grouping = None

    def reorder(self, index: Tensor, slots: slice) -> None:
        """Copy these slots from the samples `index` (B,), of which each has all other slots in common with its copy."""
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                shift = self.shifts.get(layer, 0)
                own = tensor[:, :, slots.start - shift : slots.stop - shift]
                own.copy_(own.index_select(0, index))

    def grow(self, slots: int) -> None:
        """Add so many slots to every layer, behind those that are there; layer by layer, to spare memory."""
        self.capacity += slots
        for store in (self.keys, self.values):
            for layer, old in store.items():
                store[layer] = F.pad(old, (0, 0, 0, slots))

    def bytes_per_token(self) -> int:
        """Bytes that one token of one sample takes over all layers."""
        return sum(2 * keys.shape[1] * keys.shape[3] * keys.element_size() for keys in self.keys.values())

    def nbytes(self) -> int:
        """Bytes allocated, a continued cache's not counted."""
        return sum(store.nbytes for stores in (self.keys, self.values) for store in stores.values())


def kv_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of a token's keys and values over all layers, from a language model's configuration."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head * dtype.itemsize)
