"""ViCrop: answer with a crop of the image beside it, cut where the question draws attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sinkbench.engine.context import Stage
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.crops import RATIOS, Box, Size, base_side, check_box, cropped, half_side, inside, square
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.looks import (
    GENERAL,
    SHORT_ANSWER,
    Area,
    Focus,
    Look,
    Seen,
    about_images,
    at_depth,
    single_maps,
    with_ending,
)
from sinkbench.request import ImageRef, MadeImage, Request

if TYPE_CHECKING:
    from PIL.Image import Image

BLOCK = 1024
"""Longest side in pixels that an image's blocks aim at."""


def relative_attention(question: torch.Tensor, general: torch.Tensor) -> NDArray[np.float64]:
    """The map rel_att: a question's attention over that of a general instruction, cell by cell.

    The released code divides by zero where the instruction gives a cell no weight at all; here the cell counts 0.

    Args:
        question: (rows, columns).
        general: (rows, columns).
    """
    known = general > 0
    ratio: NDArray[np.float64] = torch.where(known, question / general.where(known, torch.ones(())), 0.0).numpy()
    return ratio


def adaptive_box(values: NDArray[np.float64], area: Area, size: Size, base: int, ratios: Sequence[float]) -> Box:
    """The box that stands out most from its neighbours, over several sizes (spec §2, step 2).

    For each ratio r, the window of min(⌊b·r / cell⌋, grid) cells an axis with the largest sum (the leftmost one, of
    these the topmost); its sharpness is (sum − mean over the windows one cell beside it) / number of cells. The first
    of the ratios with the largest sharpness gives the box, of side 2·⌊b·r / 2⌋ pixels. Windows that fill the grid are
    passed over, and where the first one does, the box is the picture. A window has at least one cell, which is ours.

    Args:
        values: (rows, columns) of a grid.
        area: Where it lies.
        size: Of the picture.
        base: b, in pixels.
        ratios: r.
    """
    rows, columns = values.shape
    across, down = (area[2] - area[0]) / columns, (area[3] - area[1]) / rows
    best, found = -np.inf, (0, 0, *size)
    for number, ratio in enumerate(ratios):
        width = max(1, min(int(base * ratio / across), columns))
        height = max(1, min(int(base * ratio / down), rows))
        if (width, height) == (columns, rows):
            if number == 0:
                return found
            continue
        sums = np.lib.stride_tricks.sliding_window_view(values, (height, width)).sum((2, 3))
        column, row = divmod(int(sums.T.argmax()), len(sums))
        sharpness = (sums[row, column] - np.mean(list(_beside(sums, row, column)))) / (width * height)
        if sharpness > best:
            centre = area[0] + (column + width / 2) * across, area[1] + (row + height / 2) * down
            best, found = sharpness, square(centre, half_side(base, ratio), size)
    return found


def _beside(sums: NDArray[np.float64], row: int, column: int) -> Iterator[float]:
    for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if 0 <= y < sums.shape[0] and 0 <= x < sums.shape[1]:
            yield float(sums[y, x])


