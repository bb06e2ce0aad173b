"""ICD: contrast with the same model under an instruction that misleads it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method, ModelInfo, Paper
from sinkbench.methods.vcd import contrast

if TYPE_CHECKING:
    from sinkbench.request import Request


@dataclass(frozen=True)
class Icd(Method):
    """Instruction Contrastive Decoding.

    The second branch has another system prompt and sees the same image. The released code tries five instructions, and
    which of them the published rows use was not verified; the wording here is ours.

    Attributes:
        instruction: System prompt of the second branch.
        alpha: Strength of the contrast.
        beta: Plausibility cut: a token needs at least this fraction of the most probable token's probability.
    """

    name: ClassVar[str] = "icd"
    summary: ClassVar[str] = "contrasts with a branch whose system prompt misleads"
    paper: ClassVar[Paper] = Paper(
        title="Mitigating Hallucinations in Large Vision-Language Models with Instruction Contrastive Decoding",
        authors="Wang et al.",
        venue="ACL Findings 2024",
        arxiv="2403.18715",
        code="p1k0pan/ICD@2fa44c5",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "contrastive decoding"
    cost: ClassVar[str] = "branch"

    instruction: str = "You take objects for others and often see what is not there."
    alpha: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UsageError("icd.instruction is empty", "Give the system prompt of the second branch.")
        if not 0 < self.beta <= 1:
            raise UsageError(f"icd.beta={self.beta} is no share of a probability", "Give a number in (0, 1].")

    @property
    def contrasts(self) -> bool:
        """Always."""
        return True

    @property
    def contrasts_images(self) -> bool:
        """The branch sees the image."""
        return True

    def bind(self, model: ModelInfo) -> "IcdIntervention":
        """Nothing depends on the model."""
        return IcdIntervention(self)


class IcdIntervention(Intervention):
    """ICD on a model."""

    capturable = True

    def __init__(self, method: Icd) -> None:
        self.method = method

    def contrast_request(self, request: "Request") -> "Request":
        """The same request under the other system prompt."""
        from sinkbench.request import Message

        turns = tuple(message for message in request.messages if message.role != "system")
        return replace(request, messages=(Message("system", self.method.instruction), *turns))

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Contrast the two branches, in VCD's form."""
        assert ctx.contrast_logits is not None
        return contrast(logits, ctx.contrast_logits, self.method.alpha, self.method.beta)
