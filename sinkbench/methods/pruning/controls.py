"""Controls at a method's budget: image tokens at random, evenly spaced, or averaged."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.budget import check_keep
from sinkbench.methods.pruning.select import SelectingIntervention

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage, Selected


@dataclass(frozen=True)
class _Control(Method):
    paper: ClassVar[None] = None
    edits: ClassVar[Stage] = Stage.VISION
    family: ClassVar[str] = "control"
    cost: ClassVar[str] = "free"
    selects: ClassVar[bool] = True

    keep: float = 0.25

    def __post_init__(self) -> None:
        check_keep(f"{self.name}.keep", self.keep)


@dataclass(frozen=True)
class Random(_Control):
    """Keeps image tokens at random, the same places in every image of the same number of tokens.

    Attributes:
        keep: Image tokens kept: a share up to 1, or a count.
        seed: Of the draw.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "keeps image tokens drawn at random"
    seed: int = 0

    def bind(self, model: ModelInfo) -> "RandomIntervention":
        """Nothing depends on the model."""
        return RandomIntervention(self.keep, self.seed)


class RandomIntervention(SelectingIntervention):
    """Draws.

    Args:
        keep: Share or count of the image tokens.
        seed: Of the draw.
    """

    def __init__(self, keep: float, seed: int) -> None:
        super().__init__(keep)
        self.seed = seed

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """A sample without replacement."""
        from sinkbench.engine.selection import Selected

        drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed))[:count]
        return Selected(places[drawn.sort().values.to(places.device)])


@dataclass(frozen=True)
class Uniform(_Control):
    """Keeps evenly spaced image tokens.

    Attributes:
        keep: Image tokens kept: a share up to 1, or a count.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "keeps evenly spaced image tokens"

    def bind(self, model: ModelInfo) -> "UniformIntervention":
        """Nothing depends on the model."""
        return UniformIntervention(self.keep)


class UniformIntervention(SelectingIntervention):
    """Takes one token of each of so many equal stretches, its middle one."""

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """Place ⌊(i + ½) · n / count⌋ for each i."""
        from sinkbench.engine.selection import Selected

        steps = (torch.arange(count, device=places.device) * 2 + 1) * len(places) // (2 * count)
        return Selected(places[steps])


@dataclass(frozen=True)
class Pool(_Control):
    """Averages image tokens: as many equal stretches of the reading order as tokens may stay, each by its mean.

    Attributes:
        keep: Image tokens left: a share up to 1, or a count.
    """

    name: ClassVar[str] = "pool"
    summary: ClassVar[str] = "averages neighbouring image tokens"

    def bind(self, model: ModelInfo) -> "PoolIntervention":
        """Nothing depends on the model."""
        return PoolIntervention(self.keep)


class PoolIntervention(SelectingIntervention):
    """Averages; a mean stands in the place of its stretch's middle token."""

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """Token t belongs to stretch ⌊t · count / n⌋."""
        from sinkbench.engine.selection import Selected

        n = len(places)
        stretch = torch.arange(n, device=places.device) * count // n
        sums = torch.zeros(count, image.features.shape[1], device=places.device).index_add_(
            0, stretch, image.features[places].float()
        )
        means = sums / stretch.bincount(minlength=count)[:, None]
        middle = (torch.arange(count, device=places.device) * 2 + 1) * n // (2 * count)
        return Selected(places[middle], means.to(image.features.dtype))
