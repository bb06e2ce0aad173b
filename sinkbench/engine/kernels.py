"""Attention over a shared prefix and a sample's own keys: fused Triton kernels for suffix prefill and for decode.

Both take the keys where they lie (no copy of a shared prefix), see padding by key codes instead of a mask, and can
scale the weights of whole key groups after the softmax:

    out = Σ_k p_k · factor[code_k] · v_k,  p = softmax over the visible keys

The prefill kernel needs the factors beforehand, and `suffix_mass` gives what they depend on, each group's attention
mass. Decode keeps a sum and a partial output for every group, so that one pass over the keys serves both: `merge` tells
the mass, `combine` applies the factors. Splitting the keys and merging by log-sum-exp is Flash-Decoding (Dao et al.,
2023); the online softmax is that of FlashAttention (arXiv 2205.14135).

Nothing here reads a tensor on the host, so every call can be captured in a CUDA graph. Strides are free apart from the
last; where they are multiples of 16 elements, as with the usual head dimensions, loads are 16 bytes wide.
"""

from dataclasses import dataclass
from functools import cache
from math import e, log2
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sinkbench.engine.keys import LayerKeys

PAD = 255
"""Code of a slot that is not a key."""

MAX_GROUPS = 16
"""Key groups that the kernels can tell apart."""

LOG2_E = log2(e)


class Tile(NamedTuple):
    """Launch parameters: query rows and keys of a tile, warps of a program, depth of the load pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


SUFFIX_TILES = {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 2)}
"""By element size in bytes. With 64 rows Hopper's matrix unit runs at full rate; two programs fit a multiprocessor."""

DECODE_TILES = {2: Tile(16, 64, 4, 2), 4: Tile(16, 32, 4, 2)}
"""By element size in bytes. Rows are a minimum: heads of a KV head times groups need more at times."""

PROGRAMS_PER_SM = 16
"""Decode splits the keys until there are this many programs, about five rounds of the three that fit at a time."""

MAX_SPLITS = 64


@dataclass(frozen=True, eq=False)
class Partials:
    """What `decode_partials` leaves: softmax state by split of the keys and key group.

    Attributes:
        maximum: (B, H, S, NG) float32, the largest score times log2(e); a large negative number where there is no key.
        sum: (B, H, S, NG) float32, Σ 2^(score − maximum).
        out: (B, H, S, NG, d) float32, Σ 2^(score − maximum) · v.
        dtype: Of the query, and so of the output.
    """

    maximum: Tensor
    sum: Tensor
    out: Tensor
    dtype: torch.dtype


def suffix_attention(
    query: Tensor, keys: LayerKeys, codes: Tensor, own_length: int, scaling: float, factors: Tensor | None = None
) -> Tensor:
    """Attention of the last Q own slots of every sample.

    Row i sits at own slot own_length − Q + i. It sees the prefix slots and the own slots up to its own whose code is
    not `PAD`, and always its own slot.

    Args:
        query: (B, H, Q, d), last stride 1.
        keys: The layer's keys, this pass's included.
        codes: (B, ≥ P + own_length) uint8, group of each slot or `PAD`; slot P + j is own slot j.
        own_length: Filled own slots.
        scaling: Factor of the scores, positive.
        factors: (B, H, Q, NG) float32, multiplied onto the weights of each group after the softmax. A padding row's
            own slot counts to group 0.

    Returns:
        (B, H, Q, d), a view of memory in the order (B, Q, H, d).
    """
    b, h, q, d = query.shape
    result = query.new_empty(b, q, h, d)
    _launch_suffix(query, keys, codes, own_length, scaling, factors, result, n_groups=0)
    return result.transpose(1, 2)


def suffix_mass(
    query: Tensor, keys: LayerKeys, codes: Tensor, own_length: int, scaling: float, n_groups: int
) -> Tensor:
    """Attention mass of each key group, under the visibility of `suffix_attention`.

    Args:
        query: (B, H, Q, d), last stride 1.
        keys: The layer's keys.
        codes: (B, ≥ P + own_length) uint8.
        own_length: Filled own slots.
        scaling: Factor of the scores, positive.
        n_groups: NG, at most 16.

    Returns:
        (B, H, Q, NG) float32, summing to 1 over the groups. A padding row's own slot counts to group 0.
    """
    b, h, q, _d = query.shape
    result = query.new_empty(b, h, q, n_groups, dtype=torch.float32)
    _launch_suffix(query, keys, codes, own_length, scaling, None, result, n_groups)
    return result


