"""Random inputs of the attention kernels and a plain float64 reference; for tests and for check_kernels.py."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.engine.kernels import PAD
from sinkbench.engine.keys import Grouping, LayerKeys


class Shape(NamedTuple):
    """Sizes of a case: B, G, H, H_kv, d, P, own_length, C, Q and NG, in the words of `LayerKeys`."""

    batch: int
    prefixes: int
    heads: int
    kv_heads: int
    head_dim: int
    prefix: int
    own: int
    capacity: int
    queries: int
    groups: int


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs of one call.

    Attributes:
        query: (B, H, Q, d).
        keys: Unwritten own slots hold NaN, and so do the keys of slots that nobody sees.
        codes: (B, P + C) uint8.
        own_length: Filled own slots.
        scaling: Factor of the scores.
        factors: (B, H, Q, NG) float32.
        gains: (NG,) float32.
    """

    query: Tensor
    keys: LayerKeys
    codes: Tensor
    own_length: int
    scaling: float
    factors: Tensor
    gains: Tensor

    @property
    def device_length(self) -> Tensor:
        """`own_length` as decode takes it."""
        return torch.tensor([self.own_length], dtype=torch.int32, device=self.query.device)


def make_case(shape: Shape, dtype: torch.dtype, device: str = "cpu", seed: int = 0, padded: bool = True) -> Case:
    """Random inputs.

    Args:
        shape: Sizes.
        dtype: Of query, keys and values.
        device: Where.
        seed: Of the generator.
        padded: Whether prefixes are ragged, suffixes left-padded and sample 0 without a prefix.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=torch.float32).to(dtype)

    b, h, kv, d, p, c = shape.batch, shape.heads, shape.kv_heads, shape.head_dim, shape.prefix, shape.capacity
    groups = [sample * max(shape.prefixes, 1) // b for sample in range(b)]
    group = torch.tensor(groups, device=device)
    codes = torch.randint(shape.groups, (b, p + c), generator=generator, device=device)
    if padded:
        sample, slot = torch.arange(b, device=device)[:, None], torch.arange(p + c, device=device)[None]
        codes = codes.masked_fill(slot < (7 * group[:, None] + 3) % (p // 2 + 1), PAD)
        codes = codes.masked_fill((slot >= p) & (slot - p < 3 * sample % max(shape.own // 2, 1)), PAD)
        if b > 1:
            codes[0, :p] = PAD
            groups[0] = -1
    own_k, own_v = normal(b, c, kv, d).transpose(1, 2), normal(b, c, kv, d).transpose(1, 2)
    own_k[:, :, shape.own :] = own_v[:, :, shape.own :] = torch.nan
    if shape.queries == 1:
        own_k.masked_fill_((codes[:, p:] == PAD)[:, None, :, None], torch.nan)
    keys = LayerKeys(own_k, own_v)
    if p:
        prefix_k, prefix_v = normal(shape.prefixes, kv, p, d), normal(shape.prefixes, kv, p, d)
        unseen = codes[:, :p] == PAD
        for g in range(shape.prefixes):
            prefix_k[g, :, unseen[group == g].all(0)] = torch.nan
        keys = LayerKeys(own_k, own_v, prefix_k, prefix_v, Grouping.of(groups, shape.prefixes, torch.device(device)))
    return Case(
        query=normal(b, shape.queries, h, d).transpose(1, 2),
        keys=keys,
        codes=codes.to(torch.uint8),
        own_length=shape.own,
        scaling=d**-0.5,
        factors=torch.rand(b, h, shape.queries, shape.groups, generator=generator, device=device) * 2,
        gains=torch.rand(shape.groups, generator=generator, device=device),
    )


def materialise(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values (B, H_kv, K, d), K = P + own_length, with a copy of the prefix each, and visibility (B, Q, K)."""
    keys, q = case.keys, case.query.shape[2]
    k, v = keys.own_k[:, :, : case.own_length], keys.own_v[:, :, : case.own_length]
    if keys.prefix_k is not None and keys.prefix_v is not None and keys.grouping is not None:
        group = keys.grouping.group.long()
        k, v = torch.cat((keys.prefix_k[group], k), dim=2), torch.cat((keys.prefix_v[group], v), dim=2)
    slot = torch.arange(k.shape[2], device=k.device)
    row_slot = slot[-q:, None]
    valid = case.codes[:, None, : k.shape[2]] != PAD
    return k, v, (valid & (slot <= row_slot)) | (slot == row_slot)


def reference(case: Case, factors: Tensor | None = None, gains: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Output (B, H, Q, d) and mass by group (B, H, Q, NG), float64, by explicit weights."""
    _, v, visible = materialise(case)
    v = v.double().repeat_interleave(case.query.shape[1] // v.shape[1], dim=1)
    codes = case.codes[:, : v.shape[2]].long()
    index = codes.masked_fill(codes == PAD, 0)[:, None, None, :]
    scores = _scores(case)
    if gains is not None:
        scores = scores + gains.double()[index] * scores.abs()
    weights = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
    index = index.expand_as(weights)
    mass = weights.new_zeros(case.factors.shape).scatter_add_(3, index, weights)
    if factors is not None:
        weights = weights * factors.double().gather(3, index)
    return weights @ v, mass


def sums_reference(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `columns.Sums` holds, float64, by explicit weights."""
    _, _, visible = materialise(case)
    q, k = visible.shape[1:]
    is_row = (case.codes[:, k - q : k] != PAD)[:, None, :, None]
    scores = _scores(case)
    weights = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1) * is_row
    plogp = torch.xlogy(weights, weights)
    return weights.sum(2), plogp.sum(2), -plogp.sum(3), scores.where(visible[:, None] & is_row, 0).sum(3)


def _scores(case: Case) -> Tensor:
    """(B, H, Q, K) float64 scaled scores, without mask."""
    k = materialise(case)[0].double().repeat_interleave(case.query.shape[1] // case.keys.own_k.shape[1], dim=1)
    return case.query.double() @ k.transpose(2, 3) * case.scaling


def relative_error(result: Tensor, expected: Tensor) -> float:
    """‖result − expected‖ / ‖expected‖."""
    return float((result.double() - expected).norm() / expected.norm())
