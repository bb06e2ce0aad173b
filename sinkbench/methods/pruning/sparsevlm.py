"""SparseVLM: keep the image tokens that the visually relevant words look at, stage by stage, and merge some others."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.engine.keys import in_steps, product
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import (
    PruningIntervention,
    check_keep,
    kept_count,
    originally,
    scaled_ratios,
    top_tokens,
)
from sinkbench.methods.pruning.clusters import dpc_knn
from sinkbench.methods.pruning.stages import after_images, scaled_layers

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Embeddings, Entry, Kept
    from sinkbench.engine.view import AttentionView

TEXT = "sparsevlm.text"
"""What `ctx.state` holds: (B, K) bool, the whole prompt's tokens behind the image."""

RATERS, SCORE, GRAVITY = "sparsevlm.raters", "sparsevlm.score", "sparsevlm.gravity"
"""What `ctx.scratch` holds: the raters (B, Q) bool in the whole prompt's slots; (B, K) float32, how much they look at
each token in the layer before a drop; and, for version 2, the kernel (B, R, K) of the last R rows, R those of the
longest text. Its rows hold for text only: what else stands in them may be dropped."""

TOKENS = 576
"""Image tokens of LLaVA-1.5, for which tables are written."""

PUBLISHED = (2, 6, 15)
"""Layers of LLaVA-1.5-7B's 32 after which tokens are dropped."""

