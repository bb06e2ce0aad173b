"""DivPrune: keep the image tokens that lie farthest from each other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.methods.base import Method, ModelInfo, Paper
from sinkbench.methods.pruning.budget import check_keep
from sinkbench.methods.pruning.select import SelectingIntervention

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage, Selected


@dataclass(frozen=True)
class DivPrune(Method):
    """DivPrune (spec pruning_others): no attention, no question, no chance.

    Attributes:
        keep: Image tokens kept: a share up to 1, or a count. The released code has 0.098.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "keeps the image tokens whose features differ most from each other"
    paper: ClassVar[Paper] = Paper(
        title="DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
        authors="Alvar et al.",
        venue="CVPR 2025",
        arxiv="2503.02175",
        code="vbdi/divprune@799e2d9",
    )
    edits: ClassVar[Stage] = Stage.VISION
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "free"
    selects: ClassVar[bool] = True

    keep: float = 0.25

    def __post_init__(self) -> None:
        check_keep("divprune.keep", self.keep)

    def bind(self, model: ModelInfo) -> "DivPruneIntervention":
        """Nothing depends on the model."""
        return DivPruneIntervention(self.keep)


class DivPruneIntervention(SelectingIntervention):
    """DivPrune on a model."""

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """The most different features."""
        from sinkbench.engine.selection import Selected

        return Selected(places[most_different(image.features[places], count).sort().values])


def most_different(features: Tensor, count: int) -> Tensor:
    """Greedy max-min choice of vectors by cosine distance, in the order in which they are chosen.

    The first is the one farthest from its nearest neighbour; then always the one farthest from all that are chosen.

    Args:
        features: (N, d), N at least 2.
        count: How many, at most N.

    Returns:
        (count,) int64.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    distance = 1 - unit @ unit.T
    first = distance.kthvalue(2, dim=0).values.argmax()
    chosen, nearest = [first], distance[first]
    for _ in range(count - 1):
        chosen.append(nearest.argmax())
        nearest = nearest.minimum(distance[chosen[-1]])
    return torch.stack(chosen)
