"""What tables say of a method, and what a method may know of a model."""

from collections.abc import Iterable
from dataclasses import dataclass

from sinkbench.errors import UsageError

FAMILIES = (
    "decoding",
    "attention",
    "heads",
    "hidden states",
    "contrastive decoding",
    "image",
    "pruning",
    "control",
    "ablation",
)
"""What methods may work on or be for, in the order of tables."""

COSTS = {
    "free": "no more than the plain model's own passes",
    "rows": "further work on a few query rows, such as exact weights or logits of earlier layers",
    "images": "further images in the prompt",
    "branch": "a second branch in every pass",
    "passes": "further passes over the prompt or at each step",
    "beams": "several candidates for each answer",
}
"""What methods may cost beside the plain model and what that means, from cheap to dear."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    Attributes:
        title: Title of the paper.
        authors: First author and "et al.".
        venue: Venue and year.
        arxiv: arXiv number.
        code: Repository and commit that the specification was read from.
    """

    title: str
    authors: str
    venue: str
    arxiv: str = ""
    code: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What a method may know about a model, whatever its family.

    Attributes:
        name: Preset or folder name; per-model hyper-parameters are looked up by it.
        n_layers: Decoder layers L.
        n_heads: Query heads H.
        n_kv_heads: Key and value heads.
        hidden_size: Width d of the residual stream.
        sink_dims: Hidden dimensions with massive activations; empty where nobody has measured them.
        sink_tau: φ above which a token is a sink by these; None where nobody has looked.
        vision_class_tokens: Tokens of the vision encoder that stand before the patches: 1 or 0.
        vision_layer: Layer of the vision encoder whose output the projector reads, as `Intervention.vision_layers`.
        pixel_mean: What the processor takes from each colour of a pixel, 0 to 1; empty where it does not say.
        pixel_std: By what it divides the rest; likewise.
    """

    name: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_size: int
    sink_dims: tuple[int, ...] = ()
    sink_tau: float | None = None
    vision_class_tokens: int = 0
    vision_layer: int = -1
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()

    def check_layers(self, parameter: str, layers: Iterable[int]) -> None:
        """Check that the model has these layers.

        Raises:
            UsageError: It has not; the message names the parameter.
        """
        if any(not 0 <= layer < self.n_layers for layer in layers):
            raise UsageError(
                f"{parameter}={list(layers)}: {self.name} has layers 0 to {self.n_layers - 1}", "Choose among these."
            )
