"""One row watched while a method acts: the weights that really multiply the values, and which tokens are left there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.context import Context, Role
from sinkbench.engine.generate import Engine
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.composed import ComposedIntervention
from sinkbench.request import Request, Response

if TYPE_CHECKING:
    from PIL.Image import Image

    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.selection import SeenImage, Selected
    from sinkbench.engine.view import AttentionView
    from sinkbench.methods.looks import Focus, Seen

_BEFORE_THE_LOGITS = (
    *("edit_mask", "edit_scores", "edit_weights", "score_gains", "scale_groups", "edit_heads", "edit_hidden"),
    *("select_tokens", "keep_tokens", "refocus"),
)
"""Hooks of which a method overrides none if it cannot change the attention of a prompt's rows."""


def acts_on_logits_only(method: Intervention) -> bool:
    """Whether a bound method leaves the attention of the prompt's rows alone by construction."""
    if isinstance(method, ComposedIntervention):
        return all(acts_on_logits_only(part) for part in method.parts)
    return all(getattr(type(method), hook) is getattr(Intervention, hook) for hook in _BEFORE_THE_LOGITS)


@dataclass(frozen=True, eq=False)
class LayerRow:
    """The watched row in one layer of a model with H heads, on the CPU.

    Attributes:
        image: (H, n) float32 weights on the n image tokens that are left, as the method edited them.
        numbers: (n,) int64, which image token of the prompt each one is, or stands for after a merger.
        total: (H,) float32 sum of the row over all keys.
        edited: Whether the method changed a weight or score of the row here.
    """

    image: Tensor
    numbers: Tensor
    total: Tensor
    edited: bool


class Watched(ComposedIntervention):
    """A bound method that acts as ever, and one row of one sample, of which the weights are kept.

    The seam shows it explicit weights after all edits, also where kernels would treat groups of keys without writing
    weights down; so on a GPU the answer can differ from an unwatched one by rounding. Rows that the method does not
    edit have the weights of the plain softmax. Edited rows are those of the sample, never of a second branch.

    Args:
        method: What is watched.
        step: 0 for the prompt's last row, n for the row of the n-th generated token.

    Attributes:
        layers: The row, one entry a layer; empty until it has been seen.
        first_edit: The first step in whose row the method changed a weight; None where it has changed none.
        request: What is answered in the end; None where that is what was asked.
        selected: What was left of each distinct image before the language model: the numbers (n,) of the image's tokens
            of role IMAGE.
    """

    def __init__(self, method: Intervention, step: int = 0) -> None:
        super().__init__([method])
        self.capturable = False
        self.step = step
        self.layers: list[LayerRow] = []
        self.first_edit: int | None = None
        self.request: Request | None = None
        self.selected: list[Tensor] = []
        self._edited: tuple[Tensor, bool] | None = None
        self._changes = False
        self._numbers: dict[int, Tensor] = {}

    @property
    def observes_attention(self) -> bool:
        """It does."""
        return True

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """The method's edit, compared with what was there."""
        edited = super().edit_scores(layer, scores, ctx)
        self._changes = not torch.equal(edited[0, :, -1], scores[0, :, -1])
        return edited

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """The method's edit; its last row is what multiplies the values."""
        edited = super().edit_weights(layer, weights, ctx)
        rows = self.rows(layer, ctx)
        if ctx.emits and rows is not None and rows.stop == ctx.n_queries:
            changes = self._changes or not torch.equal(edited[0, :, -1], weights[0, :, -1])
            self._edited = edited[0, :, -1], changes
        return edited

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Keep the row of the wanted step, and note the first one that is edited."""
        super().observe_attention(layer, view, ctx)
        edited, self._edited = self._edited, None
        if not ctx.emits:
            return
        if edited is not None and edited[1] and self.first_edit is None:
            self.first_edit = ctx.step
        if ctx.step != self.step:
            return
        if layer == 0:
            self.layers = []
        weights, changes = edited or (view.rows(ctx.last_row)[0, :, 0], False)
        self.layers.append(self._layer_row(layer, weights, ctx, changes))

    def _layer_row(self, layer: int, weights: Tensor, ctx: Context, edited: bool) -> LayerRow:
        slots = ctx.is_image[0].nonzero()[:, 0]
        numbers = torch.arange(len(slots))
        entered = [first for first in self._numbers if first <= layer]
        if entered:
            numbers = self._numbers[max(entered)][slots.cpu()]
        return LayerRow(weights[:, slots].float().cpu(), numbers, weights.float().sum(-1).cpu(), edited)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """The method's choice, by image token."""
        kept = super().keep_tokens(entry, ctx)
        if entry.layer == min(self.prunes_at):
            image = ctx.is_image[0].cpu()
            self._numbers = {0: torch.where(image, image.cumsum(0) - 1, -1)}
        if kept is not None:
            before = self._numbers[max(self._numbers)]
            self._numbers[entry.layer] = before[kept.index[0].cpu()]
        return kept

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """The method's choice, by image token."""
        chosen = super().select_tokens(images)
        for seen, one in zip(images, chosen, strict=True):
            is_image = seen.roles == Role.IMAGE
            index = one.index.cpu()
            self.selected.append((is_image.cumsum(0) - 1)[index[is_image[index]]])
        return chosen

    def refocus(self, request: Request, seen: "Sequence[Sequence[Seen]]", images: "Sequence[Image]") -> "Focus":
        """The method's request in the place of the one asked."""
        focus = super().refocus(request, seen, images)
        self.request = focus.request
        return focus


def watch(
    adapter: Adapter, methods: Mapping[str, Method], request: Request, step: int = 0, seed: int = 0
) -> dict[str, tuple[Response, Watched]]:
    """Answer one request under each method, as a sweep over them does, with one row of each answer watched.

    Args:
        adapter: The model.
        methods: By name.
        request: What is asked.
        step: Of the row.
        seed: Of the engine.

    Raises:
        UsageError: The model lacks something that a method needs.
    """
    engine = Engine(adapter, methods, seed=seed)
    engine.cold = False  # A warm-up would be watched too, and nothing is timed.
    watched = {name: Watched(lane.method, step) for name, lane in engine.lanes.items()}
    for name, lane in engine.lanes.items():
        lane.method = watched[name]
    answers = {name: responses[0] for name, responses in engine.sweep([request], lambda *_: True)}
    return {name: (answers[name], watched[name]) for name in methods}
