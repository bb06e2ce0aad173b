"""VHR: reinforce the heads whose outputs change most when the image is taken away."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.diagnostics.head_divergence import head_divergence
from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt


def select_heads(seeing: Tensor, blind: Tensor, drop_outliers: bool) -> Tensor:
    """Heads (B, H) bool whose divergence exceeds the layer's median (Eq. 4, 6 and 7).

    An outlier is a head whose divergence, and whose output without the image, both exceed their mean by more than a
    standard deviation over heads (unbiased): it surges because the image is missing.

    Args:
        seeing: (B, H, d) outputs of the last row with the image.
        blind: (B, H, d) the same without it.
        drop_outliers: Whether outliers count as 0.
    """
    divergence = head_divergence(seeing, blind)
    if drop_outliers:
        surges = _stands_out(divergence) & _stands_out(blind.float().norm(dim=-1))
        divergence = divergence.masked_fill(surges, 0)
    return divergence > divergence.quantile(0.5, dim=1, keepdim=True)


def _stands_out(values: Tensor) -> Tensor:
    return values > values.mean(1, keepdim=True) + values.std(1, keepdim=True)


@dataclass(frozen=True)
class Vhr(Method):
    """Vision-aware Head Reinforcement, layer by layer: a layer's heads are judged with those before it reinforced.

    The released code was not reachable; what the paper leaves open are parameters here (spec §2). Only the last row of
    the prompt is reinforced, so that prefixes stay shared.

    Attributes:
        alpha: Factor of the selected heads' outputs; the paper's 2, and 4 breaks the model.
        n_layers: How many of the last layers are reinforced; 0 means 14 of 32, of other depths as many in proportion
            (a third party's numbers, not verified).
        drop_outliers: Whether heads that surge without the image are left out.
        branch_reinforced: Whether the image-free branch is reinforced too (not stated).
    """

    name: ClassVar[str] = "vhr"
    summary: ClassVar[str] = "reinforces heads whose outputs change most when the image is taken away"
    paper: ClassVar[Paper] = Paper(
        title="Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence",
        authors="He et al.",
        venue="ACL 2025",
        arxiv="2412.13949",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "heads"
    cost: ClassVar[str] = "passes"

    alpha: float = 2.0
    n_layers: int = 0
    drop_outliers: bool = True
    branch_reinforced: bool = True

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.n_layers < 0:
            raise UsageError(
                f"vhr.alpha={self.alpha}, vhr.n_layers={self.n_layers}",
                "Neither can be negative; alpha=1 does nothing.",
            )

    @property
    def contrasts(self) -> bool:
        """A branch without image runs beside the end of the prompt."""
        return True

    def bind(self, model: ModelInfo) -> "VhrIntervention":
        """Resolve the layers."""
        count = self.n_layers or max(1, round(model.n_layers * 14 / 32))
        if count > model.n_layers:
            raise UsageError(
                f"vhr.n_layers={count}, and {model.name} has {model.n_layers}", f"At most {model.n_layers}."
            )
        return VhrIntervention(self, range(model.n_layers - count, model.n_layers))


class VhrIntervention(Intervention):
    """VHR on a model: heads are chosen at the last row of the prompt and stay for the whole answer."""

    paired_branch = True
    capturable = True

    def __init__(self, method: Vhr, layers: range) -> None:
        self.method, self.layers = method, layers

    def contrast(self, prompt: "Prompt") -> "Prompt":
        """The same prompt without its images."""
        return prompt.without_images()

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Choose heads, and reinforce their outputs in the last row (Eq. 8)."""
        if layer not in self.layers or not ctx.emits:
            return heads
        name = f"vhr.heads.{layer}"
        if ctx.stage is Stage.SUFFIX:
            seeing, blind = heads[:, -1].chunk(2)
            chosen = select_heads(seeing, blind, self.method.drop_outliers)
            ctx.state[name] = torch.cat((chosen, chosen if self.method.branch_reinforced else chosen & False))
        factor = torch.where(ctx.state[name], self.method.alpha, 1.0).to(heads.dtype)
        return torch.cat((heads[:, :-1], heads[:, -1:] * factor[:, None, :, None]), dim=1)
