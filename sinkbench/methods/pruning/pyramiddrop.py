"""PyramidDrop: at the entry of some layers, keep ever fewer of the image tokens that the last token looks at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, check_keep, originally, scaled_ratios, top_tokens
from sinkbench.methods.pruning.stages import even_layers

if TYPE_CHECKING:
    from sinkbench.engine.pruning import Entry, Kept


@dataclass(frozen=True)
class PyramidDrop(Method):
    """PyramidDrop at inference.

    Attributes:
        keep: Mean number of image tokens over all layers to which the ratios are scaled, as a share up to 1 or a count;
            0 takes them as they are.
        layers: Layers at whose entry tokens are dropped; empty means a quarter, half and three quarters of the way, as
            8, 16 and 24 of LLaVA-1.5-7B's 32 [for other depths ours].
        ratios: Share of the original image tokens that each of these leaves.
        reindex: Number the tokens anew after each drop, as the released code does; models with multimodal RoPE keep
            their positions all the same [ours: a new numbering would destroy the grid].
    """

    name: ClassVar[str] = "pyramiddrop"
    summary: ClassVar[str] = "drops more and more image tokens from stage to stage, by the last token's attention"
    paper: ClassVar[Paper] = Paper(
        title="PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
        authors="Xing et al.",
        venue="CVPR 2025",
        arxiv="2410.17247",
        code="Cooperx521/PyramidDrop@6444f30",
    )
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    prunes: ClassVar[bool] = True
    scores: ClassVar[bool] = True

    keep: float = 0.0
    layers: tuple[int, ...] = ()
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    reindex: bool = True

    def __post_init__(self) -> None:
        if self.keep:
            check_keep("pyramiddrop.keep", self.keep)
        falling = all(later <= earlier for earlier, later in zip((1.0, *self.ratios), self.ratios, strict=False))
        if not self.ratios or not falling or self.ratios[-1] <= 0:
            raise UsageError(
                f"pyramiddrop.ratios={list(self.ratios)} do not fall from 1 towards 0", "For example: [0.5,0.25,0.125]."
            )

    def bind(self, model: ModelInfo) -> "PyramidDropIntervention":
        """Resolve layers and ratios."""
        stages = len(self.ratios)
        layers = self.layers or even_layers(stages, model.n_layers)
        model.check_layers("pyramiddrop.layers", layers)
        if len(layers) != stages or sorted({*layers}) != [*layers]:
            raise UsageError(
                f"pyramiddrop.layers={list(layers)} do not rise, one for each of {stages} ratios",
                "For example: --set pyramiddrop.layers=[8,16,24].",
            )
        if 0 < self.keep <= 1:
            scaled_ratios(self.name, self.keep, layers, self.ratios, model.n_layers)
        return PyramidDropIntervention(self, layers, model.n_layers)


class PyramidDropIntervention(PruningIntervention):
    """PyramidDrop on a model (spec §2).

    Args:
        method: Hyper-parameters.
        layers: Where tokens are dropped.
        n_layers: Of the model.
    """

    def __init__(self, method: PyramidDrop, layers: tuple[int, ...], n_layers: int) -> None:
        super().__init__(layers)
        self.method, self.n_layers, self.reindexes = method, n_layers, method.reindex

    def count(self, n: int, layer: int) -> int:
        """How many of a sample's n image tokens a layer is left with: cut off, not rounded, as in the released code.

        Raises:
            UsageError: The mean that `keep` asks for cannot be reached with so many.
        """
        ratios = self.method.ratios
        if self.method.keep and n:
            share = min(1.0, self.method.keep / n) if self.method.keep > 1 else self.method.keep
            ratios = scaled_ratios(self.method.name, share, self.prunes_at, ratios, self.n_layers)
        # No token may be lost to an error of the float.
        return int(n * ratios[self.prunes_at.index(layer)] + 1e-6)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Rank by the coming layer's own attention, mean over heads (steps 1 to 3)."""
        from sinkbench.engine.pruning import Kept

        image = ctx.is_image
        counts = [self.count(n, entry.layer) for n in originally(ctx, "pyramiddrop").tolist()]
        last = torch.zeros_like(image)
        last[:, -1] = True
        scores = entry.received(last).mean(1)
        if entry.layer == self.prunes_at[0]:
            scores = self.weighed(scores, ctx)
        return Kept.of((ctx.is_valid & ~image) | top_tokens(scores, image, torch.tensor(counts, device=image.device)))