def _launch_suffix(
    query: Tensor,
    keys: LayerKeys,
    codes: Tensor,
    own_length: int,
    scaling: float,
    factors: Tensor | None,
    result: Tensor,
    n_groups: int,
) -> None:
    """Run the prefill kernel into `result`: attention (B, Q, H, d), or mass (B, H, Q, NG) if `n_groups` is not 0."""
    from sinkbench.engine import triton_kernels

    b, h, q, d = query.shape
    tile = SUFFIX_TILES[query.element_size()]
    share = h // keys.own_k.shape[1]
    rows = b * q * share
    width = padded_width(d)
    if factors is not None:
        factors, n_groups = factors.contiguous(), factors.shape[-1]
    mass = factors is None and n_groups > 0
    check_layout(query, codes, n_groups)
    tensors, strides = _arguments(keys)
    triton_kernels.suffix_kernel[(ceil_div(rows, tile.rows), keys.own_k.shape[1])](
        query,
        *tensors,
        codes,
        query if factors is None else factors,
        result,
        scaling * LOG2_E,
        rows,
        q,
        own_length,
        keys.n_prefix,
        *query.stride()[:3],
        *strides,
        codes.stride(0),
        PREFIX=keys.n_prefix > 0,
        SHARE=share,
        MEMBERS=2 if 2 * q * share >= tile.rows else 4,
        MASS=mass,
        FACTORS=factors is not None,
        GROUPS=n_groups,
        WIDTH=MAX_GROUPS if mass else width,
        ROWS=tile.rows,
        KEYS=tile.keys,
        D=width,
        HEAD_DIM=d,
        **launch_options(query, tile),
    )


def decode_partials(
    query: Tensor,
    keys: LayerKeys,
    codes: Tensor,
    own_length: Tensor,
    scaling: float,
    n_groups: int = 1,
    gains: Tensor | None = None,
) -> Partials:
    """First half of the attention of one query row per sample that sees all keys.

    The grid depends on shapes only. The filled slots, as counted on the device, are dealt out evenly.

    Args:
        query: (B, H, 1, d), last stride 1.
        keys: The layer's keys, the row's own included.
        codes: (B, P + C) uint8, group of each slot in [0, NG), or `PAD`: not seen.
        own_length: (1,) int32 on the device, filled own slots.
        scaling: Factor of the scores, positive.
        n_groups: NG, at most 16.
        gains: (NG,) float32: scaled scores s become s + gain · |s| before the softmax (PAI, arXiv 2407.21771).

    Returns:
        Input of `merge` and `combine`.
    """
    from sinkbench.engine import triton_kernels

    b, h, _q, d = query.shape
    kv_heads, capacity = keys.own_k.shape[1], keys.n_prefix + keys.own_k.shape[2]
    share = h // kv_heads
    tile = DECODE_TILES[query.element_size()]
    splits = n_splits(b * kv_heads, capacity, query.device)
    check_layout(query, codes, n_groups)
    tensors, strides = _arguments(keys)
    state = (b, h, splits, n_groups)
    maximum, total, out = (query.new_empty(shape, dtype=torch.float32) for shape in (state, state, (*state, d)))
    triton_kernels.decode_kernel[(splits, kv_heads, b)](
        query,
        *tensors,
        codes,
        own_length,
        maximum if gains is None else gains,
        maximum,
        total,
        out,
        scaling * LOG2_E,
        keys.n_prefix,
        *query.stride()[:2],
        *strides,
        codes.stride(0),
        PREFIX=keys.n_prefix > 0,
        SHARE=share,
        GROUPS=n_groups,
        GAINS=gains is not None,
        ROWS=max(tile.rows, _power_of_two(share * n_groups)),
        KEYS=tile.keys,
        D=padded_width(d),
        HEAD_DIM=d,
        **launch_options(query, tile),
    )
    return Partials(maximum, total, out, query.dtype)


