"""Attention by kernels on a GPU: plain, and with edits that treat whole groups of keys alike.

Each key has a code: the number of its group, or `PAD`. A group's factor scales its keys' weights after the softmax, its
gain edits their scores before it. Rows that no edit may reach have all their keys in a group of their own.
"""

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkbench.engine.context import Context
from sinkbench.engine.keys import LayerKeys

if TYPE_CHECKING:
    from sinkbench.methods.base import Intervention

PAD = 255
"""Code of a slot that holds no key."""


def has_kernels(query: Tensor) -> bool:
    """Whether kernels can run on this tensor's device."""
    return query.is_cuda and _triton_works()


@cache
def _triton_works() -> bool:
    try:
        import triton  # type: ignore[import-untyped]
    except ImportError:
        return False
    return bool(triton.__version__)


def plain_suffix(query: Tensor, keys: LayerKeys, ctx: Context, scaling: float) -> Tensor:
    """Attention (B, H, Q, d) of the last Q own slots, under the pass's mask."""
    from sinkbench.engine.kernels import suffix_attention

    return suffix_attention(query, keys, ctx.codes, keys.own_k.shape[2], scaling)


def grouped_suffix(
    query: Tensor, keys: LayerKeys, method: "Intervention", layer: int, ctx: Context, scaling: float
) -> Tensor:
    """The same with a method's factors for its key groups, in every row."""
    from sinkbench.engine.kernels import suffix_attention, suffix_mass

    codes, n_groups = _codes(method, layer, ctx)
    length = keys.own_k.shape[2]
    factors = None
    if method.scales_groups:
        mass = suffix_mass(query, keys, codes, length, scaling, n_groups)
        factors = _factors(method, layer, mass, ctx)
    return suffix_attention(query, keys, codes, length, scaling, factors)


class GroupedDecode:
    """Decode passes of a batch: key groups are worked out once, lengths are read on the device.

    Args:
        method: The method; its group edits are applied where it names rows.
        final: A context whose roles are those of the last decode pass.
        length: (1,) int32 on the device, filled own slots of the pass in flight.
    """

    def __init__(self, method: "Intervention", final: Context, length: Tensor) -> None:
        self.method = method
        self.final = final
        self.length = length
        self._groups: dict[int, tuple[Tensor, int, Tensor | None]] = {}

    def attend(self, layer: int, query: Tensor, keys: LayerKeys, ctx: Context, scaling: float, plain: bool) -> Tensor:
        """Attention (B, H, 1, d) of a decode row, `plain` or with the method's group edits."""
        from sinkbench.engine.kernels import combine, decode_partials, merge

        if plain:
            partials = decode_partials(query, keys, self.final.codes, self.length, scaling)
            return combine(partials, None)
        if layer not in self._groups:
            self._groups[layer] = self._prepare(layer)
        codes, n_groups, gains = self._groups[layer]
        partials = decode_partials(query, keys, codes, self.length, scaling, n_groups, gains)
        factors = _factors(self.method, layer, merge(partials), ctx) if self.method.scales_groups else None
        return combine(partials, factors)

    def _prepare(self, layer: int) -> tuple[Tensor, int, Tensor | None]:
        """Codes, number of groups, and gains of the groups."""
        codes, n_groups = _codes(self.method, layer, self.final)
        gains = self.method.score_gains(layer)
        if not gains:
            return codes, n_groups, None
        filled = [*gains, *[0.0] * (n_groups - len(gains))]
        return codes, n_groups, torch.tensor(filled, device=codes.device)


def _codes(method: "Intervention", layer: int, ctx: Context) -> tuple[Tensor, int]:
    """(B, K) uint8 codes of the method's groups, and how many groups there are, the untouched rows' included."""
    codes = method.key_groups(layer, ctx)
    n_groups = method.n_groups
    if ctx.untouched is not None:
        codes = codes.masked_fill(ctx.untouched[:, None], n_groups)
        n_groups += 1
    return codes.masked_fill(~ctx.is_valid, PAD).to(torch.uint8), n_groups


def _factors(method: "Intervention", layer: int, mass: Tensor, ctx: Context) -> Tensor:
    """Factors (B, H, R, G) of all groups; 1 for that of the untouched rows."""
    factors = method.scale_groups(layer, mass[..., : method.n_groups], ctx)
    if ctx.untouched is None:
        return factors
    return torch.cat((factors, torch.ones_like(factors[..., :1])), dim=-1)
