"""Dual-stream selection: amplify the image tokens that the vision encoder looks at, and its outliers by less."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pai import Pai, PaiIntervention

TOP, BOTTOM = 1, 2
"""Groups of image tokens, T and Bt of spec §2; all other keys are in group 0. A token that is merged of patches of
several groups is in the highest, so that the outliers come out of the top set here as well."""

GROUPS = "dual_stream.groups"
"""What `ctx.state` holds: the group of each key, (B, K) int64."""


def top_share(scores: Tensor, ratio: float) -> Tensor:
    """(V, P) bool: in each view the ⌊ratio·P⌋ patches with the highest scores (V, P) (spec §2 step 1)."""
    top = scores.topk(int(ratio * scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, top, True)


def outliers(scores: Tensor) -> Tensor:
    """(V, P) bool: in each view the patches whose score exceeds Q3 + 1.5·IQR (spec §2 step 3).

    As the top ⌊ρ·P⌋ patches, with ρ their share, these are the same ones; but that product can round down to one less.
    """
    low, high = (scores.quantile(share, dim=1, keepdim=True) for share in (0.25, 0.75))
    return scores > high + 1.5 * (high - low)


@dataclass(frozen=True)
class DualStream(Pai):
    """The released code of "Fixing Imbalanced Attention": PAI, with image tokens chosen by the vision encoder.

    Sets are chosen once for each image, and for each of its views (tiles) apart. The paper itself was not reachable,
    and of the head-specific modulation in its abstract the released code has nothing: `heads` is ours.

    Attributes:
        alpha: Scores of the top set, the patches that the first vision layer looks at most, grow by alpha·|score|.
        gamma: Strength of PAI's contrast with the image-free branch; 1 turns the branch off.
        cut: Plausibility cut of the contrast.
        start: First amplified layer, 0-based.
        end: One past the last amplified layer; 0 means all up to the last.
        first_token: Whether the last prompt row is amplified: "always", or "code" as released, where it is not
            while the contrast is on (PAI's quirk).
        beta: Scores of the outliers of the penultimate vision layer grow by beta·|score|; 0.4 is at the centre of the
            released results, the command line's own default is 0.3.
        local_ratio: Share of a view's patches in the top set.
        spatial_ratio: Share of a view's patches that join it for the attention that they receive from all patches of
            the first vision layer. Ours: the released code sums what a patch gives, always 1, and has it turned off.
        queries: Whose looks choose: "cls" the class token's, or "mean" those of all patches, for encoders without a
            class token (ours).
        heads: "all" are amplified by alpha, or "sensitive" ones more (ours): alpha shrinks by a head's attention to the
            image in the row at hand, relative to the layer's most attentive head.
    """

    name: ClassVar[str] = "dual_stream"
    summary: ClassVar[str] = "amplifies image tokens that the vision encoder looks at, and its outliers by less"
    paper: ClassVar[Paper] = Paper(
        title="Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language Model",
        authors="Arif et al.",
        venue="arXiv 2025",
        arxiv="2501.12206",
        code="hasanar1f/llava-hallunication-fix@c5ee7da",
    )
    observes: ClassVar[Stage] = Stage.VISION

    alpha: float = 0.7
    beta: float = 0.4
    local_ratio: float = 0.25
    spatial_ratio: float = 0.0
    queries: Literal["cls", "mean"] = "cls"
    heads: Literal["all", "sensitive"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("local_ratio", "spatial_ratio"):
            if not 0 <= (ratio := getattr(self, name)) <= 1:
                raise UsageError(f"dual_stream.{name}={ratio} is no share of the patches", "Give a number from 0 to 1.")

    def bind(self, model: ModelInfo) -> "DualStreamIntervention":
        """Resolve the layer range, and make sure of the class token."""
        if self.queries == "cls" and not model.vision_class_tokens:
            raise UsageError(
                f"dual_stream.queries=cls: the vision encoder of {model.name} has no class token",
                "Give --set dual_stream.queries=mean to choose by what all patches look at (ours, not the paper's).",
            )
        kind = SensitiveHeads if self.heads == "sensitive" else DualStreamIntervention
        return kind(self, self.amplified_layers(model))


class DualStreamIntervention(PaiIntervention):
    """Dual-stream selection on a model; rows, layers and the contrast are PAI's."""

    n_groups = 3
    vision_layers = (0, -2)
    method: DualStream

    def mark_patches(self, attention: Sequence[Tensor], class_tokens: int) -> dict[str, Tensor]:
        """The group of each patch (spec §2 steps 1 to 4)."""
        first, penultimate = attention
        top = top_share(self.looked_at(first, class_tokens), self.method.local_ratio)
        if self.method.spatial_ratio:
            received = first[:, :, class_tokens:, class_tokens:].mean(1).sum(1)
            top |= top_share(received, self.method.spatial_ratio)
        bottom = outliers(self.looked_at(penultimate, class_tokens))
        return {GROUPS: torch.where(bottom, BOTTOM, top * TOP)}

    def looked_at(self, attention: Tensor, class_tokens: int) -> Tensor:
        """(V, P): attention on each patch, summed over heads, from the weights (V, H, N, N) of a vision layer."""
        on_patches = attention[..., class_tokens:]
        by_head = on_patches[:, :, 0] if self.method.queries == "cls" else on_patches[:, :, class_tokens:].mean(2)
        return by_head.sum(1)

    def key_groups(self, layer: int, ctx: Context) -> Tensor:
        """(B, K) groups; 0 throughout where no prompt of the batch has an image."""
        groups = ctx.state.get(GROUPS)
        return torch.zeros_like(ctx.roles, dtype=torch.int64) if groups is None else ctx.extend(groups)

    def score_gains(self, layer: int) -> tuple[float, ...]:
        """E ← E + alpha·|E| on the top set, beta·|E| on the outliers (spec §2 step 5)."""
        return 0.0, self.method.alpha, self.method.beta


class SensitiveHeads(DualStreamIntervention):
    """Heads are amplified by their share v/max v of the layer's attention to the image (spec §2, ours)."""

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """E ← E + alpha·(v/max v)·|E| on the top set; the outliers as ever."""
        seeing = (scores.softmax(-1) * ctx.is_image[:, None, None]).sum(-1, keepdim=True)
        share = seeing / seeing.amax(1, keepdim=True).clamp_min(torch.finfo(seeing.dtype).tiny)
        groups = self.key_groups(layer, ctx)[:, None, None]
        gain = self.method.alpha * share * (groups == TOP) + self.method.beta * (groups == BOTTOM)
        return scores + gain * scores.abs()
