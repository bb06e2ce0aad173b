"""Attention Debiasing: another pruning method's scores without their trend along the image, and without padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.diagnostics.padding_patches import square_padding
from sinkbench.engine.context import Context, Role
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt
    from sinkbench.request import ImageRef

Form = Literal["exp", "cubic", "empirical"]
Canvas = Literal["none", "square"]

WEIGHT = "debias.weight"
"""What `ctx.state` holds: (B, K) float32, the weight of each image token's score; 0 for padding and all else."""


@dataclass(frozen=True)
class Debias(Method):
    """Attention Debiasing, a part of compositions such as `fastv+debias`; it weighs the first ranking only.

    Tokens of later stages of a method are ranked by their raw scores, as in the released patches.

    Attributes:
        host: The method whose scores have the trend; another one is refused. Empty: any. Unless it is given, it is the
            one of the composition; a calibration alone measures fastv's.
        form: How the score grows along an image, with x from 0 at its first token to 1 at its last: "exp", t = e^(b·x);
            "cubic", t = 1 + c1·x + c2·x² + c3·x³; "empirical", given by weights. A token's weight is 1 / t.
        trend: exp: b, which is 575 times the b per token of the released weights for 576 tokens. cubic: c1, c2 and c3.
            empirical: weights at evenly spaced x from 0 to 1, and straight lines between them.
        canvas: What images are put on: "square" where they are padded to squares, as for LLaVA-1.5 (the model preset's
            image_padding); "none" where nothing is padding.
        padding: A token is padding, and scores below all others, if more than this share of its patch is. The released
            patches have 0.5 (FastV, HiMAP, TokenCarve) and 0.01 (PyramidDrop).
    """

    name: ClassVar[str] = "debias"
    summary: ClassVar[str] = "takes the trend along the image, and padding, out of a pruning method's scores"
    paper: ClassVar[Paper] = Paper(
        title="Attention Debiasing for Token Pruning in Vision-Language Models",
        authors="Zhao et al.",
        venue="arXiv 2025",
        arxiv="2508.17807",
        code="intcomp/attention-bias@e75ebe7",
    )
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "free"
    calibration: ClassVar[str] = "trend of the pruning method's scores along the image"
    calibrated_for: ClassVar[str] = "host"
    weighs: ClassVar[bool] = True

    host: str = ""
    form: Form = "exp"
    trend: tuple[float, ...] = ()
    canvas: Canvas = "none"
    padding: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.padding < 1:
            raise UsageError(f"debias.padding={self.padding:g} is no share of a patch", "Give 0 to below 1.")
        if self.trend:
            self._check_trend()

    def _check_trend(self) -> None:
        wanted = {"exp": "one number, b", "cubic": "three numbers, c1, c2 and c3", "empirical": "two weights or more"}
        fits = {"exp": len(self.trend) == 1, "cubic": len(self.trend) == 3, "empirical": len(self.trend) > 1}
        if not fits[self.form]:
            raise UsageError(
                f"debias.trend={list(self.trend)}: the form {self.form} has {wanted[self.form]}",
                "For example: --set debias.form=exp --set debias.trend=[1.2].",
            )
        weights = trend_weights(self.form, self.trend, torch.linspace(0, 1, 1001, dtype=torch.float64))
        if not bool((weights.isfinite() & (weights > 0)).all()):
            raise UsageError(
                f"debias.trend={list(self.trend)}: a weight of the form {self.form} is not above 0",
                "Give numbers by which no score becomes negative.",
            )

    def check_beside(self, others: Sequence[Method]) -> None:
        """Refuse hosts with another trend, and methods after which a token's place in its image is not known."""
        if selecting := [other.name for other in others if other.selects]:
            raise UsageError(
                f"debias goes by the place of a token in its image, and {selecting[0]} takes tokens out before",
                f"Leave {selecting[0]} out.",
            )
        ranking = next((other.name for other in others if other.scores), "")
        if self.host and ranking and self.host != ranking:
            raise UsageError(
                f"debias.trend is of {self.host}'s scores, and {ranking} ranks by others",
                f"Calibrate it for {ranking}: sinkbench calibrate debias --model NAME --task scenes_pope --set "
                f"debias.host={ranking}; or use this trend all the same: --set 'debias.host=\"\"'.",
            )

    def bind(self, model: ModelInfo) -> "DebiasIntervention":
        """Nothing depends on the model.

        Raises:
            UsageError: There is no trend.
        """
        if not self.trend:
            scores, host = (f" for {self.host}'s scores", f" --set debias.host={self.host}") if self.host else ("", "")
            raise UsageError(
                f"debias.trend is not known of {model.name}{scores}",
                f"Measure it: sinkbench calibrate debias --model {model.name} --task scenes_pope{host}. Or take a "
                "published one: --set debias.profile=NAME, `sinkbench list methods debias` shows them; or --set "
                "debias.trend=[B].",
            )
        return DebiasIntervention(self)


