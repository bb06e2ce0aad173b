"""VFlowOpt: fewer image tokens from stage to stage by the vision encoder's map, at rates that are searched for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.pruning.budget import PruningIntervention, kept_count, top_tokens
from sinkbench.methods.pruning.grids import feature_places
from sinkbench.methods.pruning.importance import Base, ImportanceMap
from sinkbench.methods.pruning.recycling import recycle
from sinkbench.methods.pruning.select import top_places

if TYPE_CHECKING:
    from sinkbench.adapters.base import ImageInputs
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.selection import SeenImage, Selected

IMPORTANCE = "vflowopt.importance"
"""What `ctx.state` holds of the whole prompt and, after a drop, `ctx.scratch` of what is left: (B, Q) float32."""

_TOTAL = "vflowopt.total"

_SLACK = 1e-3
"""By how much a last rate may exceed 1: rates are published with four digits."""

_FIRST = 1.2
"""Over the mean: what the first stage leaves where only the mean is given. Released settings have 1.06 to 1.45."""


@dataclass(frozen=True)
class VFlowOpt(Method):
    """VFlowOpt with its three stages: before the language model, and at the entry of two of its layers.

    Rates count image tokens; separators between rows of tiles stay, as in the released code, where their importance is
    1. A feature that is made of several patches has the largest of their values [ours: the code interpolates, the
    paper's Qwen2-VL is said to average]. Several images of a prompt are pruned one by one in the first stage, and as
    one in the others [the latter ours].

    Attributes:
        keep: Mean share of the image tokens over all layers; `r3` is then what leads there. 0 takes `r3` as it is. Or
            a mean count for each image, as if no rates were known: `r1`, `r2` and `r3` are shares, and not read then.
        r1: Share that the first stage leaves, about: what is recycled makes it a little more or less. 0: not known;
            with a `keep`, the first stage then leaves 1.2 times that, the second all, and the third the rest [ours].
        r2: Share of these that the second stage leaves.
        r3: Share of these that the third stage leaves.
        t: Rows of the encoder's attention count whose patches receive more than t times the mean; where none does, all
            count [ours].
        a: Side in tokens of the cells in which pruned tokens are merged; 0 merges nothing.
        alpha: Weight of the entropy of a patch's grey levels.
        layers: Where the second and third stage are; empty means 9 and 18 of 28 layers, and as far along in others.
        exact: Leave just `r1` of the tokens: the least important merged ones go.
        base: Whether importance is the mean of the counting rows, as released, or their sum, as in the paper.
        compat: Read grey levels as the released code does, from normalised pixels that wrap around in a byte.
    """

    name: ClassVar[str] = "vflowopt"
    summary: ClassVar[str] = "keeps ever fewer image tokens by the encoder's own attention, and recycles the first ones"
    paper: ClassVar[Paper] = Paper(
        title="VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization",
        authors="Yang et al.",
        venue="ICCV 2025",
        arxiv="2508.05211",
        code="sihany077/VFlowOpt@129eeef",
    )
    edits: ClassVar[Stage] = Stage.VISION | Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "rows"
    calibration: ClassVar[str] = "rates and map under which the last token's state changes least"
    selects: ClassVar[bool] = True
    prunes: ClassVar[bool] = True

    keep: float = 0.0
    r1: float = 0.0
    r2: float = 1.0
    r3: float = 1.0
    t: float = 0.0
    a: float = 0.0
    alpha: float = 0.0
    layers: tuple[int, ...] = ()
    exact: bool = False
    base: Base = "mean"
    compat: bool = False

    def __post_init__(self) -> None:
        for name in ("keep", "r1", "r2", "r3"):
            value = getattr(self, name)
            count = name == "keep" and value > 1 and value == int(value)
            if not (0 < value <= 1 or (value == 0 and name in ("keep", "r1")) or count):
                more = ", or a whole number of tokens" if name == "keep" else ""
                raise UsageError(f"vflowopt.{name}={value:g} is no share", f"Give a number above 0 and up to 1{more}.")
        if self.a != 0 and self.a < 1:
            raise UsageError(
                f"vflowopt.a={self.a:g}: a cell is at least one token wide", "Give 1 or more, or 0 to merge nothing."
            )
        if self.t < 0:
            raise UsageError(f"vflowopt.t={self.t:g} is negative", "Give 0 to let all rows count, or more.")

    def bind(self, model: ModelInfo) -> "VFlowOptIntervention":
        """Resolve layers and the last rate.

        Raises:
            UsageError: The rates are not known or lead nowhere, the model lacks the layers, or entropies are wanted of
                pixels whose normalisation is not known.
        """
        if not self.r1 and 0 < self.keep <= 1:
            return self.replace(r1=min(1.0, _FIRST * self.keep), r2=1.0).bind(model)
        if not self.r1 and not self.keep:
            raise UsageError(
                f"vflowopt needs to know at which rates to prune {model.name}",
                f"Find them with `sinkbench calibrate vflowopt --model {model.name} --task scenes_pope --set "
                "vflowopt.keep=0.25`, give --set vflowopt.keep=0.25 alone, or take those of LLaVA-OneVision-7B with "
                "--set vflowopt.profile=keep-50, keep-25 or keep-10.",
            )
        layers = stage_layers(self.layers, model)
        colours = len(model.pixel_mean) == len(model.pixel_std) == 3
        if self.alpha and not (self.compat or colours):
            raise UsageError(
                f"vflowopt.alpha={self.alpha:g} reads pixels, and how {model.name} normalises them is not known",
                "Give --set vflowopt.alpha=0.",
            )
        seen = ImportanceMap(self.t, self.alpha, self.base, self.compat, model.pixel_mean, model.pixel_std)
        if self.keep > 1:
            return CountedVFlowOpt(self, seen, (layers[1], model.n_layers), model.vision_layer)
        r3 = last_rate(self.keep, self.r1, self.r2, layers, model.n_layers) if self.keep else self.r3
        return VFlowOptIntervention(self, seen, dict(zip(layers, (self.r2, r3), strict=True)), model.vision_layer)


def stage_layers(layers: tuple[int, ...], model: ModelInfo) -> tuple[int, int]:
    """The layers of the second and third stage: those given, or ⌊9/28⌋ and ⌊18/28⌋ of the way, as 10 and 20 of 32.

    Raises:
        UsageError: They are not two rising layers of the model.
    """
    first, *rest = layers or (9 * model.n_layers // 28, 18 * model.n_layers // 28)
    model.check_layers("vflowopt.layers", (first, *rest))
    if len(rest) != 1 or rest[0] <= first:
        raise UsageError(
            f"vflowopt.layers={list(layers)}: {model.name} needs two rising layers",
            f"For example --set vflowopt.layers=[{model.n_layers // 3},{2 * model.n_layers // 3}].",
        )
    return first, rest[0]


def mean_rate(r1: float, r2: float, r3: float, layers: tuple[int, int], n_layers: int) -> float:
    """R̄ of spec §2: the share of the image tokens that the layers hold on average."""
    first, second = layers
    return (r1 * first + r1 * r2 * (second - first) + r1 * r2 * r3 * (n_layers - second)) / n_layers


def last_rate(keep: float, r1: float, r2: float, layers: tuple[int, int], n_layers: int) -> float:
    """R3 by which R̄ becomes `keep`.

    Raises:
        UsageError: There is none above 0 and up to 1.
    """
    before = mean_rate(r1, r2, 0.0, layers, n_layers)
    r3 = (keep - before) / (mean_rate(r1, r2, 1.0, layers, n_layers) - before)
    if not 0 < r3 <= 1 + _SLACK:
        raise UsageError(
            f"vflowopt.keep={keep:g} would need r3={r3:.3g} where r1={r1:g} and r2={r2:g} of the image tokens are left "
            f"by the stages before",
            f"For example --set vflowopt.r1={keep:g} --set vflowopt.r2=1, or calibrate for this keep.",
        )
    return min(r3, 1.0)


class VFlowOptIntervention(PruningIntervention):
    """VFlowOpt on a model (spec §2).

    Args:
        method: The hyper-parameters.
        seen: How the encoder's attention becomes importance.
        rates: What share of the image tokens goes on into the layers of the second and third stage.
        vision_layer: The layer of the encoder.
    """

    def __init__(self, method: VFlowOpt, seen: ImportanceMap, rates: dict[int, float], vision_layer: int) -> None:
        self.rates = {layer: rate for layer, rate in rates.items() if rate < 1}
        super().__init__(tuple(self.rates))
        self.method, self.seen = method, seen
        self.whole_prompt = bool(self.rates)
        self.shortens = method.r1 < 1 or method.a > 0
        self.selects_by = (vision_layer,) if self.shortens else ()
        self.vision_layers = (vision_layer,) if self.rates else ()

    def mark_image(self, image: "ImageInputs", attention: Sequence[Tensor], class_tokens: int) -> dict[str, Tensor]:
        """The map, for the stages inside the language model."""
        return {IMPORTANCE: self.seen.of(attention[0], class_tokens, image)}

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """The first stage, image by image."""
        from sinkbench.engine.selection import Selected

        if not self.shortens:
            return [Selected(torch.arange(len(image.roles))) for image in images]
        return [self.first_stage(image) for image in images]

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """The second and third stage: by the same map, whatever is asked; positions stay."""
        from sinkbench.engine.pruning import Kept, gather

        if IMPORTANCE not in ctx.state:
            return None
        importance = ctx.scratch.get(IMPORTANCE, ctx.state[IMPORTANCE])
        image = ctx.is_image
        count = self.left(entry.layer, image.sum(1), ctx)
        kept = Kept.of((ctx.is_valid & ~image) | top_tokens(importance, image, count))
        # The state keeps the layout of the whole prompt.
        ctx.scratch[IMPORTANCE] = gather(importance, kept.index)
        return kept

    def left(self, layer: int, n: Tensor, ctx: Context) -> Tensor:
        """How many of n (B,) image tokens go on into a layer, (B,) int64."""
        return kept_count(self.rates[layer], n)

    def budget(self, n: int) -> int:
        """How many of an image's n tokens the first stage leaves."""
        # What goes is rounded, not what stays (spec §2).
        return max(1, n - round(n * (1 - self.method.r1)))

    def first_stage(self, image: "SeenImage") -> "Selected":
        """Prune to R1, and recycle."""
        from sinkbench.engine.selection import Selected

        by_patch = self.seen.of(image.attention[0], image.class_tokens, image.inputs)
        at = image.is_image.nonzero().flatten()
        importance = image.patches_to_tokens(by_patch)[at]
        budget = self.budget(len(at))
        if not self.method.a:
            tokens, chosen = None, top_places(importance, at, budget)
        else:
            places = feature_places(image, *by_patch.shape)[at]
            index, tokens = recycle(image.features[at], importance, places, budget, self.method.a, self.method.exact)
            chosen = at[index]
        index = torch.cat((chosen, (~image.is_image).nonzero().flatten())).sort().values
        if tokens is None:
            return Selected(index)
        return Selected(index, image.features.index_copy(0, chosen, tokens)[index])


class CountedVFlowOpt(VFlowOptIntervention):
    """VFlowOpt by a mean count for each image: 1.2 times as many are left at first, and at the last stage the rest.

    Args:
        method: The hyper-parameters.
        seen: How the encoder's attention becomes importance.
        last: The layer of the last stage, and the number of layers.
        vision_layer: The layer of the encoder.
    """

    def __init__(self, method: VFlowOpt, seen: ImportanceMap, last: tuple[int, int], vision_layer: int) -> None:
        super().__init__(method.replace(r1=0.0), seen, {last[0]: 0.0}, vision_layer)
        self.count, self.last = int(method.keep), last

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """At each token the image tokens that all layers together may hold."""
        return {_TOTAL: torch.full((len(prompt),), self.count * len(prompt.images) * self.last[1])}

    def budget(self, n: int) -> int:
        """1.2 times the mean, or all."""
        return min(n, round(_FIRST * self.count))

    def first_stage(self, image: "SeenImage") -> "Selected":
        """An image with no more tokens than that is left as it is."""
        from sinkbench.engine.selection import Selected

        n = int(image.is_image.sum())
        return Selected(torch.arange(len(image.roles))) if self.budget(n) == n else super().first_stage(image)

    def left(self, layer: int, n: Tensor, ctx: Context) -> Tensor:
        """What the layers before have not held, spread over the others."""
        before, layers = self.last
        rest = ctx.state[_TOTAL].amax(1) - n * before
        return torch.round(rest / (layers - before)).long().clamp_min(1).minimum(n)
