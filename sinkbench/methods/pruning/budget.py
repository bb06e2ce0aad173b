"""How many image tokens a method keeps, and which: what all pruning methods have in common."""

from functools import lru_cache

import torch
from torch import Tensor

from sinkbench.engine.context import Context
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention


def check_keep(name: str, keep: float) -> None:
    """Check a budget.

    Raises:
        UsageError: It is neither a share nor a count.
    """
    if not (0 < keep <= 1 or (keep > 1 and keep == int(keep))):
        raise UsageError(
            f"{name}={keep:g} is no budget",
            f"Give a share of the image tokens above 0 and up to 1, or a whole number of tokens: --set {name}=0.25.",
        )


def kept_count(keep: float, n: Tensor) -> Tensor:
    """How many of n tokens (int64, any shape) a budget keeps: a share is rounded half to even, and leaves one."""
    if keep > 1:
        return n.clamp_max(int(keep))
    return torch.round(n * keep).to(torch.int64).clamp_min(1).minimum(n)


@lru_cache(1024)
def scaled_ratios(
    name: str, keep: float, layers: tuple[int, ...], ratios: tuple[float, ...], n_layers: int
) -> tuple[float, ...]:
    """Ratios times one factor, none above 1, so that the mean share over all layers is `keep`.

    Args:
        name: Of the method, for the error.
        keep: The share.
        layers: At whose entry the stages drop.
        ratios: Share of the original tokens that each leaves.
        n_layers: Of the model.

    Raises:
        UsageError: The layers before the first stage alone cost more.
    """
    if keep >= 1:
        return (1.0,) * len(ratios)
    spans = [end - start for start, end in zip(layers, (*layers[1:], n_layers), strict=True)]

    def mean(factor: float) -> float:
        shares = [min(1.0, factor * ratio) * span for ratio, span in zip(ratios, spans, strict=True)]
        return (layers[0] + sum(shares)) / n_layers

    low, high = 0.0, 1 / ratios[-1]
    if keep <= mean(low):
        raise UsageError(
            f"{name}.keep={keep:g}: the {layers[0]} layers before the first drop alone make {mean(low):.3g}",
            f"Begin earlier, for example --set {name}.layers={[max(1, layer // 4) for layer in layers]}.",
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < keep else (low, middle)
    return tuple(min(1.0, high * ratio) for ratio in ratios)


def top_tokens(scores: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The tokens with the highest scores; of equal ones the earlier.

    Args:
        scores: (B, Q) float32; of −inf only if there are too few others.
        among: (B, Q) bool, the tokens to choose from.
        count: (B,) how many of them.

    Returns:
        (B, Q) bool.
    """
    lowest = torch.finfo(scores.dtype).min
    order = scores.clamp_min(lowest).masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return among & (rank < count[:, None])


class PruningIntervention(Intervention):
    """A bound method that drops tokens at the entry of layers.

    Attributes:
        prunes_at: The layers.
        weighing: Part of a composition that weighs the scores by which tokens are ranked.
    """

    whole_prompt = True
    capturable = True
    weighing: Intervention | None = None

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.prunes_at = layers

    def weighed(self, scores: Tensor, ctx: Context) -> Tensor:
        """The scores (B, Q) of a pass that has all its tokens, as another part of a composition weighs them.

        −inf for padding of the image, which is kept only if there is too little else.
        """
        return scores if self.weighing is None else self.weighing.weigh_tokens(scores, ctx)


def originally(ctx: Context, name: str) -> Tensor:
    """(B,) image tokens of each sample before anything was dropped; kept in `ctx.scratch` under the method's name."""
    key = f"{name}.image_tokens"
    if key not in ctx.scratch:
        ctx.scratch[key] = ctx.is_image.sum(1)
    return ctx.scratch[key]
