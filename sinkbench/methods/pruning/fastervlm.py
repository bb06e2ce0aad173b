"""[CLS] pruning: keep the image tokens at which the vision encoder's class token looks most."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import check_keep
from sinkbench.methods.pruning.select import SelectingIntervention, top_places

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage, Selected


@dataclass(frozen=True)
class FasterVlm(Method):
    """Token compression by the class token (text_dominance §2b), which is FasterVLM's rule.

    Encoders without a class token: the attention that a patch receives on average [ours, no published rule]. A feature
    that is made of several patches has the largest of their scores [ours].

    Attributes:
        keep: Image tokens kept: a share up to 1, or a count.
        layer: Layer of the vision encoder, negative from the end; −2 as FasterVLM [not verified], whose output
            LLaVA reads.
    """

    name: ClassVar[str] = "fastervlm"
    summary: ClassVar[str] = "keeps the image tokens at which the vision encoder's class token looks most"
    paper: ClassVar[Paper] = Paper(
        title="When Language Overrules: Revealing Text Dominance in Multimodal Large Language Models",
        authors="Wu et al.",
        venue="2025",
        arxiv="2508.10552",
    )
    edits: ClassVar[Stage] = Stage.VISION
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    selects: ClassVar[bool] = True

    keep: float = 0.25
    layer: int = -2

    def __post_init__(self) -> None:
        check_keep("fastervlm.keep", self.keep)

    def bind(self, model: ModelInfo) -> "FasterVlmIntervention":
        """Nothing to resolve: the encoder checks its layer."""
        return FasterVlmIntervention(self.keep, self.layer)


class FasterVlmIntervention(SelectingIntervention):
    """[CLS] pruning on a model.

    Args:
        keep: Share or count of the image tokens.
        layer: Layer of the vision encoder.
    """

    def __init__(self, keep: float, layer: int) -> None:
        super().__init__(keep)
        self.selects_by = (layer,)

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """The most important ones, in their order."""
        from sinkbench.engine.selection import Selected

        return Selected(top_places(image.importance(image.attention[0])[places], places, count))
