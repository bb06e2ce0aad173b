"""ICD: contrast with the same model under an instruction that misleads it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from sinkbench.engine.context import Stage
from sinkbench.errors import UsageError
from sinkbench.methods.contrastive import Contrastive, ContrastiveIntervention
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.request import Request


@dataclass(frozen=True)
class Icd(Contrastive):
    """Instruction Contrastive Decoding.

    The second branch has another system prompt and sees the same image. The released code tries five instructions, and
    which of them the published rows use was not verified; the wording here is ours.

    Attributes:
        instruction: System prompt of the second branch.
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

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise UsageError("icd.instruction is empty", "Give the system prompt of the second branch.")
        super().__post_init__()

    def bind(self, model: ModelInfo) -> "IcdIntervention":
        """Nothing depends on the model."""
        return IcdIntervention(self)


class IcdIntervention(ContrastiveIntervention):
    """ICD on a model."""

    method: Icd

    def contrast_request(self, request: "Request") -> "Request":
        """The same request under the other system prompt."""
        from sinkbench.request import Message

        turns = tuple(message for message in request.messages if message.role != "system")
        return replace(request, messages=(Message("system", self.method.instruction), *turns))
