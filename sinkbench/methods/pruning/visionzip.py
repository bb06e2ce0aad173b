"""VisionZip: keep the image tokens at which the class token looks most, and merge the others into a few."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import check_keep, top_tokens
from sinkbench.methods.pruning.merging import merge_tokens
from sinkbench.methods.pruning.select import SelectingIntervention

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage, Selected


@dataclass(frozen=True)
class VisionZip(Method):
    """VisionZip without training.

    On LLaVA-1.5 as released: tokens are chosen and merged before the projector, and the class token goes along as the
    first. Elsewhere [ours] the projected features are chosen and merged: separators and the class token are left out, a
    feature that is made of several patches has the largest of their scores and the mean of their keys, and the tiles of
    an image count as one. Encoders without a class token: the attention that a patch receives on average. With
    multimodal RoPE a merged token has its target's position, and in Qwen3-VL what deeper layers add to its target.

    Attributes:
        keep: Image tokens left: a share up to 1, or a count. Everything leaves the image as it is, class token out.
        contextual: Share of these that are merged ones; 10 of 64 as released.
    """

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "keeps the image tokens at which the encoder's class token looks, and merges the others"
    paper: ClassVar[Paper] = Paper(
        title="VisionZip: Longer is Better but Not Necessary in Vision Language Models",
        authors="Yang et al.",
        venue="CVPR 2025",
        arxiv="2412.04467",
        code="dvlab-research/VisionZip@3151f6d",
    )
    edits: ClassVar[Stage] = Stage.VISION
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    selects: ClassVar[bool] = True

    keep: float = 0.25
    contextual: float = 0.15625

    def __post_init__(self) -> None:
        check_keep("visionzip.keep", self.keep)
        check_contextual("visionzip.contextual", self.contextual)

    def bind(self, model: ModelInfo) -> "VisionZipIntervention":
        """The layer is the one that the projector reads."""
        return VisionZipIntervention(self.keep, self.contextual, model.vision_layer)


def check_contextual(name: str, contextual: float) -> None:
    """Check the share of merged tokens.

    Raises:
        UsageError: It is none, or leaves nothing else.
    """
    if not 0 <= contextual < 1:
        raise UsageError(
            f"{name}={contextual:g} is no share of merged tokens", f"Give one from 0 to below 1: --set {name}=0.15."
        )


def contextual_count(contextual: float, total: int) -> int:
    """How many of so many tokens are merged ones: a share is rounded half to even, and leaves one other."""
    return min(round(contextual * total), max(total - 1, 0))


class VisionZipIntervention(SelectingIntervention):
    """VisionZip on a model.

    Args:
        keep: Share or count of the image tokens.
        contextual: Share of these that are merged.
        layer: Layer of the vision encoder.
    """

    def __init__(self, keep: float, contextual: float, layer: int) -> None:
        super().__init__(keep)
        self.contextual = contextual
        self.selects_by = (layer,)

    def choose(self, image: "SeenImage", places: Tensor, count: int) -> "Selected":
        """Dominant tokens in their order, the class token first; then the merged ones (spec §2)."""
        from sinkbench.engine.selection import Selected

        merged_count = contextual_count(self.contextual, count)
        if image.states is None or image.project is None:
            scores, keys = image.importance(image.attention[0]), image.feature_keys(image.keys[0])
            index, tokens = condense(image.features[places], scores[places], keys[places], count, merged_count)
            return Selected(places[index], tokens)
        scores = image.patch_importance(image.attention[0])[0]
        # The class token is always among them.
        scores = torch.cat((scores.new_full((image.class_tokens,), torch.inf), scores))
        index, states = condense(image.states, scores, image.keys[0][0], count, merged_count)
        return Selected(_places_of(index, len(scores) - len(image.features)), image.project(states))


def condense(tokens: Tensor, scores: Tensor, keys: Tensor, count: int, merged_count: int) -> tuple[Tensor, Tensor]:
    """Keep the tokens with the highest scores and merge the others.

    Args:
        tokens: (T, d).
        scores: (T,) float32.
        keys: (T, d_k) by which tokens are merged.
        count: n, how many are left, fewer than T.
        merged_count: How many of these are merged ones.

    Returns:
        (n,) int64 which tokens are left, in their order, and after them the targets of the merged ones. And (n, d).
    """
    everything = torch.ones_like(scores, dtype=torch.bool)[None]
    dominant = top_tokens(scores[None], everything, torch.tensor([count - merged_count], device=scores.device))
    merged = merge_tokens(tokens[None], keys[None], ~dominant, torch.tensor([merged_count], device=scores.device))
    left = dominant[0].nonzero().flatten()
    return torch.cat((left, merged.at[0])), torch.cat((tokens[left], merged.tokens[0].to(tokens.dtype)))


def _places_of(index: Tensor, without_feature: int) -> Tensor:
    """The features at the tokens (n,) of the encoder, the first of which may be without one.

    Such a token gets the first feature that is nobody's, for a place to stand.
    """
    places = index - without_feature
    first = torch.arange(len(index), device=index.device)
    return torch.where(places < 0, torch.isin(first, places).int().argmin(), places)
