"""What a method knows of each token of a prompt beforehand: by the prompt's words, and by how its images were seen."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.engine.prompt import Prompt
from sinkbench.methods.base import Intervention

ImageMarks = Mapping[str, Mapping[str, Tensor]]
"""By `ImageRef.key` and by name: (N,), a value for each feature of the image."""

_FEATURES = 4096
"""Most features of the images whose attention is in memory at once. At 24×24 patches and 16 heads, a layer of 7 images
takes 150 MB; an image in many tiles takes more, alone."""


def mark_images(
    adapter: Adapter, method: Intervention, prompts: Sequence[Prompt], inputs: Mapping[str, ImageInputs]
) -> ImageMarks:
    """Show a method how the vision encoder sees each distinct image of the prompts; costs a vision pass.

    Args:
        adapter: The model.
        method: Marks the patches; without `vision_layers` there is nothing to do.
        prompts: Prompts of a batch.
        inputs: Preprocessed images by `ImageRef.key`.
    """
    if not method.vision_layers:
        return {}
    marks: dict[str, Mapping[str, Tensor]] = {}
    keys = list(dict.fromkeys(image.key for prompt in prompts for image in prompt.images))
    step = max(1, _FEATURES // max((len(inputs[key].roles) for key in keys), default=1))
    for at in range(0, len(keys), step):
        chunk = keys[at : at + step]
        images = [inputs[key] for key in chunk]
        seen = adapter.vision_attentions(images, method.vision_layers)
        for key, image, attention in zip(chunk, images, seen, strict=True):
            marks[key] = marks_of(adapter, method, image, attention)
    return marks


def marks_of(
    adapter: Adapter, method: Intervention, image: ImageInputs, attention: Sequence[Tensor]
) -> dict[str, Tensor]:
    """What a method marks in an image, (N,) on the CPU by name.

    Args:
        adapter: The model.
        method: Marks the patches.
        image: The preprocessed image.
        attention: As `Intervention.mark_image` takes it.
    """
    by_patch = method.mark_image(image, attention, adapter.class_tokens)
    return {name: adapter.patch_values_to_tokens(values, image).cpu() for name, values in by_patch.items()}


def all_marks(method: Intervention, prompts: Sequence[Prompt], images: ImageMarks) -> list[dict[str, Tensor]]:
    """The marks (L,) of each prompt by name: those of `token_marks`, and its images' in the places of their features.

    The latter are 0 throughout for a prompt with other images than `images`, or none: a second branch, or a prompt that
    another method is asked.
    """
    examples = next(iter(images.values()), {})
    marks = []
    for prompt in prompts:
        own = dict(method.token_marks(prompt))
        known = [images[image.key] for image in prompt.images if image.key in images]
        for name, example in examples.items():
            own[name] = example.new_zeros(len(prompt))
            if known and len(known) == len(prompt.images):
                own[name][prompt.ids == prompt.image_token] = torch.cat([values[name] for values in known])
        marks.append(own)
    return marks
