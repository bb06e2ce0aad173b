"""One question answered without and with methods, and where a row of each answer looks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sinkbench.adapters.base import Adapter
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.watching import Watched, acts_on_logits_only, watch
from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_class
from sinkbench.methods.base import Method
from sinkbench.request import Generation, Request, Response

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset

BEFORE = "greedy"
"""The first view: the model as it is."""

ROUNDING = {torch.float32: 1e-5}
"""Largest difference of two weights that is rounding, by the type in which the model runs."""

COARSE = 5e-3
"""The same for half types: passes of another shape round otherwise in every layer."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """What is compared with the plain model.

    Attributes:
        methods: By name, "a+b" composed.
        params: Values by "method.param".
        step: Whose row is shown: 0 the prompt's last, n that of the n-th generated token. None is 0, unless the methods
            leave that row alone and edit later ones: then the first of these.
    """

    methods: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None

    def build(self, preset: "ModelPreset", task: str | None, data_dir: Any = None) -> dict[str, Method]:
        """The methods with their parameters, as a run would take them; the plain model first.

        Raises:
            UsageError: A name or parameter is wrong, or a calibration was learned from the very questions.
        """
        from sinkbench.calibration.lookup import calibrations_for
        from sinkbench.record import model_identity
        from sinkbench.tasks import dataset_fingerprint

        names = list(dict.fromkeys((BEFORE, *self.methods)))
        for part in {part for name in names for part in name.split("+")}:
            method_class(part)
        owners = {part for name in names for part in name.split("+")}
        for key in self.params:
            if key.partition(".")[0] not in owners:
                raise UsageError(
                    f"--set {key}: {key.partition('.')[0]} is none of the methods shown",
                    f"Write --set METHOD.PARAM=VALUE with METHOD one of: {', '.join(sorted(owners))}.",
                )
        identity = model_identity(preset)
        built = {}
        for name in names:
            own = {key: value for key, value in self.params.items() if key.partition(".")[0] in name.split("+")}
            calibrations = calibrations_for(name.split("+"), own, preset.name, identity)
            for calibration in calibrations.values():
                if task is not None:
                    calibration.check_unseen(task, dataset_fingerprint(task, data_dir))
            built[name] = get_method(name, own, preset.name, calibrations)
        return built


@dataclass(frozen=True, eq=False)
class MethodView:
    """One answer, and where its row looks, in a model with L layers and H heads.

    Attributes:
        method: Name.
        params: Its hyper-parameters.
        answer: Text.
        prompt: What was answered, before tokens were dropped; n image tokens.
        maps: (L, H, n) float32 weights of the row on the image tokens as the method edited them. 0 where a token is not
            left; what was merged counts where the merged token stands.
        kept: (L, n) bool, image tokens that are left in each layer.
        total: (L, H) float32 sum of the row over all keys.
        first_edit: The first step in whose row the method changed a weight, if there is one.
        on_logits: Whether the method acts on the logits only, by construction.
        boxes: Of crops, by original image: left, top, right, bottom.
    """

    method: str
    params: dict[str, Any]
    answer: str
    prompt: Prompt
    maps: Array
    kept: Array
    total: Array
    first_edit: int | None
    on_logits: bool
    boxes: list[list[list[int]]]

    @property
    def shares(self) -> Array:
        """(L, H): share of the row's attention that lies on image tokens."""
        return np.asarray(self.maps.sum(-1) / self.total)

    @property
    def by_layer(self) -> Array:
        """(L,): the same, mean over heads."""
        return np.asarray(self.shares.mean(1))

    @property
    def sums_to_one(self) -> bool:
        """Whether the row does in every layer and head."""
        return bool(np.abs(self.total - 1).max() < 1e-3)

    def heat(self, layer: int | None) -> Array:
        """(n,): the row's weights, mean over heads and, unless one is given, over layers."""
        return np.asarray(self.maps.mean((0, 1)) if layer is None else self.maps[layer].mean(0))

    def dropped(self, layer: int | None) -> Array:
        """(n,) bool: image tokens that are not left in a layer, the last one by default."""
        return np.asarray(~self.kept[-1 if layer is None else layer])

    def equals(self, before: "MethodView", rounding: float) -> bool:
        """Whether the rows are the same up to a largest difference of two weights."""
        same_shape = self.maps.shape == before.maps.shape
        return same_shape and bool(np.abs(self.maps - before.maps).max() <= rounding) and bool(self.kept.all())


