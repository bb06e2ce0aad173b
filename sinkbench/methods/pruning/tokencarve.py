"""TokenCarve: rank image tokens by attention and singular values, and merge the worse into the better."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, check_keep, kept_count

if TYPE_CHECKING:
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.view import AttentionView

SCORE = "tokencarve.score"
"""What `ctx.scratch` holds: (B, K) float32, the last row's attention in the layer before, mean over heads."""


@dataclass(frozen=True)
class TokenCarve(Method):
    """TokenCarve. The cache of the layers before stays whole; the release cuts it down to the kept tokens too.

    Attributes:
        keep: M, image tokens left after merging: a share up to 1, or a count. Half as many more are selected first,
            as far as there are so many.
        layer: The layer at whose entry they are dropped.
        balance: λ, weight of the rank by attention; the rank by singular values has 1 − λ.
        reindex: Number the tokens anew; models with multimodal RoPE keep their positions all the same [ours].
    """

    name: ClassVar[str] = "tokencarve"
    summary: ClassVar[str] = "keeps image tokens by attention and singular values, and merges some into others"
    paper: ClassVar[Paper] = Paper(
        title="TokenCarve: Information-Preserving Visual Token Compression in Multimodal Large Language Models",
        authors="Tan et al.",
        venue="arXiv 2025",
        arxiv="2503.10501",
        code="ShawnTan86/TokenCarve",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    prunes: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    keep: float = 64.0
    layer: int = 2
    balance: float = 0.5
    reindex: bool = True

    def __post_init__(self) -> None:
        check_keep("tokencarve.keep", self.keep)
        if not 0 <= self.balance <= 1:
            raise UsageError(f"tokencarve.balance={self.balance:g} is no share", "Give 0 to 1.")

    def bind(self, model: ModelInfo) -> "TokenCarveIntervention":
        """Check the layer."""
        if not 1 <= self.layer < model.n_layers:
            raise UsageError(
                f"tokencarve.layer={self.layer}: the layer before it ranks the tokens, and {model.name} has "
                f"{model.n_layers} layers",
                f"Give a layer from 1 to {model.n_layers - 1}.",
            )
        return TokenCarveIntervention(self)


def singular_shares(hidden: Tensor) -> Tensor:
    """Σ_j |U_ij S_j| of each token i of X = U S Vᵀ (spec TokenCarve step 2): (N,) of hidden states (N, d).

    U S comes from the eigenvectors of the smaller Gram matrix. That squares the singular values, so it is done in
    float64: what is small beside a massive activation's would be lost in float32.
    """
    states = hidden.double()
    if states.shape[0] <= states.shape[1]:
        squares, left = torch.linalg.eigh(states @ states.T)
        scaled: Tensor = left * squares.clamp_min(0).sqrt()
    else:
        _, right = torch.linalg.eigh(states.T @ states)
        scaled = states @ right
    return scaled.abs().sum(1)


def carve(attention: Tensor, hidden: Tensor, count: int, balance: float) -> tuple[Tensor, Tensor]:
    """What is left of one image's tokens (spec TokenCarve steps 1 to 4).

    Args:
        attention: (N,) the score by attention.
        hidden: (N, d).
        count: M, at most N.
        balance: λ.

    Returns:
        (M,) int64 the tokens, ascending, and (M, d) float32 their hidden states. Of tokens of equal rank the earlier is
        taken; the release leaves that to chance.
    """
    n = len(attention)
    ranks = [_ranks(attention), _ranks(singular_shares(hidden))]
    fused = balance * (n - ranks[0]) + (1 - balance) * (n - ranks[1])
    selected = fused.argsort(descending=True, stable=True)[: min(n, count * 3 // 2)]
    worse = len(selected) // 2
    better, other = selected[: len(selected) - worse], selected[len(selected) - worse :]
    states = hidden.float()
    directions = torch.nn.functional.normalize(states, dim=1)
    if worse:
        likeness, best = (directions[other] @ directions[better].T).max(1)
    else:
        likeness, best = states.new_zeros(0), better[:0]
    merged = likeness.argsort(descending=True, stable=True)[: len(selected) - count]
    into = best[merged]
    sums = states[better].index_add(0, into, states[other[merged]])
    sizes = states.new_ones(len(better)).index_add(0, into, states.new_ones(len(into)))
    alone = torch.ones(worse, dtype=torch.bool, device=hidden.device).index_fill(0, merged, value=False)
    tokens = torch.cat((better, other[alone]))
    left = torch.cat((sums / sizes[:, None], states[other[alone]]))
    order = tokens.argsort()
    return tokens[order], left[order]


def _ranks(scores: Tensor) -> Tensor:
    """(N,) float32: 0 for the highest of the scores; of equal ones the earlier comes first."""
    return scores.argsort(descending=True, stable=True).argsort().float()


class TokenCarveIntervention(PruningIntervention):
    """TokenCarve on a model."""

    def __init__(self, method: TokenCarve) -> None:
        super().__init__((method.layer,))
        self.method, self.reindexes = method, method.reindex

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Keep the last row's attention (step 1)."""
        if layer == self.method.layer - 1 and ctx.stage is Stage.SUFFIX:
            ctx.scratch[SCORE] = view.rows(ctx.last_row).mean(1)[:, 0]

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Select and merge sample by sample; a budget of all tokens changes nothing."""
        from sinkbench.engine.pruning import Kept, gather

        image, scores = ctx.is_image, self.weighed(ctx.scratch[SCORE], ctx)
        counts, totals = torch.stack((kept_count(self.method.keep, image.sum(1)), image.sum(1))).tolist()
        if counts == totals:
            return None
        keep, hidden = ctx.is_valid.clone(), entry.hidden.clone()
        for sample, (count, total) in enumerate(zip(counts, totals, strict=True)):
            if count < total:
                slots = image[sample].nonzero().flatten()
                tokens, states = carve(scores[sample, slots], hidden[sample, slots], count, self.method.balance)
                keep[sample, slots] = False
                keep[sample, slots[tokens]] = True
                hidden[sample, slots[tokens]] = states.to(hidden.dtype)
        kept = Kept.of(keep)
        return Kept(kept.index, kept.ragged, gather(hidden, kept.index))
