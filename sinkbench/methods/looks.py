"""Looks: what a method may ask the model about a request's images before the request is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from sinkbench.request import IMAGE_PLACEHOLDER, Generation, Message, Request

GENERAL = "Write a general description of the image."
"""The instruction against whose attention ViCrop (2502.17422) and CARVE (2509.06461) hold that of a question."""

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""What the released code of ViCrop and CARVE puts behind the text of every look."""

Area = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of a picture; may reach beyond it."""


@dataclass(frozen=True)
class Look:
    """A preliminary question, answered by the unedited model while its attention is recorded.

    Attributes:
        request: What is asked. Its `generation.max_new_tokens` is T, the number of answer tokens whose attention is
            recorded: that of the row from which each is predicted. With 1 it is the prompt's last row alone, and no
            decode pass is run.
        layers: Recorded layers, 0-based.
    """

    request: Request
    layers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a look saw of one image.

    Attributes:
        maps: (T, n_layers, rows, columns) float32 on the CPU: the row's attention weights on the cells of the image's
            grid, mean over heads, not renormalised. T is smaller than asked for where the answer ended before.
        box: Where the grid lies over the picture. It reaches beyond the picture where the processor pads it, and leaves
            out what the processor crops away.
    """

    maps: Tensor
    box: Area


@dataclass(frozen=True, eq=False)
class Focus:
    """What becomes of a request after its looks.

    Attributes:
        request: What is answered.
        details: What was done, JSON-ready; it is kept with the answer.
    """

    request: Request
    details: Mapping[str, Any] = field(default_factory=dict)


def words(request: Request) -> str:
    """The text of the last message, without its images."""
    pieces = (piece.strip() for piece in request.messages[-1].text.split(IMAGE_PLACEHOLDER))
    return " ".join(piece for piece in pieces if piece)


def with_ending(request: Request, ending: str, tokens: int) -> Request:
    """A request with words behind its last message, if they are not there already, answered in at most `tokens`."""
    *before, last = request.messages
    text = last.text if last.text.rstrip().endswith(ending) else f"{last.text} {ending}"
    return replace(request, messages=(*before, replace(last, text=text)), generation=Generation(tokens))


def with_words(request: Request, text: str, tokens: int) -> Request:
    """A request whose last message has its images first and then other words, answered in at most `tokens`."""
    *before, last = request.messages
    images = f"{IMAGE_PLACEHOLDER}\n" * last.text.count(IMAGE_PLACEHOLDER)
    return replace(request, messages=(*before, replace(last, text=images + text)), generation=Generation(tokens))


def about_images(request: Request, text: str, tokens: int) -> Request:
    """Words about all images of a request, apart from what it asks: its system messages, then one of the user's."""
    system = [message for message in request.messages if message.role == "system"]
    asked = Message("user", f"{IMAGE_PLACEHOLDER}\n" * len(request.images) + text)
    return replace(request, messages=(*system, asked), generation=Generation(tokens))


def at_depth(layer: int, n_layers: int, of: int = 32) -> int:
    """The layer of a model with `n_layers` that lies where `layer` lies in one with `of`, rounded down."""
    return layer * n_layers // of


def single_maps(seen: Sequence[Seen]) -> list[Tensor]:
    """(rows, columns) float64 of each image, from looks at one row of one layer."""
    return [image.maps[0, 0].double() for image in seen]
