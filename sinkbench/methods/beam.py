"""Beam search: the plain model, its most probable answer instead of its most probable next token."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.greedy import NoIntervention

if TYPE_CHECKING:
    from sinkbench.request import Generation


@dataclass(frozen=True)
class Beam(Method):
    """Beam search, the baseline of OPERA and PAI with 5 beams (methods/baselines.md).

    It gives the answers of transformers' `generate(num_beams=beams)`. In a composition, `pai+beam`, it searches with
    the log-softmax of the other method's scores.

    Attributes:
        beams: Hypotheses that are kept; 1 takes the most probable token at each step, as greedy does.
        length_penalty: Answers of n tokens are compared by log-probability / n^length_penalty.
    """

    name: ClassVar[str] = "beam"
    summary: ClassVar[str] = "searches for the most probable answer with several hypotheses"
    paper: ClassVar[None] = None
    family: ClassVar[str] = "decoding"
    cost: ClassVar[str] = "beams"

    beams: int = 5
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UsageError(f"beam.beams={self.beams} keeps no answer", "Give 1 or more.")

    def generation(self, generation: "Generation") -> "Generation":
        """Beam search.

        Raises:
            UsageError: The task, the command or another part of a composition samples.
        """
        return replace(generation, num_beams=self.beams, length_penalty=self.length_penalty)

    def bind(self, model: ModelInfo) -> Intervention:
        """Nothing to resolve."""
        return NoIntervention()
