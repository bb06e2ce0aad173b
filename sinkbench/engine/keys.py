"""Keys and values of a layer in two parts: prefixes that samples share, and each sample's own.

Questions about one image continue one prefix. Nothing here copies it: what is small, the queries and the weights, is
sorted by prefix instead, and each prefix meets all its questions in one matrix product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkbench.engine.context import Context

_SCORES_AT_ONCE = 1 << 25
"""Scores held at once where no kernel spares writing them down."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which prefix each sample of a batch continues.

    Attributes:
        group: (B,) int32, the prefix of each sample; -1 where it has none (all its prefix slots are padding then).
        members: (G, n) int64, the samples of each prefix, filled up with sample 0.
        place: (B,) int64, where each sample stands in `members.flatten()`.
        has_prefix: (B, 1, 1, 1) bool, or None where every sample has one.
        regular: Whether samples stand in order, n to a prefix, so that sorting is reshaping.
    """

    group: Tensor
    members: Tensor
    place: Tensor
    has_prefix: Tensor | None
    regular: bool

    @classmethod
    def of(cls, groups: Sequence[int], n_groups: int, device: torch.device) -> "Grouping":
        """Build from the prefix of each sample, -1 for none.

        Args:
            groups: (B,) numbers of prefixes.
            n_groups: G.
            device: Where the tensors go.
        """
        members: list[list[int]] = [[] for _ in range(n_groups)]
        place: list[tuple[int, int]] = []
        for sample, group in enumerate(groups):
            place.append((max(group, 0), len(members[group]) if group >= 0 else 0))
            if group >= 0:
                members[group].append(sample)
        widest = max(1, *map(len, members))
        table = [row + [0] * (widest - len(row)) for row in members]
        without = any(group < 0 for group in groups)
        return cls(
            group=torch.tensor(groups, dtype=torch.int32, device=device),
            members=torch.tensor(table, device=device),
            place=torch.tensor([group * widest + rank for group, rank in place], device=device),
            has_prefix=torch.tensor(groups, device=device).view(-1, 1, 1, 1) >= 0 if without else None,
            regular=[sample for row in table for sample in row] == list(range(len(groups))),
        )

    def sort(self, values: Tensor) -> Tensor:
        """Values (B, H, M, e) of the samples as (G, H, n·M, e): all rows of a prefix's samples below each other."""
        _, h, m, e = values.shape
        g, n = self.members.shape
        chosen = values if self.regular else values.index_select(0, self.members.flatten())
        return chosen.view(g, n, h, m, e).transpose(1, 2).reshape(g, h, n * m, e)

    def unsort(self, values: Tensor) -> Tensor:
        """Undo `sort`: (G, H, n·M, e) to (B, H, M, e). Samples without a prefix get what is not theirs."""
        g, h, rows, e = values.shape
        n = self.members.shape[1]
        by_sample = values.view(g, h, n, rows // n, e).transpose(1, 2).reshape(g * n, h, rows // n, e)
        return by_sample if self.regular else by_sample.index_select(0, self.place)


@dataclass(frozen=True, eq=False)
class LayerKeys:
    """Keys and values of one layer.

    Attributes:
        own_k: (B, H_kv, C, d).
        own_v: (B, H_kv, C, d).
        prefix_k: (G, H_kv, P, d), None where no sample has a prefix.
        prefix_v: (G, H_kv, P, d).
        grouping: Which prefix each sample continues.
    """

    own_k: Tensor
    own_v: Tensor
    prefix_k: Tensor | None = None
    prefix_v: Tensor | None = None
    grouping: Grouping | None = None

    @property
    def n_prefix(self) -> int:
        """P, the prefix slots."""
        return 0 if self.prefix_k is None else self.prefix_k.shape[2]

    def scores(self, query: Tensor, scaling: float) -> Tensor:
        """Scaled scores of some query rows, without mask.

        Args:
            query: (B, H, R, d).
            scaling: Factor of the scores.

        Returns:
            (B, H, R, P + C) float32.
        """
        b, h, r, d = query.shape
        grouped = query.reshape(b, self.own_k.shape[1], -1, d)
        own = product(grouped, self.own_k.transpose(2, 3))
        if self.prefix_k is not None and self.grouping is not None:
            prefix = product(self.grouping.sort(grouped), self.prefix_k.transpose(2, 3))
            own = torch.cat((self.grouping.unsort(prefix), own), dim=-1)
        return (own * scaling).view(b, h, r, -1)

    def mix(self, weights: Tensor) -> Tensor:
        """Weighted sums of the values.

        Args:
            weights: (B, H, R, P + C) float32.

        Returns:
            (B, H, R, d) float32.
        """
        b, h, r, k = weights.shape
        grouped = weights.reshape(b, self.own_v.shape[1], -1, k).to(self.own_v.dtype)
        out = product(grouped[..., self.n_prefix :], self.own_v)
        if self.prefix_v is not None and self.grouping is not None:
            sums = product(self.grouping.sort(grouped[..., : self.n_prefix]), self.prefix_v)
            prefix = self.grouping.unsort(sums)
            has_prefix = self.grouping.has_prefix
            out = out + (prefix if has_prefix is None else prefix.masked_fill(~has_prefix, 0))
        return out.view(b, h, r, -1)

    def at(self, slots: Tensor) -> Tensor:
        """The key of one slot (B,) of each sample: (B, H_kv, d)."""
        samples = torch.arange(len(slots), device=slots.device)
        own = self.own_k[samples, :, (slots - self.n_prefix).clamp_min(0)]
        if self.prefix_k is None or self.grouping is None:
            return own
        shared = self.prefix_k[self.grouping.group.long().clamp_min(0), :, slots.clamp_max(self.n_prefix - 1)]
        return torch.where((slots < self.n_prefix)[:, None, None], shared, own)


def masked_scores(query: Tensor, keys: LayerKeys, rows: slice, ctx: Context, scaling: float) -> Tensor:
    """Scores (B, H, R, K) float32 of the query rows (B, H, R, d), very low where a row may not look."""
    scores = keys.scores(query, scaling)
    if ctx.bias is not None:
        # What is hidden stays at the lowest number, whatever the score.
        return (scores + ctx.bias[:, :, rows]).clamp_min(torch.finfo(torch.float32).min)
    if ctx.mask is None:
        return scores
    mask = ctx.mask if ctx.n_queries == 1 else ctx.mask[:, :, rows]
    return scores.masked_fill(~mask, torch.finfo(torch.float32).min)


def received(query: Tensor, keys: LayerKeys, counted: Tensor, ctx: Context, scaling: float) -> Tensor:
    """Attention that each key receives from some query rows, summed over them.

    Args:
        query: (B, H, Q, d).
        keys: The layer's keys, this pass's included.
        counted: (B, Q) bool, the rows to sum over.
        ctx: Supplies the mask.
        scaling: Factor of the scores.

    Returns:
        (B, H, K) float32.
    """
    b, h, _, _ = query.shape
    total = query.new_zeros(b, h, ctx.n_keys, dtype=torch.float32)
    wanted = counted.any(0).nonzero().flatten().tolist()
    if not wanted:
        return total
    first, last = wanted[0], wanted[-1] + 1
    for step in in_steps(query[:, :, first:last], ctx.n_keys):
        rows = slice(first + step.start, first + step.stop)
        weights = masked_scores(query[:, :, rows], keys, rows, ctx, scaling).softmax(-1)
        total += (weights * counted[:, None, rows, None]).sum(2)
    return total


def in_steps(query: Tensor, n_keys: int) -> Iterator[slice]:
    """The query rows of (B, H, Q, d) in runs that are short enough to write down their scores of all keys."""
    b, h, q, _ = query.shape
    step = max(1, _SCORES_AT_ONCE // (b * h * n_keys))
    return (slice(start, min(start + step, q)) for start in range(0, q, step))


def product(left: Tensor, right: Tensor) -> Tensor:
    """The float32 matrix product of (B, H, M, e) and (B, H, e, N); half types are not converted on a GPU."""
    if left.dtype is torch.float32:
        return left @ right
    if not left.is_cuda:
        return left.float() @ right.float()
    out = torch.bmm(left.flatten(0, 1), right.flatten(0, 1), out_dtype=torch.float32)
    return out.view(*left.shape[:3], right.shape[3])
