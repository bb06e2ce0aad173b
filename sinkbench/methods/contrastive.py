"""What VCD and its kin share: a second branch that also sees an image, and one way to contrast the two."""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from sinkbench.engine.context import Context
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method


def contrast(clear: Tensor, misled: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 + α)·c − α·u on logits (B, V), −inf where c < max c + log β (VCD, arXiv 2311.16922)."""
    scores = (1 + alpha) * clear - alpha * misled
    return scores.masked_fill(clear < clear.amax(-1, keepdim=True) + log(beta), -torch.inf)


@dataclass(frozen=True)
class Contrastive(Method):
    """A method that contrasts with a branch which sees an image.

    Attributes:
        alpha: Strength of the contrast.
        beta: Plausibility cut: a token needs at least this fraction of the most probable token's probability.
    """

    alpha: float = 1.0
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1:
            raise UsageError(f"{self.name}.beta={self.beta} is no share of a probability", "Give a number in (0, 1].")

    @property
    def contrasts(self) -> bool:
        """Always."""
        return True

    @property
    def contrasts_images(self) -> bool:
        """The branch sees an image."""
        return True


class ContrastiveIntervention(Intervention):
    """Contrasts the two branches; a subclass says what the second one is.

    Args:
        method: Hyper-parameters.
    """

    capturable = True

    def __init__(self, method: Contrastive) -> None:
        self.method = method

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Contrast the two branches."""
        assert ctx.contrast_logits is not None
        return contrast(logits, ctx.contrast_logits, self.method.alpha, self.method.beta)