TABLES: dict[int, dict[float, tuple[float, ...]]] = {
    1: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""By version and by budget, the image tokens that each stage keeps (spec §4)."""

HEADS = (14, 32)
"""How many heads version 2 keeps of how many."""

LOWEST_GRAVITY = 0.1
"""Share of its value at distance 0 that the kernel is taken to have at least. With LLaVA-1.5's heads of 128 and base
10000 it has 0.105 of it or more over the first 700 tokens, and is negative beyond 1707 (spec §2)."""


@dataclass(frozen=True)
class SparseVlm(Method):
    """SparseVLM: the words most like the image in the input embeddings rate its tokens, in three stages.

    Where the table asks for no fewer tokens than there are, all stay, and nothing is recycled [ours: the released code
    drops one]. Text between images, and before them, does not rate [ours].

    Attributes:
        version: 1 as in v1.5: a third of what is dropped is merged into a few tokens, and tokens are numbered anew;
            with multimodal RoPE they keep their positions, merged ones that of their cluster's centre [ours]. 2 as in
            v2.0 (SparseVLM+): attention is divided by what RoPE alone would give, only the heads that look most at the
            image count, nothing is merged and positions stay.
        keep: Name of a published table, 192, 128, 96 or 64: roughly the mean over all layers of an image's 576 tokens.
            Another count of 576, or a share up to 1, scales the table of 128 to that mean; recycled tokens come on top
            [ours].
        table: Image tokens of 576 that each stage keeps, instead of a published table; other numbers of image tokens
            are scaled and rounded [ours].
        layers: Layers after which tokens are dropped, one for each number of the table; empty means 2, 6 and 15, at the
            same depth in models of fewer than 32 layers [ours].
        heads: Of version 2, how many heads count; 0 means 14 of 32, the rounded share where a model has another number
            [ours].
    """

    name: ClassVar[str] = "sparsevlm"
    summary: ClassVar[str] = "keeps, stage by stage, the image tokens that the words most like the image look at"
    paper: ClassVar[Paper] = Paper(
        title="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
        authors="Zhang et al.",
        venue="ICML 2025",
        arxiv="2410.04417",
        code="Gumpest/SparseVLMs@26a5f48",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    prunes: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    version: Literal[1, 2] = 1
    keep: float = 192
    table: tuple[float, ...] = ()
    layers: tuple[int, ...] = ()
    heads: int = 0

    def __post_init__(self) -> None:
        check_keep("sparsevlm.keep", self.keep)
        if any(not 0 < count <= TOKENS for count in self.table):
            raise UsageError(
                f"sparsevlm.table={[*self.table]}: image tokens are counted out of {TOKENS}",
                f"Give numbers above 0 and up to {TOKENS}: --set sparsevlm.table=[300,200,110].",
            )

    def bind(self, model: ModelInfo) -> "SparseVlmIntervention":
        """Resolve table, layers and heads."""
        table = self.table or TABLES[self.version].get(self.keep, TABLES[self.version][128])
        layers = self.layers or scaled_layers(PUBLISHED[: len(table)], model.n_layers)
        rising = all(0 <= layer < later for layer, later in zip(layers, (*layers[1:], model.n_layers - 1), strict=True))
        if len(layers) != len(table) or not rising:
            raise UsageError(
                f"sparsevlm.layers={[*layers]} for a table of {len(table)} stages",
                f"Give {len(table)} rising layers from 0 to {model.n_layers - 2}, the last but one of {model.name}.",
            )
        if not 0 <= self.heads <= model.n_heads:
            raise UsageError(
                f"sparsevlm.heads={self.heads}: {model.name} has {model.n_heads} heads", "Choose among these."
            )
        some, of = HEADS
        heads = self.heads or max(1, round(model.n_heads * some / of))
        shares = tuple(count / TOKENS for count in table)
        if not self.table and self.keep not in TABLES[self.version]:
            mean = self.keep if self.keep <= 1 else min(1.0, self.keep / TOKENS)
            entries = tuple(layer + 1 for layer in layers)
            shares = scaled_ratios(self.name, mean, entries, shares, model.n_layers)
        if self.version == 1:
            return SparseVlmIntervention(layers, shares)
        return SparseVlmPlusIntervention(layers, shares, heads)


class SparseVlmIntervention(PruningIntervention):
    """SparseVLM v1 on a model (spec §2).

    Args:
        layers: Layers after which tokens are dropped.
        shares: Share of the prompt's image tokens that each of these keeps.
    """

    hidden_layers = (0,)
    reindexes = True

    def __init__(self, layers: tuple[int, ...], shares: tuple[float, ...]) -> None:
        super().__init__(tuple(layer + 1 for layer in layers))
        self.layers = layers
        self.shares = dict(zip(self.prunes_at, shares, strict=True))

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """The text among which raters are chosen."""
        return {TEXT: after_images(prompt)}

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Choose the raters, once, by the input embeddings."""
        if ctx.stage is Stage.SUFFIX:
            text = ctx.state[TEXT]
            ctx.scratch[RATERS] = choose_raters(rater_scores(hidden, ctx.is_image, text), text)

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Rank by the raters' rows (step 1)."""
        if ctx.stage is Stage.SUFFIX and layer in self.layers:
            # Between layers only image tokens go: the text stands where it stood, counted from the end.
            raters = ctx.scratch[RATERS][:, -ctx.n_queries :]
            ctx.scratch[SCORE] = self.score(view, raters, ctx) / raters.sum(1, keepdim=True).clamp_min(1)

    def score(self, view: "AttentionView", raters: Tensor, ctx: Context) -> Tensor:
        """Attention that each token gets from the raters (B, Q), summed over these, mean over heads: (B, K) float32."""
        return view.received(raters).mean(1)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Keep the image tokens of high rank (step 2), and what the version does with the others."""
        scores = ranked = ctx.scratch[SCORE]
        if entry.layer == self.layers[0] + 1:
            ranked = self.weighed(scores, ctx)
        count = kept_count(self.shares[entry.layer], originally(ctx, "sparsevlm"))
        return self.go_on(entry, top_tokens(ranked, ctx.is_image, count), scores, ctx)

    def go_on(self, entry: "Entry", kept: Tensor, scores: Tensor, ctx: Context) -> "Kept":
        """Keep some image tokens (B, Q) and the text, and recycle the others by the scores as they were (step 3)."""
        from sinkbench.engine.pruning import Kept, gather

        keep = (ctx.is_valid & ~ctx.is_image) | kept
        dropped = ctx.is_image & ~kept
        pool, clusters = recycled(dropped.sum(1))
        width = int(pool.max())
        if not width:
            return Kept.of(keep)
        pooled = top_tokens(scores, dropped, pool)
        slots = pooled.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        points = gather(entry.hidden, slots)
        found = dpc_knn(points, pooled.gather(1, slots), clusters)
        return Kept.merging(keep, entry, found.means(points), slots.gather(1, found.centres), found.present)


class SparseVlmPlusIntervention(SparseVlmIntervention):
    """SparseVLM v2 on a model (spec §2, v2.0 extras).

    Args:
        layers: Layers after which tokens are dropped.
        shares: Share of the prompt's image tokens that each of these keeps.
        heads: How many heads count.
    """

    reindexes = False

    def __init__(self, layers: tuple[int, ...], shares: tuple[float, ...], heads: int) -> None:
        super().__init__(layers, shares)
        # Nothing is dropped at layer 0, but the tokens' rotary embeddings are shown there.
        self.prunes_at = (0, *self.prunes_at)
        self.heads = heads

    def score(self, view: "AttentionView", raters: Tensor, ctx: Context) -> Tensor:
        """Divide by the kernel, and take the heads that then look most at the image."""
        kernel = ctx.scratch[GRAVITY]
        first = ctx.n_queries - kernel.shape[1]
        factor = raters[:, first:, None] / kernel
        received = view.query.new_zeros(*view.query.shape[:2], ctx.n_keys, dtype=torch.float32)
        for step in in_steps(view.query[:, :, first:], ctx.n_keys):
            weights = view.rows(slice(first + step.start, first + step.stop))
            received += (weights * factor[:, None, step]).sum(2)
        return mean_of_heads(received, ctx.is_image, self.heads)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Before layer 0 only note the kernel; later, as version 1."""
        if entry.layer == 0:
            ctx.scratch[GRAVITY] = gravity(entry.embeddings, int(ctx.state[TEXT].sum(1).max()))
            return None
        return super().keep_tokens(entry, ctx)

    def go_on(self, entry: "Entry", kept: Tensor, scores: Tensor, ctx: Context) -> "Kept":
        """Keep some image tokens (B, Q) and the text, and nothing of the others."""
        from sinkbench.engine.pruning import Kept

        result = Kept.of((ctx.is_valid & ~ctx.is_image) | kept)
        kernel = ctx.scratch[GRAVITY]
        columns = result.index.clamp_min(0)[:, None].expand(-1, kernel.shape[1], -1)
        ctx.scratch[GRAVITY] = kernel.gather(2, columns)
        return result


def rater_scores(hidden: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """How relevant each word is to the image: softmax over the text of ⟨image token, word⟩, mean over image tokens.

    There is no factor 1/√d (spec §2).

    Args:
        hidden: (B, Q, d) input embeddings.
        image: (B, Q) bool.
        text: (B, Q) bool, which stands at the end.

    Returns:
        (B, T) float32 of the last T tokens, T those of the longest text; 0 where there is none, sum 1.
    """
    first = text.shape[1] - int(text.sum(1).max())
    products = product(hidden[:, None], hidden[:, None, first:].transpose(2, 3))[:, 0]
    weights = products.masked_fill(~text[:, None, first:], torch.finfo(torch.float32).min).softmax(-1)
    mean = (weights * image[:, :, None]).sum(1) / image.sum(1, keepdim=True).clamp_min(1)
    return mean * text[:, first:]


def choose_raters(scores: Tensor, text: Tensor) -> Tensor:
    """The words above the mean, or all of them where they are all alike.

    Args:
        scores: (B, T) from `rater_scores`.
        text: (B, Q) bool.

    Returns:
        (B, Q) bool.
    """
    first = text.shape[1] - scores.shape[1]
    mean = scores.sum(1, keepdim=True) / text.sum(1, keepdim=True).clamp_min(1)
    above = torch.zeros_like(text)
    above[:, first:] = (scores > mean) & text[:, first:]
    return torch.where(above.any(1, keepdim=True), above, text)


def recycled(dropped: Tensor) -> tuple[Tensor, Tensor]:
    """Of how many dropped tokens (B,) how many are merged, and into how many: ⌊0.3 P⌋ + 1, and a tenth of that + 1."""
    pool = torch.where(dropped > 0, dropped * 3 // 10 + 1, 0)
    return pool, torch.where(dropped > 0, pool // 10 + 1, 0)


def gravity(embeddings: "Embeddings", rows: int) -> Tensor:
    """What attention would be by positions alone: scores of queries and keys of ones under RoPE, over √d.

    It is kept from falling below a tenth of its value at distance 0 [ours, `LOWEST_GRAVITY`], beyond which a division
    would blow up far tokens and then turn their sign.

    Args:
        embeddings: Cosines and sines of the tokens, (B, Q, d) each.
        rows: R; the query rows are the last R tokens.

    Returns:
        (B, R, Q) float32.
    """
    # ⟨R_p 1, R_q 1⟩ is a sum of 2·cos(θ(p − q)) = 2·(cos θp · cos θq + sin θp · sin θq) over pairs of dimensions.
    both = torch.cat([part.float() for part in embeddings], dim=-1)
    queries = both[:, both.shape[1] - rows :]
    root = math.sqrt(embeddings[0].shape[-1])
    lowest = LOWEST_GRAVITY * queries.square().sum(-1, keepdim=True) / root
    return (queries @ both.transpose(1, 2) / root).maximum(lowest)


def mean_of_heads(received: Tensor, image: Tensor, count: int) -> Tensor:
    """Mean over the heads that look most at the image; of equal ones the earlier.

    Args:
        received: (B, H, K) float32 attention of each token.
        image: (B, K) bool.
        count: How many heads.

    Returns:
        (B, K) float32.
    """
    totals = (received * image[:, None]).sum(2)
    every = torch.ones_like(totals, dtype=torch.bool)
    chosen = top_tokens(totals, every, torch.full((len(totals),), count, device=totals.device))
    return (received * chosen[:, :, None]).sum(1) / count
