"""`a+b`: several methods at once, each seeing only the rows that it asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method, Part
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.budget import PruningIntervention

if TYPE_CHECKING:
    from PIL.Image import Image

    from sinkbench.adapters.base import ImageInputs
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.selection import SeenImage, Selected
    from sinkbench.engine.view import AttentionView, MlpParts
    from sinkbench.methods.looks import Focus, Look, Seen
    from sinkbench.request import Generation, Request


@dataclass(frozen=True)
class Composed(Method):
    """Methods applied in order.

    Attributes:
        parts: The methods, first to last.
    """

    name: ClassVar[str] = "composed"
    summary: ClassVar[str] = "several methods in order"
    paper: ClassVar[None] = None

    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        # The class attributes of a single method become properties of the combination.
        object.__setattr__(self, "name", "+".join(names))
        object.__setattr__(self, "edits", _union(part.edits for part in self.parts))
        object.__setattr__(self, "observes", _union(part.observes for part in self.parts))
        for flag in ("refocuses", "selects", "prunes"):
            object.__setattr__(self, flag, any(getattr(part, flag) for part in self.parts))
        if len(set(names)) < len(names):
            raise UsageError(f"{self.name} names a method twice", "Name each method once; order matters.")
        if "greedy" in names:
            raise UsageError(f"{self.name}: greedy edits nothing", "Leave greedy out.")
        if len(refocusing := [part.name for part in self.parts if part.refocuses]) > 1:
            raise UsageError(
                f"{self.name}: {' and '.join(refocusing)} each answer another request, and only one can",
                "Leave all but one out.",
            )
        if len(branching := [part.name for part in self.parts if part.contrasts]) > 1:
            raise UsageError(
                f"{self.name}: {' and '.join(branching)} each contrast with a second branch, and only one can",
                "Turn the contrast off in all but one, for example --set pai.gamma=1.",
            )
        if self.edits & (Stage.VISION | Stage.PREFIX) and any(part.contrasts_images for part in self.parts):
            raise UsageError(
                f"{self.name}: {branching[0]}'s second branch sees images, and another part edits how they are read",
                "Compose it with methods that act after the image only.",
            )

        self._check_pruning()

    def _check_pruning(self) -> None:
        """Refuse parts that cannot work on what another one leaves of the image."""
        for what in ("selects", "prunes"):
            if len(several := [part.name for part in self.parts if getattr(part, what)]) > 1:
                raise UsageError(
                    f"{self.name}: {' and '.join(several)} both drop image tokens", "Leave all but one out."
                )
        pruning = next((part.name for part in self.parts if part.prunes), "")
        others = [part for part in self.parts if not (part.prunes or part.selects or part.weighs)]
        if (weighing := [part.name for part in self.parts if part.weighs]) and not any(p.scores for p in self.parts):
            raise UsageError(
                f"{self.name}: {weighing[0]} weighs the scores of a method that ranks image tokens by attention",
                f"For example: fastv+{weighing[0]}.",
            )
        if pruning and (lost := [part.name for part in others if part.edits or part.observes or part.contrasts]):
            raise UsageError(
                f"{self.name}: {pruning} drops tokens between layers, and {lost[0]} counts on where they stood",
                "Compose it with sample or beam, or take a method that drops tokens before the language model.",
            )
        for part in self.parts:
            part.check_beside([other for other in self.parts if other is not part])

    def generation(self, generation: "Generation") -> "Generation":
        """What the parts make of the settings in order."""
        for part in self.parts:
            generation = part.generation(generation)
        return generation

    @property
    def contrasts(self) -> bool:
        """Whether a part does."""
        return any(part.contrasts for part in self.parts)

    @property
    def contrasts_images(self) -> bool:
        """Whether a part does."""
        return any(part.contrasts_images for part in self.parts)

    def bind(self, model: ModelInfo) -> Intervention:
        """Bind every part."""
        return ComposedIntervention([part.bind(model) for part in self.parts])

    def params(self) -> dict[str, Any]:
        """Parameters of the parts as `method.param`."""
        return {f"{part.name}.{key}": value for part in self.parts for key, value in part.params().items()}


def _union(stages: Any) -> Stage:
    result = Stage.NONE
    for stage in stages:
        result |= stage
    return result


class ComposedIntervention(Intervention):
    """Bound methods in order.

    Args:
        parts: The interventions.
    """

    def __init__(self, parts: Sequence[Intervention]) -> None:
        self.parts = parts
        self.hidden_layers = sorted({layer for part in parts for layer in part.hidden_layers})
        self.vision_layers = tuple(dict.fromkeys(layer for part in parts for layer in part.vision_layers))
        self.edited_parts = {part for intervention in parts for part in intervention.edited_parts}
        self.last_token_alone = any(part.last_token_alone for part in parts)
        self.paired_branch = any(part.paired_branch for part in parts)
        self.whole_prompt = any(part.whole_prompt for part in parts)
        self.capturable = all(part.capturable for part in parts)
        self.selects_by = tuple(layer for part in parts for layer in part.selects_by)
        self.prunes_at = tuple(layer for part in parts for layer in part.prunes_at)
        self.reindexes = any(part.reindexes for part in parts)
        weighing = [part for part in parts if type(part).weigh_tokens is not Intervention.weigh_tokens]
        for part in parts:
            if weighing and isinstance(part, PruningIntervention):
                part.weighing = weighing[0]

    @property
    def selects(self) -> bool:
        """Whether a part does."""
        return any(part.selects for part in self.parts)

    @property
    def observes_attention(self) -> bool:
        """Whether any part does."""
        return any(part.observes_attention for part in self.parts)

    @property
    def observes_mlp(self) -> bool:
        """Whether any part does."""
        return any(part.observes_mlp for part in self.parts)

    @property
    def edits_mask(self) -> bool:
        """Whether any part does."""
        return any(part.edits_mask for part in self.parts)

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """The marks of every part."""
        return {name: marks for part in self.parts for name, marks in part.token_marks(prompt).items()}

    def edit_mask(self, layer: int, mask: Tensor, ctx: Context) -> Tensor:
        """Each part in order."""
        for part in self.parts:
            mask = part.edit_mask(layer, mask, ctx)
        return mask

    def mark_image(self, image: "ImageInputs", attention: Sequence[Tensor], class_tokens: int) -> dict[str, Tensor]:
        """The marks of every part that looks at the vision encoder, each shown the layers that it asked for."""
        seen = dict(zip(self.vision_layers, attention, strict=True))
        looking = [part for part in self.parts if part.vision_layers]
        marks: dict[str, Tensor] = {}
        for part in looking:
            marks |= part.mark_image(image, [seen[layer] for layer in part.vision_layers], class_tokens)
        return marks

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """By the one part that does."""
        return next(part for part in self.parts if part.selects).select_tokens(images)

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """By the one part that does."""
        return next(part for part in self.parts if part.prunes_at).keep_tokens(entry, ctx)

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """The smallest range that holds every part's rows."""
        wanted = [rows for part in self.parts if (rows := part.rows(layer, ctx)) is not None]
        if not wanted:
            return None
        return slice(min(rows.start for rows in wanted), max(rows.stop for rows in wanted))

    def _each(self, hook: str, layer: int, values: Tensor, ctx: Context) -> Tensor:
        all_rows = self.rows(layer, ctx)
        assert all_rows is not None
        values = values.clone()
        for part in self.parts:
            rows = part.rows(layer, ctx)
            if rows is not None:
                own = slice(rows.start - all_rows.start, rows.stop - all_rows.start)
                values[:, :, own] = getattr(part, hook)(layer, values[:, :, own], ctx)
        return values

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """Each part edits its own rows."""
        return self._each("edit_scores", layer, scores, ctx)

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Each part edits its own rows."""
        return self._each("edit_weights", layer, weights, ctx)

    def observe_query(self, layer: int, query: Tensor, ctx: Context) -> None:
        """Show the queries to every part."""
        for part in self.parts:
            part.observe_query(layer, query, ctx)

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Each part in order."""
        for part in self.parts:
            heads = part.edit_heads(layer, heads, ctx)
        return heads

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """Show the layer to the parts that asked for it."""
        for part in self.parts:
            if layer in part.hidden_layers:
                part.observe_hidden(layer, hidden, ctx)

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Each part that asked for it, in order."""
        for intervention in self.parts:
            if part in intervention.edited_parts:
                hidden = intervention.edit_hidden(layer, part, hidden, ctx)
        return hidden

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """Show every part the attention as all of them left it."""
        for part in self.parts:
            part.observe_attention(layer, view, ctx)

    def observe_mlp(self, layer: int, parts: "MlpParts", ctx: Context) -> None:
        """Show the MLP to every part."""
        for part in self.parts:
            part.observe_mlp(layer, parts, ctx)

    def contrast(self, prompt: "Prompt") -> "Prompt | None":
        """The branch of the one part that has one."""
        branches = (part.contrast(prompt) for part in self.parts)
        return next((branch for branch in branches if branch is not None), None)

    def contrast_request(self, request: "Request") -> "Request | None":
        """The branch of the one part that has one."""
        branches = (part.contrast_request(request) for part in self.parts)
        return next((branch for branch in branches if branch is not None), None)

    def edit_image(self, tensors: Mapping[str, Tensor], edit: str, key: str) -> dict[str, Tensor]:
        """By the one part that contrasts with edited images."""
        makers = [part for part in self.parts if type(part).edit_image is not Intervention.edit_image]
        return makers[0].edit_image(tensors, edit, key)

    def looks(self, request: "Request") -> "Sequence[Look]":
        """Those of the one part that has some."""
        return [look for part in self.parts for look in part.looks(request)]

    def refocus(self, request: "Request", seen: "Sequence[Sequence[Seen]]", images: "Sequence[Image]") -> "Focus":
        """By the one part that does."""
        makers = [part for part in self.parts if type(part).refocus is not Intervention.refocus]
        return makers[0].refocus(request, seen, images)

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Each part in order."""
        for part in self.parts:
            logits = part.edit_logits(logits, ctx)
        return logits

    def rate_tokens(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """By the one part that has candidates tried."""
        raters = [part for part in self.parts if type(part).rate_tokens is not Intervention.rate_tokens]
        return raters[0].rate_tokens(ctx)
