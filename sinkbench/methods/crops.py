"""Cutting regions out of a request's images, and putting them beside the images or in their place."""

import re
from collections.abc import Sequence
from dataclasses import replace
from math import floor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sinkbench.errors import UsageError
from sinkbench.methods.looks import Area, Focus
from sinkbench.request import IMAGE_PLACEHOLDER, ImageRef, MadeImage, Request

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are not part of it."""

Size = tuple[int, int]
"""Width and height in pixels."""

RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Sides of the boxes that ViCrop tries, in units of its base box (released code saccharomycetes/mllms_know@a64c5d5)."""


def base_side(box: int, size: Size) -> int:
    """The side of a base box: as given, or (0) half the picture's shorter side, which is ours."""
    return box or max(1, min(size) // 2)


def check_box(name: str, box: int, ratios: Sequence[float] = RATIOS) -> None:
    """Check the parameters of boxes.

    Raises:
        UsageError: The box is negative, or there are no ratios of 1 or more.
    """
    if box < 0:
        raise UsageError(f"{name}.box={box} is no length", "Give pixels, or 0 for half the shorter side of the image.")
    if not ratios or min(ratios) < 1:
        raise UsageError(f"{name}.ratios={list(ratios)}", "Give one or more numbers from 1 on, such as [1, 1.5, 2].")


def inside(maps: NDArray[np.float64], area: Area, size: Size) -> tuple[NDArray[np.float64], Area]:
    """The part of a grid whose cells lie in the picture with their centres.

    What a model attends to where its processor pads is nothing that can be cut out; that it is left out is ours.

    Args:
        maps: (…, rows, columns).
        area: Where the grid lies.
        size: Of the picture.

    Returns:
        (…, rows', columns') and where these lie.
    """
    left, top, right, bottom = area
    rows, columns = maps.shape[-2:]
    down, across = (bottom - top) / rows, (right - left) / columns
    x0, x1 = _run(left, across, columns, size[0])
    y0, y1 = _run(top, down, rows, size[1])
    kept = left + x0 * across, top + y0 * down, left + x1 * across, top + y1 * down
    return maps[..., y0:y1, x0:x1], area if (x0, x1, y0, y1) == (0, columns, 0, rows) else kept


def _run(start: float, step: float, count: int, length: int) -> tuple[int, int]:
    """The cells [first, stop) of a row whose centres lie in [0, length)."""
    centres = start + (np.arange(count) + 0.5) * step
    within = np.flatnonzero((centres >= 0) & (centres < length))
    return int(within[0]), int(within[-1]) + 1


def square(centre: tuple[float, float], half: int, size: Size) -> Box:
    """The square of side 2·half around a centre, moved into the picture and, where that is too small, cut to it."""
    spans = []
    for middle, length in zip(centre, size, strict=True):
        kept = min(max(int(middle), half), length - half)
        spans.append((max(0, kept - half), min(length, kept + half)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def half_side(base: int, ratio: float) -> int:
    """Half the side of a box, as ViCrop rounds it; at least 1."""
    return max(1, floor(base * ratio / 2))


def cropped(request: Request, images: Sequence["Image"], boxes: Sequence[Sequence[Box]], keep_original: bool) -> Focus:
    """A request with boxes cut out of its images.

    Args:
        request: What was asked.
        images: Its images.
        boxes: Of each image.
        keep_original: Whether the images stay, each before its crops.
    """
    made = [[MadeImage.of(image.crop(box)) for box in own] for image, own in zip(images, boxes, strict=True)]
    details = {"boxes": [[list(box) for box in own] for own in boxes]}
    return Focus(with_images(request, made, keep_original), details)


def with_images(request: Request, made: Sequence[Sequence[ImageRef]], keep_original: bool) -> Request:
    """A request with images behind each of its own, or in its place; the words stay as they are.

    New placeholders follow the old one at once, on lines of their own if the text goes on in a new line there.

    Args:
        request: What was asked.
        made: New images for each of its images; where there are none, the image stays.
        keep_original: Whether the images stay where there are new ones.
    """
    groups = [
        [image, *new] if keep_original or not new else [*new] for image, new in zip(request.images, made, strict=True)
    ]
    sizes = iter([len(group) for group in groups])
    pattern = re.compile(re.escape(IMAGE_PLACEHOLDER) + r"(\n?)")
    messages = tuple(
        replace(message, text=pattern.sub(lambda found: found[0] * next(sizes), message.text))
        for message in request.messages
    )
    return replace(request, messages=messages, images=tuple(image for group in groups for image in group))
