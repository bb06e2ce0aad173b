"""M3ID: the longer the answer, the more weight on what the image changes in the next token's distribution."""

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt


def correct(seeing: Tensor, blind: Tensor, weight: float, certain: float) -> Tensor:
    """Move log-probabilities c (B, V) by weight·(c − u) where no token's probability reaches `certain`.

    Args:
        seeing: (B, V) logits with the image, c.
        blind: (B, V) logits without it, u.
        weight: (1 − γ_t) / γ_t.
        certain: α_m; a more confident distribution stays.

    Returns:
        (B, V) scores.
    """
    c, u = seeing.log_softmax(-1), blind.log_softmax(-1)
    unsure = c.amax(-1, keepdim=True).exp() < certain
    return torch.where(unsure, c + weight * (c - u), c)


@dataclass(frozen=True)
class M3id(Method):
    """Multi-Modal Mutual Information Decoding.

    No official code is known, and the paper's λ and α_m were not verified: the defaults are ours.

    Attributes:
        decay: λ: the image counts γ_t = e^(−λt) after t generated tokens, and the correction makes up for the rest.
        certain: α_m: distributions whose largest probability reaches it stay as they are.
    """

    name: ClassVar[str] = "m3id"
    summary: ClassVar[str] = "contrasts with an image-free branch, the more the longer the answer is"
    paper: ClassVar[Paper] = Paper(
        title="Multi-Modal Hallucination Control by Visual Information Grounding",
        authors="Favero et al.",
        venue="CVPR 2024",
        arxiv="2403.14003",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "contrastive decoding"
    cost: ClassVar[str] = "branch"

    decay: float = 0.02
    certain: float = 0.3

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise UsageError(f"m3id.decay={self.decay}: the image cannot gain weight", "Give a number of at least 0.")

    @property
    def contrasts(self) -> bool:
        """Always."""
        return True

    def bind(self, model: ModelInfo) -> "M3idIntervention":
        """Nothing depends on the model."""
        return M3idIntervention(self)


class M3idIntervention(Intervention):
    """M3ID on a model."""

    capturable = True

    def __init__(self, method: M3id) -> None:
        self.method = method

    def contrast(self, prompt: "Prompt") -> "Prompt":
        """The same prompt without its images."""
        return prompt.without_images()

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Correct by the step: γ = 1, so nothing, for the first token."""
        assert ctx.contrast_logits is not None
        weight = exp(self.method.decay * ctx.step) - 1
        return correct(logits, ctx.contrast_logits, weight, self.method.certain)
