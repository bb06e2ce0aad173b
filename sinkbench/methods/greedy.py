"""The baseline: the model as it is."""

from dataclasses import dataclass
from typing import ClassVar

from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo


class NoIntervention(Intervention):
    """The plain model."""

    capturable = True


@dataclass(frozen=True)
class Greedy(Method):
    """Edits nothing. Every comparison is against it."""

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "the plain model, no intervention"
    paper: ClassVar[None] = None
    family: ClassVar[str] = "decoding"
    cost: ClassVar[str] = "free"

    def bind(self, model: ModelInfo) -> Intervention:
        """Nothing to resolve."""
        return NoIntervention()
