"""FastV: after layer K, keep the image tokens that the last token of the prompt looks at most."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, check_keep, kept_count, top_tokens

if TYPE_CHECKING:
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.view import AttentionView

SCORE = "fastv.score"
"""What `ctx.scratch` holds: (B, K) float32, the last row's attention in layer K − 1, mean over heads."""


@dataclass(frozen=True)
class FastV(Method):
    """FastV in its form with a KV cache: tokens are ranked once, in the prompt, and keep their positions.

    Attributes:
        keep: Image tokens kept after layer K: a share up to 1, or a count.
        layer: K, the layers that see all tokens.
    """

    name: ClassVar[str] = "fastv"
    summary: ClassVar[str] = "after a few layers, keeps the image tokens that the prompt's last token looks at"
    paper: ClassVar[Paper] = Paper(
        title="An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large "
        "Vision-Language Models",
        authors="Chen et al.",
        venue="ECCV 2024",
        arxiv="2403.06764",
        code="pkunlp-icler/FastV@d165972",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    prunes: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    keep: float = 0.5
    layer: int = 2

    def __post_init__(self) -> None:
        check_keep("fastv.keep", self.keep)

    def bind(self, model: ModelInfo) -> "FastVIntervention":
        """Check the layer."""
        if not 1 <= self.layer < model.n_layers:
            raise UsageError(
                f"fastv.layer={self.layer}: the layer before it ranks the tokens, and {model.name} has "
                f"{model.n_layers} layers",
                f"Give a layer from 1 to {model.n_layers - 1}.",
            )
        return FastVIntervention(self)


class FastVIntervention(PruningIntervention):
    """FastV on a model (spec §2)."""

    def __init__(self, method: FastV) -> None:
        super().__init__((method.layer,))
        self.method = method

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Rank by layer K − 1 (step 2): the whole row's softmax, image tokens not normalised among themselves."""
        if layer == self.method.layer - 1 and ctx.stage is Stage.SUFFIX:
            ctx.scratch[SCORE] = view.rows(ctx.last_row).mean(1)[:, 0]

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """All but the image tokens of low rank (step 3); positions stay (step 4).

        Padding that another part of a composition tells of is never kept, as in Attention Debiasing's patch of FastV.
        """
        from sinkbench.engine.pruning import Kept

        image, scores = ctx.is_image, self.weighed(ctx.scratch[SCORE], ctx)
        count = kept_count(self.method.keep, image.sum(1))
        return Kept.of((ctx.is_valid & ~image) | top_tokens(scores, image & ~scores.isneginf(), count))
