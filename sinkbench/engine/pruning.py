"""Passes in which prompts grow shorter from layer to layer, as a method that drops image tokens wants it.

A method names layers at whose entry it drops. From there on hidden states, rotary positions, roles and the cache hold
what it keeps and nothing else, so that later layers cost less, and the decode passes too. Samples of a batch may keep
different numbers: the shorter ones are padded on the left.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sinkbench.adapters.base import Adapter
from sinkbench.engine.attention import Pass, peek
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, Role, Stage, State
from sinkbench.engine.grouped import GroupedDecode
from sinkbench.engine.keys import LayerKeys, received

if TYPE_CHECKING:
    from sinkbench.methods.base import Intervention

Embeddings = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary embedding, (…, B, Q, d)."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What goes on into a layer.

    Attributes:
        index: (B, n) int64, for each token that goes on the slot that it had, in the order in which they go on; −1 for
            padding, which stands on the left.
        ragged: Whether there may be padding in `index` that was none before.
        hidden: (B, n, d), where some are no longer what stood in their slots (merged tokens); otherwise None.
    """

    index: Tensor
    ragged: bool
    hidden: Tensor | None = None

    @classmethod
    def of(cls, keep: Tensor) -> "Kept":
        """Keep the tokens (B, Q) bool, in their order."""
        index, ragged = _right_aligned(torch.where(keep, torch.arange(keep.shape[1], device=keep.device), -1))
        return cls(index, ragged)

    @classmethod
    def merging(cls, keep: Tensor, entry: "Entry", merged: Tensor, at: Tensor, present: Tensor) -> "Kept":
        """The same, and merged tokens behind each sample's last image token.

        Args:
            keep: (B, Q) bool.
            entry: What the method was shown.
            merged: (B, C, d_model) the merged tokens.
            at: (B, C) int64, slots whose roles they take over, and whose positions where these are kept.
            present: (B, C) bool; the others do not exist.
        """
        slots = torch.arange(keep.shape[1], device=keep.device)
        last = torch.where(entry.ctx.is_image, slots, -1).amax(1, keepdim=True)
        within = torch.arange(1, merged.shape[1] + 1, device=keep.device).double() / (merged.shape[1] + 1)
        order = torch.cat((torch.where(keep, slots.double(), -1.0), torch.where(present, last + within, -1.0)), dim=1)
        source, ragged = _right_aligned(order)
        known = torch.cat((slots.expand(len(keep), -1), at), dim=1)
        index = known.gather(1, source.clamp_min(0)).masked_fill(source < 0, -1)
        return cls(index, ragged, gather(torch.cat((entry.hidden, merged.to(entry.hidden.dtype)), dim=1), source))


def _right_aligned(order: Tensor) -> tuple[Tensor, bool]:
    """Places (B, n) of the numbers (B, Q) that are not negative, in ascending order, −1 on the left of shorter rows.

    And whether some row is shorter than others.
    """
    counts = (order >= 0).sum(1)
    fewest, longest = torch.stack((counts.min(), counts.max())).tolist()
    places = order.argsort(dim=1, stable=True)[:, -longest:]
    padding = torch.arange(longest, device=order.device) < (longest - counts)[:, None]
    return places.masked_fill(padding, -1), fewest < longest


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (B, Q, …) by slot (B, n); those of padding are the first row's."""
    slots = index.clamp_min(0)
    return values.gather(1, slots.view(*slots.shape, *[1] * (values.ndim - 2)).expand(*slots.shape, *values.shape[2:]))


@dataclass(frozen=True, eq=False)
class Entry:
    """What a method sees at the entry of a layer where it may drop tokens.

    Attributes:
        layer: 0-based layer.
        hidden: (B, Q, d_model) its input.
        ctx: The pass, as the layer before had it; Q = K.
        module: The decoder layer.
        embeddings: Rotary embeddings of the tokens.
    """

    layer: int
    hidden: Tensor
    ctx: Context
    module: nn.Module
    embeddings: Embeddings

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor, float]:
        normed = self.module.input_layernorm(self.hidden)  # type: ignore[operator]
        return peek(self.module.self_attn, normed, self.embeddings)  # type: ignore[arg-type]

    @property
    def keys(self) -> Tensor:
        """(B, H_kv, Q, d): the layer's own keys of these tokens, RoPE applied."""
        return self._projected[1]

    def received(self, rows: Tensor) -> Tensor:
        """Attention of the coming layer, summed over some query rows: (B, H, Q) float32 for each key.

        Args:
            rows: (B, Q) bool.
        """
        query, key, scaling = self._projected
        return received(query, LayerKeys(key, key), rows, self.ctx, scaling)


