"""Image tokens that a method drops or merges before the language model reads them, so that the prompt is shorter."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.adapters.vision import EncoderPass
from sinkbench.engine.context import Role
from sinkbench.engine.marks import ImageMarks, marks_of
from sinkbench.engine.prompt import Prompt
from sinkbench.methods.base import Intervention

_FEATURES = 4096
"""Most features of the images whose attention is in memory at once, as in `engine.marks`."""


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An encoded image, as a method that selects tokens sees it.

    Attributes:
        features: (N, d) what the language model would read.
        roles: (N,) uint8, IMAGE, or TEMPLATE for separators; on the CPU.
        attention: Of each of the method's `selects_by` (V, H, T, T) float32 post-softmax weights of the image's V
            views; the T tokens are the class tokens, then the patches.
        class_tokens: 1 or 0.
        inputs: The preprocessed image.
        patches_to_tokens: From values (V, P) or (V, P, d) of the patches to (N,) or (N, d) of the features: the largest
            of a feature's patches, or with `mean=True` their mean; 0 for separators.
        keys: Of each of these layers (V, T, d_k) float32, mean over heads.
        states: (T, D) what stands before the projector, class token included; None where the features are not these
            states, each by itself, through the projector.
        project: The projector, from (n, D) to (n, d), where there are `states`.
    """

    features: Tensor
    roles: Tensor
    attention: tuple[Tensor, ...]
    class_tokens: int
    inputs: ImageInputs
    patches_to_tokens: Callable[..., Tensor]
    keys: tuple[Tensor, ...] = ()
    states: Tensor | None = None
    project: Callable[[Tensor], Tensor] | None = None

    @property
    def is_image(self) -> Tensor:
        """(N,) bool: no separator."""
        return (self.roles == Role.IMAGE).to(self.features.device)

    def importance(self, attention: Tensor) -> Tensor:
        """How much the encoder attends to each feature, (N,) float32.

        Args:
            attention: (V, H, T, T), one of `attention`.
        """
        return self.patches_to_tokens(self.patch_importance(attention))

    def patch_importance(self, attention: Tensor) -> Tensor:
        """How much the encoder attends to each patch, (V, P) float32.

        The class token's row, mean over heads; without a class token what a patch receives from all rows on average.

        Args:
            attention: (V, H, T, T), one of `attention`.
        """
        mean = attention.mean(1)
        return mean[:, 0, 1:] if self.class_tokens else mean.mean(1)

    def feature_keys(self, keys: Tensor) -> Tensor:
        """Keys (N, d_k) of the features: the mean of a feature's patches.

        Args:
            keys: (V, T, d_k), one of `keys`.
        """
        return self.patches_to_tokens(keys[:, self.class_tokens :], mean=True)


