"""D4, secondary attention sinks (Wong et al., On the Existence and Behaviour of Secondary Attention Sinks, 2512.22213).

Tokens that turn, layers after the primary sink, into its direction; equations from the released code. "Layer l" is a
layer's output X[l+1]. X[L] here is the last layer's output before the final norm: the code's own list ends with the
normed state, so that its "largest fall" is often that norm; `window` therefore serves with and without the last output.
Cosines come from `cosine.cosines`.
"""

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import at, masked_median, ranks, real_slots
from sinkbench.errors import UsageError

ALIGNED = 0.9
"""|cosine| to the primary sink above which a token is a candidate."""

NOISE = 4
"""Lifetimes up to this are noise."""


def primary_sink(norms: Tensor, valid: Tensor) -> Tensor:
    """Slot (B,) of the primary sink: among a sample's first three real tokens the one of largest norm over layers.

    Args:
        norms: (B, L, K) ‖X[l+1]‖.
        valid: (B, K) bool.
    """
    first = real_slots(valid)[:, :3]
    mean = norms.float().mean(1).gather(1, first).masked_fill(~valid.gather(1, first), -1.0)
    return first.take_along_dim(mean.argmax(1, keepdim=True), 1)[:, 0]


def window(norms: Tensor) -> tuple[Tensor, Tensor]:
    """The layers l0 ≤ l < l1 between the primary sink's largest rise and, behind it, its largest fall.

    l0 = 1 + argmax_l (n_{l+1} − n_l) and l1 = 1 + argmin_{l ≥ l0} (n_{l+1} − n_l), for n_l its norm after layer l.
    Where it never falls the window reaches to the end [ours].

    Args:
        norms: (B, L) of the primary sink after each layer; leave the last one out for the window without it.

    Returns:
        l0 and l1, (B,) int64.

    Raises:
        UsageError: There are fewer than two layers.
    """
    n_layers = norms.shape[1]
    if n_layers < 2:
        raise UsageError(f"a window needs the norms of two layers, not {n_layers}", "Give X[1] to X[L].")
    change = norms.float().diff(dim=1)
    rise = 1 + change.argmax(1)
    behind = torch.arange(n_layers - 1, device=norms.device) >= rise[:, None]
    fall = change.masked_fill(~behind, torch.inf).min(1)
    return rise, torch.where(fall.values < 0, 1 + fall.indices, n_layers)


def in_window(first: Tensor, end: Tensor, n_layers: int) -> Tensor:
    """(B, L) bool of a window's bounds (B,): the layers that `candidates` looks at."""
    layers = torch.arange(n_layers, device=first.device)
    return (layers >= first[:, None]) & (layers < end[:, None])


def prominent(norms: Tensor, primary: Tensor, valid: Tensor, ratio: float = 5.0) -> Tensor:
    """(B, L) bool: layers where the primary sink's norm is at least `ratio` times the sample's median norm [ours].

    For models that build, erase and rebuild the primary sink, where one window holds only one of the phases.

    Args:
        norms: (B, L, K) ‖X[l+1]‖.
        primary: (B,) slot.
        valid: (B, K) bool.
        ratio: How far it must stand out.
    """
    return at(norms.float(), primary) >= ratio * masked_median(norms, valid)


def candidates(cosines: Tensor, layers: Tensor, primary: Tensor, valid: Tensor) -> Tensor:
    """Where a token behind the primary sink points along it, |cosine| > 0.9: its set Λ_t of layers.

    Args:
        cosines: (B, L, K) float32 to the primary sink's state after each layer.
        layers: (B, L) bool, from `in_window` or `prominent`.
        primary: (B,) slot.
        valid: (B, K) bool.

    Returns:
        (B, L, K) bool.
    """
    order = ranks(valid)
    behind = valid & (order > order.gather(1, primary[:, None]))
    return (cosines.abs() > ALIGNED) & layers[..., None] & behind[:, None]


