"""What is asked of the model: yes/no questions that share images, long captions, and a mixture of everything."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sinkbench.request import IMAGE_PLACEHOLDER, Generation, ImageRef, Message, Request
from sinkbench.scenes.world import CATEGORIES

BatchSize = int | Literal["auto"]

OBJECTS = tuple(CATEGORIES)
POPE_QUESTION = "Is there a {object} in the image? Please answer this question with one word."
CAPTION_QUESTION = "Please describe this image in detail."
_DETAIL = "What does it look like, where in the image is it, and what is next to it?"

SIZE = (640, 480)
"""Width and height of images where a workload does not say otherwise: COCO's usual size."""

MIXED_SIZES = ((640, 480), (480, 640), (640, 360), (500, 375), (333, 500), (336, 336))
MIXED_TOKENS = (1, 8, 64)

TEXTS = (*OBJECTS, POPE_QUESTION.format(object="dog"), CAPTION_QUESTION, _DETAIL, "User: Assistant: USER: ASSISTANT:")
"""Every word that prompts are made of, and role names, for the tokenizers of models with random weights."""


@dataclass(frozen=True)
class Workload:
    """Requests, and how they are batched.

    Attributes:
        name: "pope", "caption", "mixed", "prune", "inspect" or "growth".
        requests: What is asked; every answer has exactly `max_new_tokens` tokens.
        batch_size: Most samples in a batch, or "auto".
        parameters: What tells it from others of its name, for the record.
    """

    name: str
    requests: Sequence[Request]
    batch_size: BatchSize = "auto"
    parameters: dict[str, Any] = field(default_factory=dict)


def write_images(folder: Path, sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[ImageRef]:
    """Write JPEG files of quality 90 with smooth colours and some grain: about as many bytes as photographs have.

    Args:
        folder: Where; made if absent.
        sizes: Width and height of each.
        seed: Of the pixels.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    images = []
    for index, (width, height) in enumerate(sizes):
        coarse = noise.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = noise.integers(-8, 9, (height, width, 1), dtype=np.int16)
        path = folder / f"{seed}-{index}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        images.append(ImageRef.from_file(path))
    return images


def pope(images: Sequence[ImageRef], questions: int = 18, batch_size: BatchSize = "auto") -> Workload:
    """POPE's form: several yes/no questions about each image, answered with a word."""
    requests = _questions("pope", [(image,) for image in images], questions, 1)
    parameters = {"images": len(images), "questions_per_image": questions, "new_tokens": 1}
    return Workload("pope", requests, batch_size, parameters)


def caption(images: Sequence[ImageRef], new_tokens: int = 512, batch_size: BatchSize = "auto") -> Workload:
    """CHAIR's form: a long description of each image."""
    requests = [_request(f"caption/{i}", CAPTION_QUESTION, (image,), new_tokens) for i, image in enumerate(images)]
    return Workload("caption", requests, batch_size, {"images": len(images), "new_tokens": new_tokens})


def mixed(images: Sequence[ImageRef], batch_size: BatchSize = "auto", seed: int = 0) -> Workload:
    """Ragged in every way: 1 to 18 questions of different lengths about each image, answers of 1 to 64 tokens."""
    draw = random.Random(seed)
    requests = []
    for i, image in enumerate(images):
        new_tokens = MIXED_TOKENS[i % len(MIXED_TOKENS)]
        for j in range(draw.randint(1, 18)):
            text = " ".join([_pope_text(draw.randrange(len(OBJECTS))), *[_DETAIL] * draw.randint(0, 3)])
            requests.append(_request(f"mixed/{i}/{j}", text, (image,), new_tokens))
    return Workload("mixed", requests, batch_size, {"images": len(images), "new_tokens": list(MIXED_TOKENS)})


def prune(images: Sequence[ImageRef], new_tokens: int, batch_size: BatchSize = "auto") -> Workload:
    """One question about each image: nothing to share, as papers on pruning measure."""
    requests = _questions("prune", [(image,) for image in images], 1, new_tokens)
    return Workload("prune", requests, batch_size, {"images": len(images), "new_tokens": new_tokens})


def inspect(images: Sequence[ImageRef], batch_size: BatchSize = "auto") -> Workload:
    """A prompt about each image, to be looked at rather than answered."""
    requests = _questions("inspect", [(image,) for image in images], 1, 1)
    return Workload("inspect", requests, batch_size, {"images": len(images)})


def growth(images: Sequence[ImageRef], new_tokens: Sequence[int], batch_size: BatchSize = "auto") -> list[Workload]:
    """How time grows with questions per image, with image tokens (five images in a prompt), and with new tokens.

    Args:
        images: At least five; as many prompts, or groups of prompts that share their images, are made of them.
        new_tokens: Lengths of answers beside 1, for one question an image.
        batch_size: Most samples in a batch, or "auto".
    """
    ones = [(image,) for image in images]
    fives = [tuple(images[(i + k) % len(images)] for k in range(5)) for i in range(len(images))]
    asked = [(shown, questions, 1) for shown in (ones, fives) for questions in (1, 6, 18)]
    return [_growth(*each, batch_size) for each in (*asked, *((ones, 1, n) for n in new_tokens))]


def with_new_tokens(request: Request, new_tokens: int) -> Request:
    """The same question with another length of the answer."""
    return replace(request, generation=replace(request.generation, max_new_tokens=new_tokens))


def _growth(shown: Sequence[tuple[ImageRef, ...]], questions: int, new_tokens: int, batch_size: BatchSize) -> Workload:
    parameters = {
        "groups": len(shown),
        "images_per_prompt": len(shown[0]),
        "questions_per_image": questions,
        "new_tokens": new_tokens,
    }
    return Workload("growth", _questions("growth", shown, questions, new_tokens), batch_size, parameters)


def _questions(name: str, shown: Sequence[tuple[ImageRef, ...]], questions: int, new_tokens: int) -> list[Request]:
    """So many yes/no questions about each group of images."""
    return [
        _request(f"{name}/{i}/{j}", _pope_text(i * questions + j), images, new_tokens)
        for i, images in enumerate(shown)
        for j in range(questions)
    ]


def _pope_text(number: int) -> str:
    return POPE_QUESTION.format(object=OBJECTS[number % len(OBJECTS)])


def _request(name: str, text: str, images: tuple[ImageRef, ...], new_tokens: int) -> Request:
    placeholders = f"{IMAGE_PLACEHOLDER}\n" * len(images)
    generation = Generation(max_new_tokens=new_tokens, ignore_eos=True)
    return Request(name, (Message("user", placeholders + text),), images, generation)