@dataclass(frozen=True, eq=False)
class Selected:
    """What is left of an image.

    Attributes:
        index: (n,) int64, for each token that is left, in the order in which they are read, a feature of its own: it
            takes over that one's role, its marks, what deeper layers add to it, and its position where tokens keep
            theirs (multimodal RoPE).
        tokens: (n, d), where they are no longer these features themselves; otherwise None.
    """

    index: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """A batch after a method's selection.

    Attributes:
        features: Encoded images by `ImageRef.key`, the shortened ones in the places of the others.
        marks: What was marked in the images, likewise.
        kept: (n,) int64 on the CPU: `Selected.index` of each image.
        lengths: How many it had.
    """

    features: Mapping[str, ImageFeatures]
    marks: ImageMarks
    kept: Mapping[str, Tensor]
    lengths: Mapping[str, int]

    @classmethod
    def of(
        cls,
        adapter: Adapter,
        method: Intervention,
        prompts: Sequence[Prompt],
        inputs: Mapping[str, ImageInputs],
        features: Mapping[str, ImageFeatures],
        marked: Collection[str],
    ) -> "Selection":
        """Let a method select among the features of each distinct image of the prompts, and mark what it marks.

        Where it wants to see the encoder's attention, the images are encoded here, and their features need not be
        known: one pass is enough for all that it wants.

        Args:
            adapter: The model.
            method: Selects.
            prompts: Prompts of a batch.
            inputs: Preprocessed images by `ImageRef.key`.
            features: Encoded images.
            marked: `ImageRef.key` of the images that it marks.
        """
        keys = list(dict.fromkeys(image.key for prompt in prompts for image in prompt.images))
        layers, n_marking = (*method.vision_layers, *method.selects_by), len(method.vision_layers)
        step = max(1, _FEATURES // max((len(inputs[key].roles) for key in keys), default=1)) if layers else len(keys)
        shorter, kept, lengths, marks = dict(features), {}, {}, {}
        for at in range(0, len(keys), max(step, 1)):
            chunk = keys[at : at + step]
            images = [inputs[key] for key in chunk]
            seen = adapter.see_encoder(images, layers) if layers else [EncoderPass((), features[key]) for key in chunk]
            shown = [_seen_image(adapter, *each, n_marking) for each in zip(images, seen, strict=True)]
            for key, encoder, one in zip(chunk, seen, method.select_tokens(shown), strict=True):
                shorter[key] = _shortened(encoder.features, one)
                kept[key], lengths[key] = one.index.cpu(), len(encoder.features.tokens)
                if n_marking and key in marked:
                    attention = [layer.weights for layer in encoder.layers[:n_marking]]
                    whole = marks_of(adapter, method, inputs[key], attention)
                    marks[key] = {name: values[kept[key]] for name, values in whole.items()}
        return cls(shorter, marks, kept, lengths)

    def shorten(self, prompt: Prompt) -> Prompt:
        """The prompt with what is left of its images."""
        if not prompt.images:
            return prompt
        places = (prompt.ids == prompt.image_token).nonzero().flatten()
        keep, order, start = prompt.ids != prompt.image_token, torch.arange(len(prompt)), 0
        for image in prompt.images:
            kept = places[start + self.kept[image.key]]
            keep[kept] = True
            order[kept.sort().values] = kept
            start += self.lengths[image.key]
        ordered = replace(prompt, roles=prompt.roles[order], positions=prompt.positions[:, order])
        return ordered.keeping(keep)


def _seen_image(adapter: Adapter, image: ImageInputs, encoder: EncoderPass, first: int) -> SeenImage:
    """What `select_tokens` is shown of an image; `first` is the first of the layers that it wants to see."""
    return SeenImage(
        encoder.features.tokens,
        image.roles,
        tuple(layer.weights for layer in encoder.layers[first:]),
        adapter.class_tokens,
        image,
        partial(adapter.patch_values_to_tokens, image=image),
        tuple(layer.keys for layer in encoder.layers[first:]),
        encoder.states,
        adapter.projector,
    )


def _shortened(features: ImageFeatures, selected: Selected) -> ImageFeatures:
    index = selected.index.to(features.tokens.device)
    tokens = features.tokens[index] if selected.tokens is None else selected.tokens
    return ImageFeatures(tokens, None if features.deepstack is None else features.deepstack[:, index])


@dataclass(frozen=True, eq=False)
class Alone:
    """A batch under a method that shares no more than the vision pass.

    Attributes:
        prompts: Its prompts.
        branches: Of the method's second branch, one for each or none.
        features: Encoded images by `ImageRef.key`; where the method selects by what it sees of the encoder, those that
            are known already.
        marks: What the method marked in them; nothing before it has selected.
    """

    prompts: Sequence[Prompt]
    branches: Sequence[Prompt]
    features: Mapping[str, ImageFeatures]
    marks: ImageMarks

    def shortened(self, adapter: Adapter, method: Intervention, inputs: Mapping[str, ImageInputs]) -> "Alone":
        """The same with what the method leaves of the images."""
        prompts = [*self.prompts, *self.branches]
        marked = {image.key for prompt in self.prompts for image in prompt.images}
        selection = Selection.of(adapter, method, prompts, inputs, self.features, marked)
        shorter = [selection.shorten(prompt) for prompt in prompts]
        n = len(self.prompts)
        return Alone(shorter[:n], shorter[n:], selection.features, selection.marks)