class Levels(NamedTuple):
    """When tokens are candidates; (B, K) int64 each.

    Attributes:
        start: First layer of Λ_t; −1 if it is empty.
        lifetime: |Λ_t|, contiguous or not, as the code counts.
        run: Longest run of consecutive layers in Λ_t.
    """

    start: Tensor
    lifetime: Tensor
    run: Tensor


def levels(candidate: Tensor) -> Levels:
    """Start, lifetime and longest run of each token's candidate layers (B, L, K) bool."""
    lifetime = candidate.sum(1)
    start = torch.where(lifetime > 0, candidate.int().argmax(1), -1)
    current, longest = torch.zeros_like(lifetime), torch.zeros_like(lifetime)
    for layer in candidate.unbind(1):
        current = (current + 1) * layer
        longest = longest.maximum(current)
    return Levels(start, lifetime, longest)


class Label(IntEnum):
    """What a token's lifetime makes of it."""

    NONE = 0
    NOISE = 1
    SECONDARY = 2
    PRIMARY_LIKE = 3


def labels(lifetime: Tensor, n_layers: int) -> Tensor:
    """The code's rule: primary-like from L − 15 layers on, noise up to 4, secondary between; meaningless for L ≤ 19.

    Args:
        lifetime: (B, K).
        n_layers: L.

    Returns:
        (B, K) int64 of `Label`.
    """
    return _labels(lifetime, lifetime >= n_layers - 15)


def relative_labels(lifetime: Tensor, n_analysed: Tensor) -> Tensor:
    """The rule for models of any depth [ours]: primary-like from 0.7 (l1 − l0) layers on.

    Args:
        lifetime: (B, K).
        n_analysed: (B,) number of layers looked at.

    Returns:
        (B, K) int64 of `Label`.
    """
    return _labels(lifetime, lifetime >= 0.7 * n_analysed[:, None])


def _labels(lifetime: Tensor, long: Tensor) -> Tensor:
    lasting = torch.where(long, Label.PRIMARY_LIKE, Label.SECONDARY)
    return torch.where(lifetime > NOISE, lasting, torch.where(lifetime > 0, Label.NOISE, Label.NONE))


class Alignment(NamedTuple):
    """How well MLP vectors align with the primary sink's, at the layer where a member starts.

    Attributes:
        members: (M,) cosines of secondary sinks.
        controls: (C,) cosines, at the same layers, of tokens of the same id in the same sample that are no candidates.
    """

    members: Tensor
    controls: Tensor


def alignment(cosines: Tensor, found: Levels, members: Tensor, ids: Tensor, valid: Tensor) -> Alignment:
    """Compare members with their controls; for the MLP's output, and to contrast its input, gate, up and product.

    Args:
        cosines: (B, L, K), of each token's MLP vector to the primary sink's.
        found: Of `levels`.
        members: (B, K) bool, the secondary sinks.
        ids: (B, K) token ids.
        valid: (B, K) bool, without the primary sink itself.
    """
    sample, slot = members.nonzero(as_tuple=True)
    at_start = cosines[sample, found.start[sample, slot]]
    same = ids[sample] == ids[sample, slot][:, None]
    free = valid[sample] & (found.lifetime[sample] == 0)
    return Alignment(at_start.gather(1, slot[:, None])[:, 0], at_start[same & free])


def later_attention(alpha: Tensor, start: Tensor) -> Tensor:
    """Mean attention (B, K) that a token receives in the layers behind its first; NaN without such layers.

    Args:
        alpha: (B, L, K), mean over heads.
        start: (B, K), of `Levels`.
    """
    layers = torch.arange(alpha.shape[1], device=alpha.device)[:, None]
    later = (layers > start[:, None]) & (start >= 0)[:, None]
    return torch.where(later, alpha.float(), torch.nan).nanmean(1)


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's ρ of x (N,) and y (N,), ties ranked by their mean; NaN if either is constant."""
    pair = torch.stack((_mean_ranks(x), _mean_ranks(y)))
    pair = pair - pair.mean(1, keepdim=True)
    return (pair[0] * pair[1]).sum() / pair.square().sum(1).prod().sqrt()


def _mean_ranks(values: Tensor) -> Tensor:
    values = values.contiguous()
    ordered = values.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / 2
