"""DivPrune: keep the image tokens that lie farthest from each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import check_keep
from sinkbench.methods.pruning.select import SelectingIntervention

if TYPE_CHECKING:
    from sinkbench.engine.selection import Selected
    from sinkbench.methods.pruning.select import Choice

_DISTANCES = 1 << 27
"""Most distances between features in memory at once, in numbers."""


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

    def choose_all(self, choices: "Sequence[Choice]") -> "list[Selected]":
        """The most different features, of images of a size together: each choice waits for the one before it."""
        from sinkbench.engine.selection import Selected

        alike: dict[tuple[int, int], list[int]] = {}
        for number, each in enumerate(choices):
            alike.setdefault((len(each.places), each.count), []).append(number)
        chosen: dict[int, Selected] = {}
        for (n, count), numbers in alike.items():
            size = max(1, _DISTANCES // n**2)
            for group in (numbers[start : start + size] for start in range(0, len(numbers), size)):
                features = torch.stack([choices[number].image.features[choices[number].places] for number in group])
                for number, index in zip(group, most_different(features, count), strict=True):
                    chosen[number] = Selected(choices[number].places[index.sort().values])
        return [chosen[number] for number in range(len(choices))]


def most_different(features: Tensor, count: int) -> Tensor:
    """Greedy max-min choice of vectors by cosine distance, in the order in which they are chosen.

    The first is the one farthest from its nearest neighbour; then always the one farthest from all that are chosen.

    Args:
        features: (B, N, d), N at least 2.
        count: How many of each B, at most N.

    Returns:
        (B, count) int64.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    distance = 1 - unit @ unit.transpose(1, 2)
    each = torch.arange(len(features), device=features.device)
    chosen = [distance.kthvalue(2, dim=1).values.argmax(1)]
    nearest = distance[each, chosen[0]]
    for _ in range(count - 1):
        chosen.append(nearest.argmax(1))
        nearest = nearest.minimum(distance[each, chosen[-1]])
    return torch.stack(chosen, dim=1)
