"""PAI: amplify the scores of image tokens in the last row, and contrast with the model that sees no image."""

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt


def refine_logits(conditional: Tensor, unconditional: Tensor, gamma: float, cut: float) -> Tensor:
    """γ·c − (γ−1)·u on log-probabilities, −inf where c is implausible (PAI, spec §2 part 2).

    Args:
        conditional: (B, V) logits with the image.
        unconditional: (B, V) logits of the same prompt without it.
        gamma: Strength; 1 leaves the log-probabilities of `conditional`.
        cut: A token needs at least this fraction of the most probable token's probability.

    Returns:
        (B, V) scores.
    """
    c, u = conditional.log_softmax(-1), unconditional.log_softmax(-1)
    if gamma == 1:
        return c
    refined = gamma * (c - u) + u
    return refined.masked_fill(c < c.amax(-1, keepdim=True) + log(cut), float("-inf"))


@dataclass(frozen=True)
class Pai(Method):
    """Pay Attention to Image.

    Attributes:
        alpha: Scores of image tokens grow by alpha·|score| before the softmax.
        gamma: Strength of the contrast with the image-free branch; 1 turns the branch off.
        cut: Plausibility cut of the contrast.
        start: First amplified layer, 0-based.
        end: One past the last amplified layer; 0 means all up to the last.
        first_token: Whether the last prompt row is amplified: "always", or "code" as released, where it is not
            while the contrast is on (spec §5).
    """

    name: ClassVar[str] = "pai"
    summary: ClassVar[str] = "amplifies image scores in the last row; contrasts with an image-free branch"
    paper: ClassVar[Paper] = Paper(
        title="Paying More Attention to Image: A Training-Free Method for Alleviating Hallucination in LVLMs",
        authors="Liu et al.",
        venue="ECCV 2024",
        arxiv="2407.21771",
        code="LALBJ/PAI@9bbd8bd",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "branch"

    alpha: float = 0.5
    gamma: float = 1.1
    cut: float = 0.1
    start: int = 2
    end: int = 0
    first_token: Literal["always", "code"] = "code"

    def __post_init__(self) -> None:
        if not 0 < self.cut <= 1:
            raise UsageError(f"{self.name}.cut={self.cut} is no share of a probability", "Give a number in (0, 1].")

    @property
    def contrasts(self) -> bool:
        """The image-free branch runs unless gamma is 1."""
        return self.gamma != 1

    def bind(self, model: ModelInfo) -> "PaiIntervention":
        """Resolve the layer range."""
        return PaiIntervention(self, self.amplified_layers(model))

    def amplified_layers(self, model: ModelInfo) -> range:
        """The layers from `start` to `end`.

        Raises:
            UsageError: The model has fewer.
        """
        name, end = self.name, self.end or model.n_layers
        if not 0 <= self.start <= end <= model.n_layers:
            raise UsageError(
                f"{name} amplifies layers {self.start} to {end}, but {model.name} has {model.n_layers}",
                f"Give 0 <= {name}.start <= {name}.end <= {model.n_layers} ({name}.end=0: up to the last).",
            )
        return range(self.start, end)


class PaiIntervention(Intervention):
    """PAI on a model.

    Args:
        method: Hyper-parameters.
        layers: Amplified layers.
    """

    capturable = True
    n_groups = 2

    def __init__(self, method: Pai, layers: range) -> None:
        self.method = method
        self.layers = layers
        self.amplifies_prompt = method.first_token == "always" or not method.contrasts

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """The last prompt row and every decode row."""
        in_stage = ctx.stage is Stage.DECODE or (ctx.stage is Stage.SUFFIX and self.amplifies_prompt)
        return ctx.last_row if in_stage and ctx.emits and layer in self.layers else None

    def key_groups(self, layer: int, ctx: Context) -> Tensor:
        """(B, K) codes: 1 for image tokens, 0 for the rest."""
        return ctx.is_image.long()

    def score_gains(self, layer: int) -> tuple[float, ...]:
        """E ← E + alpha·|E| on image tokens (spec §2 part 1)."""
        return 0.0, self.method.alpha

    def contrast(self, prompt: "Prompt") -> "Prompt | None":
        """The same prompt without its image tokens."""
        return prompt.without_images() if self.method.contrasts else None

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Contrast with the image-free branch, where there is one."""
        if ctx.contrast_logits is None:
            return logits
        return refine_logits(logits, ctx.contrast_logits, self.method.gamma, self.method.cut)