def merge(partials: Partials) -> Tensor:
    """Attention mass of each key group.

    Args:
        partials: Of one decode row per sample.

    Returns:
        (B, H, 1, NG) float32, summing to 1 over the groups; zero for a sample without any key.
    """
    from sinkbench.engine import triton_kernels

    b, h, splits, n_groups = partials.maximum.shape
    mass = partials.sum.new_empty(b, h, 1, n_groups)
    triton_kernels.merge_kernel[(b * h,)](
        partials.maximum,
        partials.sum,
        mass,
        splits,
        GROUPS=n_groups,
        S=_power_of_two(splits),
        G=_power_of_two(n_groups),
        num_warps=1,
    )
    return mass


def combine(partials: Partials, factors: Tensor | None = None) -> Tensor:
    """Second half of the attention of a decode row: Σ_g factor_g · O_g / Σ_g l_g over all splits.

    Args:
        partials: Of one decode row per sample.
        factors: (B, H, 1, NG) float32, or None: all 1.

    Returns:
        (B, H, 1, d) in the query's type; zero for a sample without any key.
    """
    from sinkbench.engine import triton_kernels

    b, h, splits, n_groups, d = partials.out.shape
    result = partials.out.new_empty(b, h, 1, d, dtype=partials.dtype)
    parts = splits * n_groups
    triton_kernels.combine_kernel[(b * h,)](
        partials.maximum,
        partials.sum,
        partials.out,
        partials.sum if factors is None else factors.contiguous(),
        result,
        parts,
        GROUPS=n_groups,
        FACTORS=factors is not None,
        ALL=_power_of_two(parts),
        STEP=min(16, _power_of_two(parts)),
        D=padded_width(d),
        HEAD_DIM=d,
        num_warps=4,
    )
    return result


def n_splits(pairs: int, capacity: int, device: torch.device) -> int:
    """In how many parts decode splits the keys: as many programs as keep the device busy, each with 64 slots or more.

    Args:
        pairs: Samples times KV heads.
        capacity: Slots per sample, P + C.
        device: Where it runs.
    """
    wanted = PROGRAMS_PER_SM * _multiprocessors(device) // pairs
    return max(1, min(wanted, ceil_div(capacity, 64), MAX_SPLITS))


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _arguments(keys: LayerKeys) -> tuple[list[Tensor], list[int]]:
    """Keys, values and prefix rows as the kernels take them, and the strides of prefixes and of own slots.

    Raises:
        ValueError: Keys and values differ in their strides.
    """
    own = (keys.own_k, keys.own_v)
    prefix, group = own, keys.own_k  # never read without a prefix
    if keys.prefix_k is not None and keys.prefix_v is not None and keys.grouping is not None:
        prefix, group = (keys.prefix_k, keys.prefix_v), keys.grouping.group
    for k, v in (prefix, own):
        if k.stride() != v.stride() or k.stride(-1) != 1:
            raise ValueError(f"keys and values need equal strides ending in 1, got {k.stride()} and {v.stride()}")
    return [*prefix, *own, group], [*prefix[0].stride()[:3], *own[0].stride()[:3]]


def launch_options(query: Tensor, tile: Tile) -> dict[str, Any]:
    """Precision of products, warps and pipeline depth, as keywords of a launch."""
    # Triton's default for float32 is tf32, of ten bits.
    precision = "ieee" if query.dtype == torch.float32 else "tf32"
    return {"PRECISION": precision, "num_warps": tile.warps, "num_stages": tile.stages}


def check_layout(query: Tensor, codes: Tensor, n_groups: int = 1) -> None:
    """Refuse what the kernels cannot read.

    Raises:
        ValueError: A last stride is not 1, or there are too many groups.
    """
    if query.stride(-1) != 1 or codes.stride(-1) != 1:
        raise ValueError(f"query and codes need a last stride of 1, got {query.stride()} and {codes.stride()}")
    if n_groups > MAX_GROUPS:
        raise ValueError(f"{n_groups} key groups, at most {MAX_GROUPS}")


def padded_width(head_dim: int) -> int:
    """Head dimension of a tile: a power of two, and 16 at least for the matrix unit."""
    return max(16, _power_of_two(head_dim))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def ceil_div(n: int, step: int) -> int:
    """Divide and round up."""
    return -(-n // step)
