"""GIFT: see where the query's content words shift attention to in the image, then amplify that in the last row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.content_words import content_words, require_tagger
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.heads import top_heads

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt

CONTENT, MAP = "gift.content", "gift.map"
"""What `ctx.state` holds: the rows that count, (B, K) bool; and M of spec §2, (B, K)."""


@dataclass(frozen=True)
class Gift(Method):
    """Gaze Shift-Guided Cross-modal Fusion Enhancement, in the form that needs one prefill (spec §3).

    Attributes:
        alpha: Image tokens are amplified by up to e^alpha.
        beta: Query tokens are amplified by beta times the image's mean gain.
        saliency_layers: Layers that stage A looks at, 0-based; empty means at LLaVA-1.5-7B's relative depth, 11/32.
        enhance_layers: Layers that stage B edits; empty means the next ones, to 22/32 (for other models: our choice).
        content: Rows that count: "pos" those of content words, "all" those of all query tokens.
        dedupe_words: Only the last of equal words counts, as in the released code (spec §5).
    """

    name: ClassVar[str] = "gift"
    summary: ClassVar[str] = "amplifies image regions that the query's words draw attention to, and the query with them"
    paper: ClassVar[Paper] = Paper(
        title="Capturing Gaze Shifts for Guidance: Cross-Modal Fusion Enhancement for VLM Hallucination Mitigation",
        authors="Qi et al.",
        venue="arXiv 2025",
        arxiv="2510.22067",
        code="amazon-science/GIFT@e20b8a9",
    )
    edits: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    observes: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "attention"
    cost: ClassVar[str] = "rows"

    alpha: float = 5.0
    beta: float = 1.0
    saliency_layers: tuple[int, ...] = ()
    enhance_layers: tuple[int, ...] = ()
    content: Literal["pos", "all"] = "pos"
    dedupe_words: bool = False

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta <= 0:
            given = f"gift.alpha={self.alpha}, gift.beta={self.beta}"
            raise UsageError(f"{given}: GIFT only amplifies", "Give alpha >= 0 and beta > 0.")

    def bind(self, model: ModelInfo) -> "GiftIntervention":
        """Resolve the layers, and make sure of the tagger."""
        saliency = self.saliency_layers or (round(model.n_layers * 11 / 32),)
        after = max(saliency) + 1
        enhance = self.enhance_layers or tuple(range(after, max(after, round(model.n_layers * 22 / 32)) + 1))
        model.check_layers("gift.saliency_layers", saliency)
        model.check_layers("gift.enhance_layers", enhance)
        if self.content == "pos":
            require_tagger("gift.content=pos")
        return GiftIntervention(self, saliency, enhance)


class GiftIntervention(Intervention):
    """GIFT on a model: stage A looks at all rows but the last, stage B edits the last and every decode row."""

    last_token_alone = True
    capturable = True

    def __init__(self, method: Gift, saliency: tuple[int, ...], enhance: tuple[int, ...]) -> None:
        self.method, self.saliency, self.enhance = method, saliency, enhance

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """The rows that count; all query rows where no word has content (spec §5)."""
        query = prompt.roles == Role.QUERY
        query[-1] = False  # Stage B edits this row with what stage A found.
        if self.method.content == "pos":
            content = prompt.mark(lambda text: content_words(text, self.method.dedupe_words)) & query
            query = content if content.any() else query
        return {CONTENT: query}

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """Stage A: from before the first row that counts to the end; the next pass is compared with the last token."""
        if ctx.emits:
            return ctx.last_row if layer in self.enhance else None
        if layer not in self.saliency:
            return None
        counting = ctx.state[CONTENT][:, ctx.start :].int().argmax(1)
        counts = ctx.state[CONTENT][:, ctx.start :].any(1)
        latest = _latest(ctx.is_valid[:, ctx.start :])
        first = torch.where(counts, (counting - 1).clamp_min(0).minimum(latest), latest)
        return slice(int(first.min()), ctx.n_queries)

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Look (stage A) or amplify (stage B)."""
        if ctx.emits:
            return self.amplify(weights, ctx)
        self.observe_shifts(layer, weights, ctx)
        return weights

    def observe_shifts(self, layer: int, weights: Tensor, ctx: Context) -> None:
        """Sum over rows that count: how much more each looks at an image token than the row before (steps 1, 2)."""
        rows = slice(ctx.n_keys - weights.shape[2], ctx.n_keys)
        last, valid = self.seen("last", layer, weights, ctx)[:, :, None], ctx.is_valid[:, rows]
        # Padding parts a sample's prefix from its suffix: carry the last row over it.
        looks = torch.where(valid[:, None, :, None], weights * ctx.is_image[:, None, None], last)
        shifts = (looks - torch.cat((last, looks[:, :, :-1]), dim=2)).clamp_min(0)
        shift = (shifts * ctx.state[CONTENT][:, None, rows, None]).sum(2)
        ctx.state[f"gift.shift.{layer}"] = self.seen("shift", layer, weights, ctx) + shift
        latest = _latest(valid)[:, None, None, None]
        ctx.state[f"gift.last.{layer}"] = looks.take_along_dim(latest, dim=2)[:, :, 0]

    def seen(self, name: str, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """What stage A has kept of earlier passes, (B, H, K); zero before the first."""
        return ctx.extend(ctx.state.get(f"gift.{name}.{layer}", weights[:, :, 0, :0]))

    def shift_score(self, weights: Tensor, ctx: Context) -> Tensor:
        """s_j (B, K): mean over rows, layers and the half of the heads that shift most (steps 3, 4)."""
        shifts = torch.stack([self.seen("shift", layer, weights, ctx) for layer in self.saliency], dim=2)
        kept = top_heads(shifts.sum(-1), shifts.shape[1] // 2)
        count = kept[0].sum() * ctx.state[CONTENT].sum(1, keepdim=True)
        return (shifts * kept[..., None]).sum((1, 2)) / count.clamp_min(1)

    def amplify(self, weights: Tensor, ctx: Context) -> Tensor:
        """Steps 5 to 8 on weights (B, H, 1, K); samples without an image stay as they are."""
        if MAP not in ctx.state:
            ctx.state[MAP] = saliency_map(self.shift_score(weights, ctx), ctx.is_image, self.method.alpha)
        gain = ctx.extend(ctx.state[MAP], fill=1)[:, None, None]
        image, query, half = ctx.is_image[:, None, None], ctx.is_query[:, None, None], weights.shape[1] // 2
        seeing = top_heads((weights * image).sum(-1), half)[..., None] & image
        enhanced = torch.where(seeing, weights * gain, weights)
        before, after = ((values * seeing).sum((1, 3), keepdim=True) for values in (weights, enhanced))
        ratio = torch.where(before > 0, self.method.beta * after / before, 1.0)
        asking = top_heads((weights * query).sum(-1), half)[..., None] & query
        enhanced = torch.where(asking, enhanced * ratio, enhanced)
        return enhanced / enhanced.sum(-1, keepdim=True)


def _latest(valid: Tensor) -> Tensor:
    """Index (B,) of the last row that is no padding, from (B, R) bool; 0 where all are."""
    return (valid * torch.arange(valid.shape[1], device=valid.device)).argmax(1)


def saliency_map(scores: Tensor, image: Tensor, alpha: float) -> Tensor:
    """M (B, K): e to alpha times the image's scores (B, K), clipped at 3 deviations, stretched to [0, 1] (step 4)."""
    count = image.sum(1, keepdim=True)
    mean = (scores * image).sum(1, keepdim=True) / count.clamp_min(1)
    deviation = ((scores - mean).square() * image).sum(1, keepdim=True).div((count - 1).clamp_min(1)).sqrt()
    scores = scores.clamp(mean - 3 * deviation, mean + 3 * deviation)
    low = scores.masked_fill(~image, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~image, -torch.inf).amax(1, keepdim=True)
    return torch.where(image & (high > low), alpha * (scores - low) / (high - low), 0.0).exp()