@dataclass(eq=False)
class Group:
    """Layers that hold the same tokens.

    Attributes:
        first: The first of these layers; they end where the next group begins.
        shift: Slots that they lack on the left, compared with the whole prompt.
        roles: (B, C) uint8 role of each slot, those of generated tokens included.
        behind: (B,) int64, how far their positions lag behind the prompt's; None where tokens keep their numbers.
        padded: Whether any slot may be padding.
        decode: Prepared key groups of decode passes, where these have fixed shapes.
        length: (1,) int32, filled slots, likewise.
    """

    first: int
    shift: int
    roles: Tensor
    behind: Tensor | None
    padded: bool
    decode: GroupedDecode | None = None
    length: Tensor | None = None


class Pruning:
    """The groups of layers of one batch.

    Args:
        adapter: The model.
        method: Says which tokens are kept.
        cache: Of the batch; it is told which layers lack slots.
        room: Slots for generated tokens.
    """

    def __init__(self, adapter: Adapter, method: "Intervention", cache: SlotCache, room: int) -> None:
        self.adapter = adapter
        self.method = method
        self.cache = cache
        self.room = room
        self.groups: list[Group] = []
        self.counts: list[tuple[int, Tensor]] = []
        """After the prefill: from which layer on each sample has how many image tokens (B,)."""

    @contextmanager
    def dropping(self, active: Pass, positions: Tensor) -> Iterator[None]:
        """Within it, the pass over the prompts drops what the method drops.

        Args:
            active: The pass.
            positions: (P, B, Q) of the whole prompts.
        """
        ctx = active.context
        self.groups = []
        self.counts = [(0, (ctx.roles == Role.IMAGE).sum(1))]
        state = _Layout(positions, torch.arange(ctx.n_keys, device=positions.device).expand(len(ctx.roles), -1))

        def enter(layer: int, module: nn.Module, hidden: Tensor, embeddings: Embeddings) -> tuple[Tensor, Embeddings]:
            if layer in self.method.prunes_at:
                ctx = active.context
                entry = Entry(layer, hidden, ctx, module, state.embeddings or embeddings)
                kept = self.method.keep_tokens(entry, ctx)
                if kept is not None:
                    hidden = self._drop(kept, entry, active, state)
            return hidden, state.embeddings or embeddings

        with self._entering(enter, min(self.method.prunes_at)), self._deeper_features(state):
            yield

    @contextmanager
    def going_on(self, active: Pass, positions: Tensor) -> Iterator[None]:
        """Within it, a decode pass sees in each layer what that layer holds.

        Args:
            active: The pass.
            positions: (P, B, 1) of the tokens in the whole prompts' numbers.
        """
        groups = {group.first: group for group in self.groups}
        method, whole = active.acting[0]
        own: Embeddings | None = None

        def enter(layer: int, _: nn.Module, hidden: Tensor, embeddings: Embeddings) -> tuple[Tensor, Embeddings]:
            nonlocal own
            if (group := groups.get(layer)) is not None:
                filled = group.roles.shape[1] if group.length is not None else whole.n_keys - group.shift
                roles = group.roles[:, :filled]
                ctx = replace(whole, roles=roles, padded=group.padded or group.length is not None)
                active.acting = ((method, ctx),)
                active.decode = group.decode if active.decode is not None else None
                own = None if group.behind is None else self._embeddings(hidden, positions[0] - group.behind[:, None])
            return hidden, own or embeddings

        if not groups:
            yield
            return
        with self._entering(enter, min(groups)):
            yield

    def mark_generated(self, slot: Tensor | int) -> None:
        """The next token fills a slot of the whole prompts' numbers; a tensor if decode passes count on the device."""
        for group in self.groups:
            if isinstance(slot, int):
                group.roles[:, slot - group.shift] = int(Role.GENERATED)
                continue
            group.roles.index_fill_(1, slot - group.shift, int(Role.GENERATED))
            assert group.length is not None
            group.length += 1

    def start_static(self, slot: int, state: State) -> None:
        """Let decode passes count on the device; the next one fills `slot`."""
        for group in self.groups:
            final = group.roles.clone()
            final[:, slot - group.shift :] = int(Role.GENERATED)
            group.length = torch.tensor([slot - group.shift], dtype=torch.int32, device=final.device)
            ctx = Context(Stage.DECODE, final, 1, state=state)
            group.decode = GroupedDecode(self.method, ctx, group.length)

    def select(self, index: Tensor) -> None:
        """Keep the samples `index` (N,) only."""
        for group in self.groups:
            group.roles = group.roles[index]
            group.behind = None if group.behind is None else group.behind[index]

    def tokens_by_layer(self) -> Tensor:
        """(B, L) int64: image tokens of each sample of the prefill in each layer."""
        n_layers = len(self.adapter.layers)
        ends = [first for first, _ in self.counts[1:]] + [n_layers]
        parts = [count[:, None].expand(-1, end - first) for (first, count), end in zip(self.counts, ends, strict=True)]
        return torch.cat(parts, dim=1)

    def _drop(self, kept: Kept, entry: Entry, active: Pass, state: "_Layout") -> Tensor:
        """Go on with what is kept; returns the layer's input (B, n, d)."""
        ctx, index = entry.ctx, kept.index
        roles = gather(ctx.roles, index).masked_fill(index < 0, int(Role.PAD))
        hidden = gather(entry.hidden, index) if kept.hidden is None else kept.hidden
        padded = ctx.padded or kept.ragged
        behind = None
        if self.method.reindexes and len(state.positions) == 1:
            valid = roles != Role.PAD
            numbers = (valid.cumsum(1) - 1).clamp_min(0)
            behind = ctx.is_valid.sum(1) - valid.sum(1)
            if self.groups and self.groups[-1].behind is not None:
                behind = behind + self.groups[-1].behind
            state.positions = numbers[None]
            state.embeddings = self._embeddings(hidden, numbers)
        else:
            cosines, sines = (_gather_positions(part, index) for part in entry.embeddings)
            state.embeddings = cosines, sines
            state.positions = torch.stack([axis.gather(1, index.clamp_min(0)) for axis in state.positions])
        state.origin = state.origin.gather(1, index.clamp_min(0))
        state.dropped = True
        shift = state.slots - roles.shape[1]
        for layer in range(entry.layer, len(self.adapter.layers)):
            self.cache.shifts[layer] = shift
        active.acting = ((self.method, replace(ctx, roles=roles, n_queries=roles.shape[1], padded=padded)),)
        self.groups.append(Group(entry.layer, shift, torch.nn.functional.pad(roles, (0, self.room)), behind, padded))
        self.counts.append((entry.layer, (roles == Role.IMAGE).sum(1)))
        return hidden

    def _embeddings(self, hidden: Tensor, positions: Tensor) -> Embeddings:
        """Of 1-D positions (B, Q)."""
        cosines, sines = self.adapter.language_model.rotary_emb(hidden, positions)
        return cosines, sines

    @contextmanager
    def _entering(
        self, enter: Callable[[int, nn.Module, Tensor, Embeddings], tuple[Tensor, Embeddings]], first: int
    ) -> Iterator[None]:
        """Within it, `enter` may change what the layers from `first` on are given."""

        def hook_of(layer: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
                hidden = args[0] if args else kwargs["hidden_states"]
                hidden, embeddings = enter(layer, module, hidden, kwargs["position_embeddings"])
                changed = (
                    {"position_embeddings": embeddings}
                    if args
                    else {"position_embeddings": embeddings, "hidden_states": hidden}
                )
                return (hidden, *args[1:]) if args else args, kwargs | changed

            return hook

        with ExitStack() as stack:
            for layer in range(first, len(self.adapter.layers)):
                handle = self.adapter.layers[layer].register_forward_pre_hook(hook_of(layer), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def _deeper_features(self, state: "_Layout") -> Iterator[None]:
        """Within it, features for deeper layers reach the tokens that are left (Qwen3-VL's deepstack)."""
        model = self.adapter.language_model
        plain = getattr(model, "_deepstack_process", None)
        if plain is None:
            yield
            return

        def add(hidden: Tensor, places: Tensor, features: Tensor) -> Tensor:
            if not state.dropped:
                return plain(hidden, places, features)  # type: ignore[no-any-return]
            spread = hidden.new_zeros(*places.shape, hidden.shape[-1])
            spread[places] = features.to(hidden)
            return hidden + gather(spread, state.origin)

        model._deepstack_process = add
        try:
            yield
        finally:
            del model._deepstack_process


@dataclass(eq=False)
class _Layout:
    """Where the tokens of a pass come from.

    Attributes:
        positions: (P, B, Q) of the tokens that are left.
        origin: (B, Q) slots that they had in the whole prompts.
        embeddings: Their rotary embeddings, once tokens have been dropped.
        dropped: Whether any have.
        slots: Of the whole prompts.
    """

    positions: Tensor
    origin: Tensor
    embeddings: Embeddings | None = None
    dropped: bool = False
    slots: int = 0

    def __post_init__(self) -> None:
        self.slots = self.origin.shape[1]


def _gather_positions(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (…, B, Q, d) by slot (B, n)."""
    slots = index.clamp_min(0)[..., None].expand(*values.shape[:-2], index.shape[1], values.shape[-1])
    return values.gather(-2, slots)
