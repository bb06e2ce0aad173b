"""Sampling: the plain model, each token drawn from its distribution."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.greedy import NoIntervention

if TYPE_CHECKING:
    from sinkbench.request import Generation


@dataclass(frozen=True)
class Sample(Method):
    """Direct multinomial sampling, the protocol of VCD and of papers that follow it (methods/baselines.md).

    Tables of sampled and of greedy answers must not be mixed. Draws are seeded with the run's seed and the request, so
    that batches do not change answers. In a composition, `sample+vcd`, the other method's scores are sampled from.

    Attributes:
        temperature: Divides the logits.
        top_p: Tokens beyond this probability mass are never drawn; 1 leaves all.
    """

    name: ClassVar[str] = "sample"
    summary: ClassVar[str] = "draws each token from the model's distribution"
    paper: ClassVar[None] = None
    family: ClassVar[str] = "decoding"
    cost: ClassVar[str] = "free"

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UsageError(
                f"sample.temperature={self.temperature} divides no logits",
                "Give a number above 0, or use the method greedy.",
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"sample.top_p={self.top_p} is no share", "Give a number in (0, 1].")

    def generation(self, generation: "Generation") -> "Generation":
        """Sampling, whatever the task asks for."""
        return replace(generation, do_sample=True, temperature=self.temperature, top_p=self.top_p)

    def bind(self, model: ModelInfo) -> Intervention:
        """Nothing to resolve."""
        return NoIntervention()
