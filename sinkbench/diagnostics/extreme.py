"""D3, extreme-token phenomena (Guo et al., Active-Dormant Attention Heads, arXiv 2410.13835).

Sink tokens draw attention, have drained values and peaked residual states; a head is dormant on inputs where it rests
on the sink. What the released code measures is said at each function. A mean over nothing is NaN.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sinkbench.diagnostics.masking import along, at, masked_max, masked_median, without
from sinkbench.diagnostics.sink_metric import counts, scannable

DRAINED = 0.5
"""A value is drained below this ratio [ours]."""

DORMANT, ACTIVE = 0.8, 0.4
"""Mean mass on the first token from which a head is dormant on a domain, and up to which it is active [ours]."""


def value_drain(norms: Tensor, sink: Tensor, valid: Tensor) -> Tensor:
    """ρ_v: the sink's value norm against the median of the other tokens', per head; drained if well below 1.

    The released LLM notebook takes ‖W_O^h v‖, the toy code ‖v‖: call it for both. With grouped queries ‖v‖ has one
    value a KV head.

    Args:
        norms: (B, H, K).
        sink: (B,) slot.
        valid: (B, K) bool, real tokens; leave other known sinks out.

    Returns:
        (B, H) float32; NaN where the sink is alone.
    """
    return at(norms.float(), sink) / masked_median(norms, without(valid, sink))


def residual_peak(norms: Tensor, sink: Tensor, valid: Tensor) -> Tensor:
    """ρ_r: the sink's ‖X[l+1]‖ against the largest of the other tokens (released notebook).

    Args:
        norms: (B, …, K), such as (B, L, K).
        sink: (B,) slot.
        valid: (B, K) bool, real tokens; leave other known sinks out.

    Returns:
        (B, …) float32; NaN where the sink is alone.
    """
    others = without(valid, sink)
    alone = ~others.any(1).view(-1, *(1,) * (norms.dim() - 2))
    return (at(norms.float(), sink) / masked_max(norms, others)).masked_fill(alone, torch.nan)


def mean_over_rows(total: Tensor, rows: Tensor) -> Tensor:
    """Mean (B, H) of sums over query rows (B, H); rows (B,) how many; NaN where there are none.

    For the sink logit gap Δ_i = z_{i,s} − mean of z_{i,j} over the other real keys j ≤ i, rows with such a key count.
    (The released notebook averages over masked keys too.) For the row entropy H_i / ln(keys that row i sees), rows that
    see two keys or more count.
    """
    return total.float() / torch.where(rows > 0, rows, torch.nan)[:, None]


def top_columns(alpha: Tensor, valid: Tensor, n: int = 2) -> tuple[Tensor, Tensor]:
    """The n scannable keys with the largest α: values (B, …, n) and slots; −1 where a sample has fewer.

    Args:
        alpha: (B, …, K), as `sink_metric.received` gives it.
        valid: (B, K) bool.
        n: At most K.
    """
    values, slots = alpha.masked_fill(~along(scannable(valid), alpha), -1.0).topk(n, dim=-1)
    return values.clamp_min(0), slots.masked_fill(values < 0, -1)


def column_entropy(mass: Tensor, plogp: Tensor, valid: Tensor) -> Tensor:
    """How evenly the queries behind a key attend to it: entropy of its column over ln(number of those queries).

    With c = Σ_i p_ik the column is the distribution p_ik / c, of entropy ln c − (Σ_i p_ik ln p_ik) / c.

    Args:
        mass: (B, …, K), Σ_i p_ik over the real queries.
        plogp: (B, …, K), Σ_i p_ik ln p_ik.
        valid: (B, K) bool.

    Returns:
        (B, …, K) float32 in [0, 1]; 0 for padding, for keys seen by one query and for keys without mass.
    """
    total = mass.float().clamp_min(torch.finfo(torch.float32).tiny)
    entropy = total.log() - plogp.float() / total
    rows = along(counts(valid), mass)
    kept = (rows > 1) & (mass > 0)
    return torch.where(kept, (entropy / rows.clamp_min(2).float().log()).clamp(0, 1), 0.0)


def is_sink_head(row_entropy: Tensor, column_entropy: Tensor, valid: Tensor, low: float, high: float) -> Tensor:
    """The sink-head test by entropy: rows look at few keys, and some key is looked at by all rows alike.

    The released code takes both thresholds as arguments and ships no default. Only keys that
    `sink_metric.scannable` names count [ours].

    Args:
        row_entropy: (B, …) mean normalised entropy of the rows.
        column_entropy: (B, …, K), of `column_entropy`.
        valid: (B, K) bool.
        low: Row entropy must be below.
        high: The largest column entropy must be above.
    """
    return (row_entropy < low) & (masked_max(column_entropy, scannable(valid)) > high)


class ActiveDormant(NamedTuple):
    """Heads compared over two domains of inputs.

    Attributes:
        delta: (L, H) float32, mean mass on the first token in the first domain minus that in the second.
        switches: (L, H) bool, dormant on the first domain and active on the second.
        ranking: (L · H, 2) int64, layer and head by falling `delta`.
    """

    delta: Tensor
    switches: Tensor
    ranking: Tensor


def active_dormant(
    dormant: Tensor, active: Tensor, tau_dormant: float = DORMANT, tau_active: float = ACTIVE
) -> ActiveDormant:
    """The active–dormant test: does a head rest on the first token in one domain and work in the other?

    Args:
        dormant: (N, L, H) α of the first token on N samples of the domain where heads may rest.
        active: (M, L, H), likewise for the other domain.
        tau_dormant: A head is dormant on a domain where its mean is at least this.
        tau_active: It is active where its mean is at most this.
    """
    rest, work = dormant.float().mean(0), active.float().mean(0)
    delta = rest - work
    order = delta.flatten().argsort(descending=True, stable=True)
    n_heads = delta.shape[1]
    ranking = torch.stack((order // n_heads, order % n_heads), dim=1)
    return ActiveDormant(delta, (rest >= tau_dormant) & (work <= tau_active), ranking)
