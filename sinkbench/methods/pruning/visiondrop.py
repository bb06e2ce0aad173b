"""VisionDrop: VisionZip before the language model, then ever fewer tokens by what image tokens think of each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, check_keep, top_tokens
from sinkbench.methods.pruning.merging import merge_tokens
from sinkbench.methods.pruning.stages import even_layers
from sinkbench.methods.pruning.visionzip import VisionZipIntervention, check_contextual, contextual_count

if TYPE_CHECKING:
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.selection import SeenImage, Selected

FIRST = 1.5
"""Tokens that enter the language model, by the mean over its layers (spec §4)."""


@dataclass(frozen=True)
class VisionDrop(Method):
    """VisionDrop: text has no say in which tokens stay.

    The first stage is `visionzip`. A later one changes nothing in a sample that has no more tokens than it would leave.
    Several images are ranked together [ours]. A merged token goes behind the last image token, with its target's
    position where tokens keep theirs (multimodal RoPE).

    Attributes:
        keep: Mean number of image tokens over the layers: a share up to 1, or a count for each image. Of these 1.5
            times as many enter the language model, and each stage leaves the same share of what it finds.
        contextual: Share of a stage's tokens that are merged ones; 0.135 gives the released numbers at 32 tokens.
        layers: Layers at whose entry tokens are dropped; empty means a quarter, half and three quarters of the way, as
            8, 16 and 24 of LLaVA-1.5-7B's 32 [for other depths ours].
        schedule: Instead of `keep` and `contextual`, dominant and merged tokens that each stage leaves of each image,
            the first stage's before: 42,6,30,5,22,4,16,3 as released, for 32 tokens.
    """

    name: ClassVar[str] = "visiondrop"
    summary: ClassVar[str] = "visionzip, then merges more and more image tokens that others of them do not look at"
    paper: ClassVar[Paper] = Paper(
        title="Rethinking Visual Token Reduction in LVLMs under Cross-modal Misalignment",
        authors="Xu et al.",
        venue="AAAI 2026",
        arxiv="2506.22283",
        code="Ruixxxx/VisionDrop@f7a9444",
    )
    edits: ClassVar[Stage] = Stage.VISION | Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    selects: ClassVar[bool] = True
    prunes: ClassVar[bool] = True

    keep: float = 0.25
    contextual: float = 0.135
    layers: tuple[int, ...] = ()
    schedule: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_keep("visiondrop.keep", self.keep)
        check_contextual("visiondrop.contextual", self.contextual)
        dominant, merged = self.schedule[::2], self.schedule[1::2]
        totals = [sum(pair) for pair in zip(dominant, merged, strict=False)]
        falling = all(later <= earlier for earlier, later in pairwise(totals))
        paired = len(dominant) == len(merged) != 1
        if not paired or not falling or totals[:1] == [1] or min((*dominant, 1)) < 1 or min((*merged, 0)) < 0:
            raise UsageError(
                f"visiondrop.schedule={list(self.schedule)} is no falling list of dominant and merged tokens by stage",
                "Give both numbers of the first stage, then of each later one, for example [42,6,30,5,22,4,16,3].",
            )

    def bind(self, model: ModelInfo) -> "VisionDropIntervention":
        """Resolve the layers."""
        stages = len(self.schedule) // 2 - 1 if self.schedule else len(self.layers) or 3
        layers = self.layers or even_layers(stages, model.n_layers)
        model.check_layers("visiondrop.layers", layers)
        if len(layers) != stages or sorted({*layers}) != [*layers]:
            raise UsageError(
                f"visiondrop.layers={list(layers)} for {stages} stages in the language model",
                "Give one rising layer for each stage after the first.",
            )
        if not self.schedule and layers[0] * FIRST >= model.n_layers:
            raise UsageError(
                f"visiondrop.layers={list(layers)}: {FIRST:g} times the mean until layer {layers[0]} of "
                f"{model.n_layers} is more than the mean allows",
                f"Begin before layer {int(model.n_layers / FIRST)}, or give visiondrop.schedule.",
            )
        return VisionDropIntervention(Plan(self, layers, model.n_layers), model.vision_layer)


@dataclass(frozen=True)
class Plan:
    """How many tokens each stage leaves.

    Attributes:
        method: The hyper-parameters.
        layers: At whose entry the stages after the first are.
        n_layers: Of the language model.
    """

    method: VisionDrop
    layers: tuple[int, ...]
    n_layers: int

    def encoder(self, layer: int) -> VisionZipIntervention:
        """The first stage, by a layer of the vision encoder."""
        keep, contextual = self.method.keep, self.method.contextual
        if self.method.schedule:
            dominant, merged = self.method.schedule[:2]
            return VisionZipIntervention(dominant + merged, merged / (dominant + merged), layer)
        return VisionZipIntervention(round(FIRST * keep) if keep > 1 else min(1.0, FIRST * keep), contextual, layer)

    def stages(self, n_first: int, n_full: int, n_images: int) -> list[tuple[int, int]]:
        """Tokens that each later stage leaves a sample, and how many of them are merged ones.

        Args:
            n_first: Image tokens that the first stage left.
            n_full: Image tokens before.
            n_images: Images.
        """
        if self.method.schedule:
            pairs = zip(self.method.schedule[2::2], self.method.schedule[3::2], strict=True)
            return [(n_images * (dominant + merged), n_images * merged) for dominant, merged in pairs]
        mean = self.method.keep * (n_images if self.method.keep > 1 else n_full)
        totals = falling_counts(n_first, min(mean, n_full), self.layers, self.n_layers)
        return [(total, contextual_count(self.method.contextual, total)) for total in totals]


def falling_counts(n_first: int, mean: float, layers: tuple[int, ...], n_layers: int) -> list[int]:
    """Tokens after each stage, each the same share of those before it, so that they have a mean over all layers.

    Rounding is made up for by the last stage, so that the mean is exact where whole numbers allow it.

    Args:
        n_first: Tokens before the first of these stages.
        mean: Tokens on average.
        layers: At whose entry the stages are.
        n_layers: Of the model.
    """
    spans = [end - start for start, end in zip(layers, (*layers[1:], n_layers), strict=True)]
    rest = n_layers * mean - layers[0] * n_first

    def spent(share: float) -> float:
        return sum(span * n_first * share ** (stage + 1) for stage, span in enumerate(spans))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) < rest else (low, middle)
    counts = [round(n_first * high ** (stage + 1)) for stage in range(len(spans))]
    before = sum(span * count for span, count in zip(spans[:-1], counts, strict=False))
    counts[-1] = min(round((rest - before) / spans[-1]), counts[-2] if len(counts) > 1 else n_first)
    return [max(1, count) for count in counts]


class Stages(PruningIntervention):
    """The stages within the language model (spec §2).

    Args:
        plan: How many tokens they leave.
    """

    reindexes = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.layers)
        self.plan = plan

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """At each token what the prompt's plan says, for only the host knows how many tokens there were."""
        now = prompt.visual_tokens
        marks = {}
        for layer, (left, merged) in zip(
            self.prunes_at, self.plan.stages(now, now + prompt.dropped, len(prompt.images)), strict=True
        ):
            marks[_mark(layer, "left")] = torch.full((len(prompt),), left)
            marks[_mark(layer, "merged")] = torch.full((len(prompt),), merged)
        return marks

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Rank by the coming layer's own attention from all image tokens, mean over heads (steps 1 to 3).

        The sum over rows ranks as their mean does. Merged are the layer's inputs by its own keys (step 5).
        """
        from sinkbench.engine.pruning import Kept

        image = ctx.is_image
        n = image.sum(1)
        left, merged_count = (ctx.state[_mark(entry.layer, what)].amax(1) for what in ("left", "merged"))
        merged_count = torch.where(left < n, merged_count, 0)
        dominant = top_tokens(entry.received(image).mean(1), image, left - merged_count)
        merged = merge_tokens(entry.hidden, entry.keys.float().mean(1), image & ~dominant, merged_count)
        keep = (ctx.is_valid & ~image) | dominant
        return Kept.merging(keep, entry, merged.tokens, merged.at, merged.present)


def _mark(layer: int, what: str) -> str:
    """Name of a mark of `Stages`."""
    return f"visiondrop.{layer}.{what}"


class VisionDropIntervention(Stages):
    """VisionDrop on a model.

    Args:
        plan: How many tokens the stages leave.
        layer: Layer of the vision encoder by which the first stage goes.
    """

    def __init__(self, plan: Plan, layer: int) -> None:
        super().__init__(plan)
        self.encoder = plan.encoder(layer)
        self.selects_by = self.encoder.selects_by

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """The first stage."""
        return self.encoder.select_tokens(images)