@dataclass(frozen=True, eq=False)
class Compared:
    """The views of one question, all at the row of one step.

    Attributes:
        views: The plain model's first.
        step: 0 for the prompt's last row, n for the row of the n-th generated token.
        rounding: Differences of weights up to this one are none.
    """

    views: list[MethodView]
    step: int
    rounding: float

    @property
    def before(self) -> MethodView:
        """The plain model's."""
        return self.views[0]

    @property
    def row(self) -> str:
        """Which row is shown."""
        return "the prompt's last row" if self.step == 0 else f"the row of generated token {self.step}"

    def note(self, view: MethodView) -> str:
        """What must be known to read a view; empty for the plain one."""
        return "" if view is self.before else "; ".join(self._notes(view))

    def _notes(self, view: MethodView) -> list[str]:
        notes = []
        if view.on_logits and not self.step:
            notes.append("attention unchanged by construction: it acts behind the last layer")
        elif view.equals(self.before, self.rounding):
            notes.append("attention of this row unchanged")
            if view.first_edit is not None and view.first_edit > self.step:
                notes.append(f"it edits later rows: --step {view.first_edit}")
        elif self.step and view.answer != self.before.answer:
            notes.append("the answers differ, so the tokens before this row may too")
        if not view.kept.all():
            left, whole = int(view.kept[-1].sum()), view.kept.shape[1]
            notes.append(f"{left} of {whole} image tokens left in the last layer")
        if not view.sums_to_one:
            notes.append(f"edited rows sum to {view.total.min():.3g} to {view.total.max():.3g}")
        if extra := len(view.prompt.images) - len(self.before.prompt.images):
            notes.append(f"answers about {len(view.prompt.images)} images, {extra} of them added")
        elif [image.key for image in view.prompt.images] != [image.key for image in self.before.prompt.images]:
            notes.append("answers about other images")
        return notes


def compare(adapter: Adapter, methods: Mapping[str, Method], request: Request, step: int | None) -> Compared:
    """Answer a question under every method and watch a row of each answer.

    Args:
        adapter: The model.
        methods: By name, the plain model's first.
        request: What is asked.
        step: See `Comparison`.

    Raises:
        UsageError: The question has no image, a method cannot answer it, or there is no such row.
    """
    if not request.images:
        raise UsageError(
            "the question has no image, so nothing of it can be looked at before and after",
            "Leave --method out to see where its text looks, or ask about an image: --image FILE.",
        )
    searching = [name for name, method in methods.items() if method.generation(Generation()).searches]
    if step and searching:
        raise UsageError(
            f"--step {step}: {searching[0]} searches with several hypotheses at a time, and most of "
            "their rows belong to no answer",
            f"Leave --step out, which shows the prompt's last row, or leave {searching[0]} out.",
        )
    rounding = ROUNDING.get(adapter.dtype, COARSE)
    seen = Compared(_watched(adapter, methods, request, step or 0), step or 0, rounding)
    if step is None and not searching and (later := _first_edited(seen)):
        return Compared(_watched(adapter, methods, request, later), later, rounding)
    return seen


def _first_edited(seen: Compared) -> int:
    """The step whose row to show where the prompt's last row is the same under all methods; 0 where it is not."""
    if not all(view.equals(seen.before, seen.rounding) for view in seen.views[1:]):
        return 0
    return min((view.first_edit for view in seen.views if view.first_edit is not None), default=0)


def _watched(adapter: Adapter, methods: Mapping[str, Method], request: Request, step: int) -> list[MethodView]:
    views = []
    for name, (response, watched) in watch(adapter, methods, request, step).items():
        if response.error:
            raise UsageError(f"{name} cannot answer this question: {response.error}", f"Leave {name} out.")
        if not watched.layers:
            last = response.new_tokens - 1
            raise UsageError(
                f"--step {step}: the answer under {name} has {response.new_tokens} tokens, and nothing follows "
                "the last one",
                f"Give --step {last} or less." if last else "Leave --step out, or ask for a longer answer.",
            )
        views.append(_view(adapter, name, methods[name], request, response, watched))
    return views


def _view(
    adapter: Adapter, name: str, method: Method, request: Request, response: Response, watched: Watched
) -> MethodView:
    prompt = adapter.encode(watched.request or request)
    places = _places(adapter, prompt, watched)
    n_heads, n = len(watched.layers[0].total), prompt.visual_tokens
    maps = np.zeros((len(watched.layers), n_heads, n), dtype=np.float32)
    kept = np.zeros((len(watched.layers), n), dtype=bool)
    for layer, row in enumerate(watched.layers):
        numbers = places[row.numbers.numpy()]
        # Merged tokens may stand where another one is left.
        np.add.at(maps[layer].T, numbers, row.image.numpy().T)
        kept[layer, numbers] = True
    return MethodView(
        method=name,
        params=method.params(),
        answer=response.text,
        prompt=prompt,
        maps=maps,
        kept=kept,
        total=np.stack([row.total.numpy() for row in watched.layers]),
        first_edit=watched.first_edit,
        on_logits=acts_on_logits_only(watched.parts[0]),
        boxes=response.details.get("boxes", []),
    )


def _places(adapter: Adapter, prompt: Prompt, watched: Watched) -> Array:
    """Which of the prompt's image tokens each one is that the language model was given."""
    if not watched.selected:
        return np.arange(prompt.visual_tokens)
    keys = dict.fromkeys(image.key for image in prompt.images)
    chosen = dict(zip(keys, watched.selected, strict=False))
    parts, start = [], 0
    for image in prompt.images:
        parts.append(start + chosen[image.key].numpy())
        start += int((adapter.image_layout(image) == Role.IMAGE).sum())
    return np.concatenate(parts)