def trend_weights(form: Form, trend: Sequence[float], x: Tensor) -> Tensor:
    """Weight t(0) / t(x) of a token's score (spec §2 step 2), of x's shape.

    Args:
        form: See `Debias.form`.
        trend: See `Debias.trend`.
        x: Places in the image, from 0 to 1; float64.
    """
    if form == "exp":
        return (-trend[0] * x).exp()
    if form == "cubic":
        c1, c2, c3 = trend
        return 1 / (1 + x * (c1 + x * (c2 + x * c3)))
    known = torch.tensor(trend, dtype=x.dtype)
    at = x * (len(known) - 1)
    before = at.floor().long().clamp_max(len(known) - 2)
    return torch.lerp(known[before], known[before + 1], at - before)


def places_in_image(n: int) -> Tensor:
    """(n,) float64: x of the tokens of an image in raster order; 0 for a single one."""
    return torch.linspace(0, 1, n, dtype=torch.float64)


def image_tokens(prompt: "Prompt", canvas: Canvas) -> list[Tensor]:
    """Places (n,) of each image's tokens in a prompt, separators left out.

    How many tokens an image has is not said anywhere: an unbroken run of image features is taken for one image, so that
    images of a prompt with nothing between them count as one. On a square canvas, where all have the same number, such
    a run is cut evenly.
    """
    features = (prompt.ids == prompt.image_token).nonzero().flatten()
    gaps = (features.diff() > 1).nonzero().flatten() + 1
    runs = features.tensor_split(gaps.tolist()) if len(features) else ()
    if canvas == "square" and len(runs) != len(prompt.images):
        runs = features.tensor_split(len(prompt.images))
    return [run[prompt.roles[run] == Role.IMAGE] for run in runs]


def is_content(image: "ImageRef", n: int, canvas: Canvas, padding: float) -> Tensor:
    """(n,) bool: the tokens of an image that are no padding (spec §2 step 1).

    All are where none would be [ours], as in an image of a thousand by ten pixels.

    Args:
        image: The image; only its size is read, and only on a square canvas.
        n: How many tokens it has, a square number on a square canvas.
        canvas: See `Debias.canvas`.
        padding: See `Debias.padding`.

    Raises:
        UsageError: The tokens of an image on a square canvas make no square.
        SampleError: The image cannot be read.
    """
    if canvas == "none":
        return torch.ones(n, dtype=torch.bool)
    grid = isqrt(n)
    if grid * grid != n:
        raise UsageError(
            f"debias.canvas=square, and an image has {n} tokens, which make no square",
            "Leave it at none where images are not padded to squares.",
        )
    content = ~square_padding(*image.size(), grid, padding)
    return content if content.any() else ~content


def images_of(prompt: "Prompt", method: Debias) -> list[tuple[Tensor, Tensor]]:
    """Of each image of a prompt the places (n,) of its tokens, and which of these are content (n,) bool."""
    places = image_tokens(prompt, method.canvas)
    # Sizes are looked at on a square canvas only; otherwise there may be fewer runs than images.
    images = prompt.images if method.canvas == "square" else prompt.images[:1] * len(places)
    return [
        (own, is_content(image, len(own), method.canvas, method.padding))
        for image, own in zip(images, places, strict=True)
    ]


class DebiasIntervention(Intervention):
    """Attention Debiasing on a model.

    Args:
        method: Its parameters, with a trend.
    """

    capturable = True

    def __init__(self, method: Debias) -> None:
        self.method = method

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """The weights (spec §2 step 3); places are counted anew in each image [ours]."""
        m, weights = self.method, torch.zeros(len(prompt))
        for places, content in images_of(prompt, m):
            own = trend_weights(m.form, m.trend, places_in_image(len(places)))
            weights[places] = (own * content).to(weights.dtype)
        return {WEIGHT: weights}

    def weigh_tokens(self, scores: Tensor, ctx: Context) -> Tensor:
        """Scores without the trend; −inf for what is padding."""
        weights = ctx.state[WEIGHT]
        return (scores * weights).masked_fill(weights == 0, -torch.inf)