def blocks(size: Size) -> tuple[tuple[int, int], list[Box]]:
    """About square blocks of a picture, none much longer than 1024 pixels, for its map at high resolution.

    n = ⌈H / 1024⌉ rows of max(1, ⌊n·W / H⌋) blocks. The released code lacks the 1, and divides by zero for tall
    pictures. All blocks are as large as its first one, so that their grids are alike, and may overlap by a pixel, which
    is ours.

    Returns:
        Rows and columns, and the blocks in reading order.
    """
    width, height = size
    rows = ceil(height / BLOCK)
    columns = max(1, int(rows * width / height))
    across, down = ceil(width / columns), ceil(height / rows)
    lefts = [column * width // columns for column in range(columns)]
    tops = [row * height // rows for row in range(rows)]
    return (rows, columns), [(left, top, left + across, top + down) for top in tops for left in lefts]


@dataclass(frozen=True)
class Vicrop(Method):
    """ViCrop ("MLLMs Know Where to Look"), with relative attention.

    The maps rel_att of the question and of a general instruction at one layer; a crop around the place where they
    differ most; an answer with image and crop. The variants grad_att and pure_grad need gradients through the model
    and are left out. The released code's prompts have a shortened question on V* and 20 answer tokens; here the task
    says both.

    Attributes:
        layer: Whose attention is read, 0-based; -1 means 14 of 32, of other depths in proportion (released code for
            LLaVA-1.5-7B; the proportion is ours).
        box: Side b of the base box in pixels, the model's input size in the released code; 0 means half the shorter
            side of the image (ours).
        ratios: Sizes that are tried, in units of b.
        high: Whether large images get their map block by block (the released code's "_high").
        general: The instruction against which the question is held.
        suffix: Ends both looks, where the question does not end so already; never the final question.
        keep_original: Whether the answer sees the whole image before its crop.
    """

    name: ClassVar[str] = "vicrop"
    summary: ClassVar[str] = "adds a crop of the image, cut where the question draws attention"
    paper: ClassVar[Paper] = Paper(
        title="MLLMs Know Where to Look: Training-free Perception of Small Visual Details with Multimodal LLMs",
        authors="Zhang et al.",
        venue="ICLR 2025",
        arxiv="2502.17422",
        code="saccharomycetes/mllms_know@a64c5d5",
    )
    observes: ClassVar[Stage] = Stage.SUFFIX
    family: ClassVar[str] = "image"
    cost: ClassVar[str] = "passes"
    refocuses: ClassVar[bool] = True

    layer: int = -1
    box: int = 0
    ratios: tuple[float, ...] = RATIOS
    high: bool = False
    general: str = GENERAL
    suffix: str = SHORT_ANSWER
    keep_original: bool = True

    def __post_init__(self) -> None:
        check_box(self.name, self.box, self.ratios)

    def bind(self, model: ModelInfo) -> "VicropIntervention":
        """Resolve the layer.

        Raises:
            UsageError: The model lacks it.
        """
        layer = at_depth(14, model.n_layers) if self.layer == -1 else self.layer
        model.check_layers("vicrop.layer", [layer])
        return VicropIntervention(self, layer)


class VicropIntervention(Intervention):
    """ViCrop on a model."""

    def __init__(self, method: Vicrop, layer: int) -> None:
        self.method, self.layer = method, layer

    def looks(self, request: Request) -> list[Look]:
        """The question and the general instruction, about the images or about each block of each image."""
        m = self.method
        return [
            Look(asked, (self.layer,))
            for seeing in self._seeing(request)
            for asked in (with_ending(seeing, m.suffix, 1), about_images(seeing, f"{m.general} {m.suffix}", 1))
        ]

    def _seeing(self, request: Request) -> Iterator[Request]:
        """The request about what the maps are made of."""
        if not self.method.high:
            yield request
            return
        for number, image in enumerate(request.images):
            for block in _cut(image):
                yield replace(request, images=(*request.images[:number], block, *request.images[number + 1 :]))

    def refocus(self, request: Request, seen: Sequence[Sequence[Seen]], images: Sequence["Image"]) -> Focus:
        """Image and crop."""
        m, sizes = self.method, [image.size for image in images]
        whole = self._tiled(seen, sizes) if m.high else _relative(seen[0], seen[1], sizes)
        boxes = [
            [adaptive_box(values, area, size, base_side(m.box, size), m.ratios)]
            for (values, area), size in zip(whole, sizes, strict=True)
        ]
        return cropped(request, images, boxes, m.keep_original)

    def _tiled(self, seen: Sequence[Sequence[Seen]], sizes: Sequence[Size]) -> list[tuple[NDArray[np.float64], Area]]:
        """Maps of whole images from those of their blocks, side by side, without any normalisation."""
        left = iter(seen)
        maps: list[tuple[NDArray[np.float64], Area]] = []
        for number, size in enumerate(sizes):
            (rows, columns), cut = blocks(size)
            parts = []
            for box in cut:
                question, general = next(left)[number], next(left)[number]
                parts += _relative([question], [general], [(box[2] - box[0], box[3] - box[1])])
            tiles = [[parts[row * columns + column][0] for column in range(columns)] for row in range(rows)]
            maps.append((np.block(tiles), (0, 0, *size)))
        return maps


def _relative(
    question: Sequence[Seen], general: Sequence[Seen], sizes: Sequence[Size]
) -> list[tuple[NDArray[np.float64], Area]]:
    """The map of each image, and where it lies."""
    pairs = zip(single_maps(question), single_maps(general), strict=True)
    return [
        inside(relative_attention(*pair), seen.box, size)
        for pair, seen, size in zip(pairs, question, sizes, strict=True)
    ]


def _cut(image: ImageRef) -> list[ImageRef]:
    """An image's blocks, or the image itself where it is one."""
    _, boxes = blocks(image.size())
    if len(boxes) == 1:
        return [image]
    loaded = image.load()
    return [MadeImage.of(loaded.crop(box)) for box in boxes]
