"""HiMAP: drop image tokens first by what the text looks at, later by what the image itself looks at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, check_keep, kept_count, originally, top_tokens
from sinkbench.methods.pruning.stages import after_images, scaled_layers

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.view import AttentionView

TEXT = "himap.text"
"""What `ctx.state` holds: (B, K) bool, the whole prompt's tokens behind the image."""

SCORE = "himap.score"
"""What `ctx.scratch` holds: (B, K) float32, the attention that each token gets from the rows of the coming stage."""

PUBLISHED = (2, 8)
"""T and I of the released scripts, for LLaVA-1.5."""


@dataclass(frozen=True)
class HiMap(Method):
    """HiMAP (spec pruning_others): a text stage in an early layer and an image stage later, each by a sum of rows.

    Positions stay. The released forward has no KV cache and runs the prompt again for each token; here later tokens go
    on with what the prompt left [ours].

    Attributes:
        keep: Image tokens left by the text stage: a share up to 1, or a count. 115 of 576 are those of the debiasing
            paper's comparison; HiMAP's own script has 288 (`--set himap.profile=code`).
        keep_image: Image tokens left by the image stage, likewise; 90 of 576 and 72. 0: as many of the text stage's as
            90 are of 115, and all of them if that one leaves all [ours].
        layers: T and I, at whose entry tokens are dropped by the attention of the layer before; empty means 2 and 8,
            at the same depth in models of fewer than 32 layers [ours].
    """

    name: ClassVar[str] = "himap"
    summary: ClassVar[str] = "drops image tokens by the text's attention first, by the image's own later"
    paper: ClassVar[Paper] = Paper(
        title="Lifting the Veil on Visual Information Flow in MLLMs: Unlocking Pathways to Faster Inference",
        authors="Yin et al.",
        venue="CVPR 2025",
        arxiv="2503.13108",
        code="ustc-hyin/HiMAP@6c279e7",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    prunes: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    keep: float = 115 / 576
    keep_image: float = 0.0
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_keep("himap.keep", self.keep)
        if self.keep_image:
            check_keep("himap.keep_image", self.keep_image)
        comparable = (self.keep > 1) == (self.keep_image > 1)
        if comparable and self.keep_image > self.keep:
            raise UsageError(
                f"himap.keep_image={self.keep_image:g} is more than the {self.keep:g} that the text stage leaves",
                f"Give at most that: --set himap.keep_image={self.keep:g}.",
            )

    def bind(self, model: ModelInfo) -> "HiMapIntervention":
        """Resolve the layers."""
        layers = self.layers or scaled_layers(PUBLISHED, model.n_layers, lowest=1)
        model.check_layers("himap.layers", layers)
        if len(layers) != 2 or not 1 <= layers[0] < layers[1]:
            raise UsageError(
                f"himap.layers={list(layers)}: the layers before them rank the tokens, by text and then by image",
                "Give two rising layers from 1 on: --set himap.layers=[2,8].",
            )
        return HiMapIntervention(layers, (self.keep, self.keep_image or self._share_of_text_stage()))

    def _share_of_text_stage(self) -> float:
        if self.keep == 1:
            return 1.0
        return max(1, round(self.keep * 90 / 115)) if self.keep > 1 else self.keep * 90 / 115


class HiMapIntervention(PruningIntervention):
    """HiMAP on a model.

    Args:
        layers: T and I.
        keeps: Share or count of the image tokens that each stage leaves.
    """

    def __init__(self, layers: tuple[int, ...], keeps: tuple[float, float]) -> None:
        super().__init__(layers)
        self.text_layer, self.image_layer = layers
        self.keeps = dict(zip(layers, keeps, strict=True))

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """The text by which the first stage ranks."""
        return {TEXT: after_images(prompt)}

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Sum the text's rows in layer T − 1 and the image's own in layer I − 1, mean over heads."""
        if ctx.stage is not Stage.SUFFIX:
            return
        if layer == self.text_layer - 1:
            ctx.scratch[SCORE] = view.received(ctx.state[TEXT]).mean(1)
        elif layer == self.image_layer - 1:
            ctx.scratch[SCORE] = view.received(ctx.is_image).mean(1)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """All but the image tokens of low rank."""
        from sinkbench.engine.pruning import Kept

        image, scores = ctx.is_image, ctx.scratch[SCORE]
        if entry.layer == self.text_layer:
            scores = self.weighed(scores, ctx)
        count = kept_count(self.keeps[entry.layer], originally(ctx, "himap"))
        return Kept.of((ctx.is_valid & ~image) | top_tokens(scores, image, count))
