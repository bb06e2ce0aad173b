"""What a method is: frozen hyper-parameters (`Method`) and, bound to a model, its edits (`Intervention`).

An intervention holds nothing of a batch. What it must remember between passes lives in `ctx.state`, which the engine
re-indexes together with the KV cache, so nothing can leak from one batch to the next.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from torch import Tensor

from sinkbench.engine.context import Context, Stage
from sinkbench.methods.facts import ModelInfo, Paper

if TYPE_CHECKING:
    from PIL.Image import Image

    from sinkbench.adapters.base import ImageInputs
    from sinkbench.engine.prompt import Prompt
    from sinkbench.engine.pruning import Entry, Kept
    from sinkbench.engine.selection import SeenImage, Selected
    from sinkbench.engine.view import AttentionView, MlpParts
    from sinkbench.methods.looks import Focus, Look, Seen
    from sinkbench.request import Generation, Request


Part = Literal["attn", "mlp", "block"]
"""A layer's attention after the output projection, its MLP, both before the residual sum; and the layer's output."""


class Intervention:
    """The edits of a method on a model. Every hook leaves things as they are until a subclass overrides it.

    An edit returns a new tensor and never writes into its argument: the engine compares the two to tell which rows and
    heads were left alone. What the observing hooks are shown must not be written to either.
    """

    hidden_layers: Iterable[int] = ()
    """Layers whose input `observe_hidden` wants to see; L names the output of the last layer, before the final norm."""

    vision_layers: tuple[int, ...] = ()
    """Layers of the vision encoder, from 0 or, negative, from the end, whose attention `mark_patches` wants to see.

    It costs one more pass of the encoder over each image, none where the method selects tokens too, and explicit
    weights of these layers.
    """

    edited_parts: Collection[Part] = ()
    """Parts of layers that `edit_hidden` is shown."""

    last_token_alone: bool = False
    """Whether the prompt's last token must be a pass of its own, the only one in the prompt with `ctx.emits`.

    It costs one more pass; what was seen of all the other tokens can then steer the first generated token.
    """

    paired_branch: bool = False
    """Whether the second branch of `contrast` runs beside the last part of the prompt, and ends with it.

    It is then in the same passes and open to edits: where `ctx.paired`, sample b's branch is row B / 2 + b of the
    batch. Its prompts have no images.
    """

    whole_prompt: bool = False
    """Whether the prompt must be one pass (of stage SUFFIX), its images included, nothing of it shared or run before.

    For edits that let early tokens know of later ones. It costs every question the pass over its image again.
    """

    selects_by: tuple[int, ...] = ()
    """Layers of the vision encoder whose attention `select_tokens` wants to see, numbered as `vision_layers`."""

    prunes_at: tuple[int, ...] = ()
    """Layers at whose entry `keep_tokens` may drop tokens of the prompt, for all layers from there on; ascending.

    Their prompts are one pass, as under `whole_prompt`, and have no second branch.
    """

    reindexes: bool = False
    """Whether tokens are numbered anew after a drop; with multimodal RoPE they keep their positions all the same."""

    capturable: bool = False
    """Whether decode passes may be captured as a CUDA graph and replayed.

    The hooks, `edit_logits` apart, then run once, when the pass is captured. They must work on tensors alone: nothing
    read back to the host, no use of `ctx.step`, and one set of rows, groups and layers for every decode pass. What they
    keep in `ctx.state` while an answer is generated they must write into the tensors that are there (`copy_`, `add_`);
    `ctx.scratch` may get new ones.
    """

    @property
    def observes_attention(self) -> bool:
        """Whether `observe_attention` is to be called."""
        return type(self).observe_attention is not Intervention.observe_attention

    @property
    def observes_mlp(self) -> bool:
        """Whether `observe_mlp` is to be called."""
        return type(self).observe_mlp is not Intervention.observe_mlp

    @property
    def selects(self) -> bool:
        """Whether `select_tokens` is to be called."""
        return type(self).select_tokens is not Intervention.select_tokens

    @property
    def edits_mask(self) -> bool:
        """Whether `edit_mask` is to be called."""
        return type(self).edit_mask is not Intervention.edit_mask

    @property
    def is_grouped(self) -> bool:
        """Whether the only edits of attention are those of `key_groups`; such a method never needs explicit weights."""
        cls = type(self)
        return cls.edit_scores is Intervention.edit_scores and cls.edit_weights is Intervention.edit_weights

    @property
    def scales_groups(self) -> bool:
        """Whether the method has factors for its key groups."""
        return type(self).scale_groups is not Intervention.scale_groups

    def token_marks(self, prompt: "Prompt") -> dict[str, Tensor]:
        """Tensors (L,) with a value for each token of a prompt, by names that every prompt of a batch shares.

        The engine lays them out in the batch's key slots, zero where there is padding, and keeps them in `ctx.state`
        under these names: (B, K) in each pass over the prompt. Decode passes do not extend them.
        """
        return {}

    def edit_mask(self, layer: int, mask: Tensor, ctx: Context) -> Tensor:
        """Edit what is added to all heads' scores in a pass over the prompt, (B, 1, Q, K) float32.

        It is 0 where a row may look and the lowest float32 where it may not. Every row must see some key.
        """
        return mask

    def mark_patches(self, attention: Sequence[Tensor], class_tokens: int) -> dict[str, Tensor]:
        """Values (V, P) of an image's patches, by names that are the same for every image.

        The engine asks once for each distinct image of a batch. It makes a value of each image token of these, the
        largest where a token is made of several patches, and lays them out like `token_marks`: zero for all other
        tokens, and for a second branch. `ctx.state` lacks the names where no prompt of a batch has an image.

        Args:
            attention: Of each of `vision_layers` (V, H, N, N) float32 post-softmax weights of the image's V views
                (tiles); the N tokens are the class tokens, then P patches.
            class_tokens: 1 or 0.
        """
        raise NotImplementedError(f"{type(self).__name__} looks at the vision encoder but has no mark_patches")

    def mark_image(self, image: "ImageInputs", attention: Sequence[Tensor], class_tokens: int) -> dict[str, Tensor]:
        """The same given the preprocessed image too, for marks that depend on its pixels. By default `mark_patches`."""
        return self.mark_patches(attention, class_tokens)

    def rows(self, layer: int, ctx: Context) -> slice | None:
        """Query rows whose exact weights the method edits or reads in this layer and pass (None: none)."""
        return None

    def edit_scores(self, layer: int, scores: Tensor, ctx: Context) -> Tensor:
        """Edit scaled and masked scores (B, H, R, K) float32 before the softmax. By default by `score_gains`."""
        gains = self.score_gains(layer)
        if not gains:
            return scores
        codes = self.key_groups(layer, ctx)[:, None, None, :]
        gain = sum(g * (codes == group) for group, g in enumerate(gains) if g)
        return scores + gain * scores.abs()

    def edit_weights(self, layer: int, weights: Tensor, ctx: Context) -> Tensor:
        """Edit weights (B, H, R, K) float32 after the softmax. By default by `scale_groups`."""
        if not self.scales_groups:
            return weights
        return apply_groups(self, layer, weights, self.key_groups(layer, ctx), ctx)

    n_groups: int = 0
    """How many groups `key_groups` tells apart; at most 15."""

    def key_groups(self, layer: int, ctx: Context) -> Tensor:
        """Group of every key, (B, K) int64 in [0, n_groups), for edits that treat whole groups of keys alike.

        While an answer is generated the groups of the prompt's keys stay, and all generated keys have one group.
        """
        raise NotImplementedError(f"{type(self).__name__} edits groups of keys but has no key_groups")

    def score_gains(self, layer: int) -> tuple[float, ...]:
        """G of each group, by which its scores s become s + g·|s| before the softmax; empty: no such edit."""
        return ()

    def scale_groups(self, layer: int, mass: Tensor, ctx: Context) -> Tensor:
        """Factor (B, H, R, G) of each group's weights, given the groups' attention mass (B, H, R, G)."""
        raise NotImplementedError(f"{type(self).__name__} has no factors for its key groups")

    def observe_query(self, layer: int, query: Tensor, ctx: Context) -> None:
        """See the queries (B, H, Q, d) of every layer, RoPE applied, before anything of its attention is edited."""

    def edit_heads(self, layer: int, heads: Tensor, ctx: Context) -> Tensor:
        """Edit head outputs (B, Q, H, d) before the output projection."""
        return heads

    def select_tokens(self, images: "Sequence[SeenImage]") -> "list[Selected]":
        """What is left of each of some encoded images before the language model reads them, whatever is asked.

        The prompt is shorter then, for all that a method and the engine do with it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no select_tokens")

    def keep_tokens(self, entry: "Entry", ctx: Context) -> "Kept | None":
        """Which tokens go on into a layer of `prunes_at` (None: all).

        What is not an image token must be kept. The views of later layers show what was kept; `ctx.scratch` and
        `ctx.state` go on as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} prunes but has no keep_tokens")

    def weigh_tokens(self, scores: Tensor, ctx: Context) -> Tensor:
        """What a method that prunes ranks image tokens by, given its own scores (B, K) float32, for a composition.

        −inf for those of which none may be kept as long as there are others.
        """
        return scores

    def observe_hidden(self, layer: int, hidden: Tensor, ctx: Context) -> None:
        """See the input (B, Q, d) of a layer named in `hidden_layers`."""

    def observe_attention(self, layer: int, view: "AttentionView", ctx: Context) -> None:
        """See the attention of every layer, after all edits of its heads."""

    def observe_mlp(self, layer: int, parts: "MlpParts", ctx: Context) -> None:
        """See the MLP of every layer, its inner activations included."""

    def edit_hidden(self, layer: int, part: Part, hidden: Tensor, ctx: Context) -> Tensor:
        """Edit what a part named in `edited_parts` adds to the residual stream, or a layer's output: (B, Q, d)."""
        return hidden

    def contrast(self, prompt: "Prompt") -> "Prompt | None":
        """The prompt of a second, unedited branch whose logits arrive as `ctx.contrast_logits` (None: no branch).

        It may be about images that `Prompt.with_edited_images` named: `edit_image` then makes them.
        """
        return None

    def contrast_request(self, request: "Request") -> "Request | None":
        """The second branch as a request of its own, where it differs in words; asked if `contrast` gives none."""
        return None

    def edit_image(self, tensors: "Mapping[str, Tensor]", edit: str, key: str) -> "dict[str, Tensor]":
        """An image of the second branch, preprocessed, from the same of the unedited one; `key` tells images apart."""
        raise NotImplementedError(f"{type(self).__name__} names edited images but does not make them")

    def edit_logits(self, logits: Tensor, ctx: Context) -> Tensor:
        """Edit next-token logits (B, V) float32."""
        return logits

    def rate_tokens(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """What the tokens of this decode pass cost; asked where the method's `generation` has candidates.

        Returns:
            (B,) float32 by which each token's logit is lowered. And (B,) int64: the number of the generated token that
            it trusts most, 0 for the answer's first; a search goes back to tokens that are trusted for long.
        """
        raise NotImplementedError(f"{type(self).__name__} has candidates tried but does not rate them")

    def looks(self, request: "Request") -> "Sequence[Look]":
        """Preliminary questions about the images of a request, for a method that `refocuses`.

        They run on the unedited model. Requests without images are not asked for looks, and are answered as they are.

        Raises:
            SampleError: There can be none; the sample is given up, with the reason.
        """
        return ()

    def refocus(self, request: "Request", seen: "Sequence[Sequence[Seen]]", images: "Sequence[Image]") -> "Focus":
        """The request that is answered in the end, under all the other hooks.

        Args:
            request: What was asked.
            seen: Of each look and each image of its request, in order, what was seen.
            images: Those of `request`, RGB.

        Raises:
            SampleError: There can be none; the sample is given up, with the reason.
        """
        raise NotImplementedError(f"{type(self).__name__} refocuses but makes no new request")


@dataclass(frozen=True)
class Method:
    """Hyper-parameters of a method: hashable, serialisable, without state. Subclass fields are the parameters.

    Class attributes:
        name: What the command line calls it.
        summary: One line for tables.
        paper: Its source.
        edits: Stages whose result it changes; earlier stages can be shared with other methods.
        observes: Stages that it only reads.
        family: One of `FAMILIES`; empty means not stated.
        cost: The dearest of `COSTS` that it takes with its default parameters; empty means not stated.
        calibration: What must be measured on a model before the method can run there; empty means nothing.
        calibrated_for: The field that names the method for whose scores a calibration is, where a model has one for
            each such method; empty where it has one. In a composition the part that `scores` is meant, unless the
            field is given.
        refocuses: Whether it answers another request than was asked, after `Intervention.looks`; a composition can
            hold one such method.
        selects: Whether it drops or merges image tokens before the language model (`Intervention.select_tokens`).
        prunes: Whether it drops tokens between the layers (`Intervention.prunes_at`).
        scores: Whether it ranks these by attention, so that `Intervention.weigh_tokens` of another part can weigh them.
        weighs: Whether it is such a part, and nothing by itself.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[Paper | None]
    edits: ClassVar[Stage] = Stage.NONE
    observes: ClassVar[Stage] = Stage.NONE
    family: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    calibration: ClassVar[str] = ""
    calibrated_for: ClassVar[str] = ""
    refocuses: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    scores: ClassVar[bool] = False
    weighs: ClassVar[bool] = False

    def bind(self, model: ModelInfo) -> Intervention:
        """Resolve per-model values.

        Raises:
            UsageError: The model lacks something that the method needs; the hint says how to get it.
        """
        raise NotImplementedError

    def generation(self, generation: "Generation") -> "Generation":
        """The settings under which the method answers where a task asks for `generation`.

        Raises:
            UsageError: The method cannot answer under such settings.
        """
        return generation

    def check_beside(self, others: "Sequence[Method]") -> None:
        """Refuse the other parts of a composition if the method cannot work beside them.

        Raises:
            UsageError: It cannot.
        """

    @property
    def contrasts(self) -> bool:
        """Whether the method runs a second branch; a composition can hold one such method."""
        return False

    @property
    def contrasts_images(self) -> bool:
        """Whether that branch sees images; then nothing of the method may edit vision or prefix."""
        return False

    def params(self) -> dict[str, Any]:
        """The hyper-parameters by name, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def replace(self, **changes: Any) -> Self:
        """The same method with some parameters changed."""
        return dataclasses.replace(self, **changes)


def apply_groups(method: Intervention, layer: int, weights: Tensor, codes: Tensor, ctx: Context) -> Tensor:
    """Scale weights by group, in plain torch: the reference of the fused form.

    Args:
        method: Asked for its factors.
        layer: 0-based layer.
        weights: (B, H, R, K) post-softmax.
        codes: (B, K) int64 group of each key.
        ctx: The pass.

    Returns:
        (B, H, R, K): weight · factor of its key's group. No renormalisation.
    """
    b, h, r, k = weights.shape
    index = codes[:, None, None, :].expand(b, h, r, k)
    mass = weights.new_zeros(b, h, r, method.n_groups).scatter_add_(3, index, weights)
    return weights * method.scale_groups(layer, mass, ctx).gather(3, index)
