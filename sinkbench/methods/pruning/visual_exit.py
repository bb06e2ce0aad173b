"""Visual exit: all image tokens leave at one layer, from which on the answer is made of what the text has taken up."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sinkbench.engine.context import Context, Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.pruning.budget import PruningIntervention

if TYPE_CHECKING:
    from sinkbench.engine.pruning import Entry, Kept


@dataclass(frozen=True)
class VisualExit(Method):
    """The exit of DyVTE (`dyvte`) at a fixed layer, which takes no trained gates [ours].

    Attributes:
        layer: The first layer without image tokens; 0 means half the depth, and the model's number of layers none.
    """

    name: ClassVar[str] = "visual_exit"
    summary: ClassVar[str] = "drops all image tokens at one layer"
    paper: ClassVar[None] = None
    edits: ClassVar[Stage] = Stage.PREFIX | Stage.SUFFIX
    family: ClassVar[str] = "pruning"
    cost: ClassVar[str] = "free"
    prunes: ClassVar[bool] = True

    layer: int = 0

    def bind(self, model: ModelInfo) -> "VisualExitIntervention":
        """Resolve the layer."""
        layer = self.layer or max(1, model.n_layers // 2)
        if not 1 <= layer <= model.n_layers:
            raise UsageError(
                f"visual_exit.layer={self.layer}: {model.name} has {model.n_layers} layers",
                f"Give 1 to {model.n_layers - 1}, {model.n_layers} to keep the image throughout, or 0 for the middle.",
            )
        return VisualExitIntervention((layer,) if layer < model.n_layers else ())


class VisualExitIntervention(PruningIntervention):
    """An exit at the entry of a layer, or none. Positions stay (DyVTE spec §2 step 3), and so do separators."""

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """All but the image tokens."""
        from sinkbench.engine.pruning import Kept

        return Kept.of(ctx.is_valid & ~ctx.is_image)
