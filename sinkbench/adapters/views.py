"""Where the tokens of an image lie in the picture: the grids in which each family sees it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sinkbench.adapters.base import Adapter
from sinkbench.adapters.internvl import InternVLAdapter
from sinkbench.adapters.llava import LlavaAdapter, LlavaNextAdapter, OneOfSeveral
from sinkbench.adapters.qwen_vl import QwenVLAdapter
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class View:
    """A grid of image tokens over a picture.

    Attributes:
        name: "image", "base", "tiles" or "thumbnail".
        image: Index of the picture among the prompt's images.
        tokens: (rows, columns) int64, each cell's index among the prompt's image tokens (role IMAGE, separators not
            counted).
        box: Left, top, right and bottom of the grid in pixels of the picture. It reaches beyond the picture where the
            processor pads, and leaves out what the processor crops away.
    """

    name: str
    image: int
    tokens: NDArray[np.int64]
    box: Box


def sample_views(adapter: Adapter, prompt: Prompt) -> list[View]:
    """The views of a prompt's images, in order; the finest view of an image comes last but for thumbnails.

    A family without an entry here, and an image whose tokens fill no grid, have no views; nor has a prompt without
    images.

    Raises:
        SampleError: An image is missing or cannot be read.
    """
    find = next((function for kind, function in _FAMILIES if isinstance(adapter, kind)), None)
    if find is None:
        return []
    views, done = [], 0
    for number, image in enumerate(prompt.images):
        for view in find(adapter, image):
            views.append(replace(view, image=number, tokens=view.tokens + done))
        done += int((adapter.image_layout(image) == Role.IMAGE).sum())
    return views


_WHOLE = ("image", "base", "thumbnail", "tiles")
"""Views that show a whole picture on one grid, those in which it is one view of the encoder first."""


def whole_views(adapter: Adapter, prompt: Prompt) -> list[View]:
    """For each of the prompt's images, the view that shows the whole picture on one grid.

    That is the only view, the base view or the thumbnail; where an image is all one tile, this tile.

    Raises:
        SampleError: It is not known where the tokens of an image lie, or the image cannot be read.
    """
    views = sorted(sample_views(adapter, prompt), key=lambda view: -_WHOLE.index(view.name))
    by_image = {view.image: view for view in views}
    for number in range(len(prompt.images)):
        if number not in by_image:
            raise SampleError(f"where the tokens of image {number + 1} lie in the picture is not known for this model")
    return [by_image[number] for number in range(len(prompt.images))]


def _llava(adapter: Any, image: ImageRef) -> Iterator[View]:
    """One view, padded to a square or cut to its centre; the class token, where it is kept, comes first."""
    width, height = adapter.image_size(image)
    side, padded = adapter.patches_per_side, adapter.preset.options.get("image_padding") == "square"
    extra = len(adapter.image_layout(image)) - side**2
    if 0 <= extra <= adapter.class_tokens:
        box = _square(width, height) if padded else _cropped(adapter.processor.image_processor, width, height)
        yield View("image", 0, extra + _raster(side, side), box)


def _llava_next(adapter: Any, image: ImageRef) -> Iterator[View]:
    """The whole picture squeezed into one view, then its tiles without their padding, right to half a cell.

    LLaVA-OneVision's images that share a prompt are padded to one square view instead.
    """
    width, height = adapter.image_size(image)
    side, layout = adapter.patches_per_side, adapter.image_layout(image)
    if isinstance(image, OneOfSeveral):
        yield View("image", 0, _raster(side, side), _square(width, height))
        return
    first, rows = len(LlavaAdapter.layout_of_size(adapter, 0, 0)), int((layout == Role.TEMPLATE).sum())
    columns = (len(layout) - first) // rows - 1
    yield View("base", 0, first - side**2 + _raster(side, side), (0, 0, width, height))
    yield View("tiles", 0, first + _raster(rows, columns), (0, 0, width, height))


def _qwen_vl(adapter: Any, image: ImageRef) -> Iterator[View]:
    """The picture at its own shape; each token is a block of merged patches."""
    width, height = adapter.image_size(image)
    yield View("image", 0, _raster(*adapter.grid_of_size(height, width)), (0, 0, width, height))


def _internvl(adapter: Any, image: ImageRef) -> Iterator[View]:
    """The tiles side by side, then the thumbnail; each tile's tokens follow one another in the prompt."""
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    width, height = adapter.image_size(image)
    processor, side = adapter.processor.image_processor, isqrt(adapter.processor.image_seq_length)
    tile = (processor.size["height"], processor.size["width"])
    across, down = get_optimal_tiled_canvas((height, width), tile, processor.min_patches, processor.max_patches)
    cells = np.arange(down * across * side**2).reshape(down, across, side, side)
    mosaic = cells.transpose(0, 2, 1, 3).reshape(down * side, across * side)
    yield View("tiles", 0, mosaic, (0, 0, width, height))
    if across * down > 1:
        yield View("thumbnail", 0, cells.size + _raster(side, side), (0, 0, width, height))


_FAMILIES: tuple[tuple[type[Adapter], Callable[[Any, ImageRef], Iterator[View]]], ...] = (
    (LlavaNextAdapter, _llava_next),
    (LlavaAdapter, _llava),
    (QwenVLAdapter, _qwen_vl),
    (InternVLAdapter, _internvl),
)
"""Subclasses stand before their bases."""


def _raster(rows: int, columns: int) -> NDArray[np.int64]:
    return np.arange(rows * columns).reshape(rows, columns)


def _square(width: int, height: int) -> Box:
    """The square around the picture's centre that just holds it."""
    side = max(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _cropped(processor: Any, width: int, height: int) -> Box:
    """What remains of a picture that is resized and then cut to its centre, by the settings of CLIP's processor."""
    size = processor.size
    if size.get("shortest_edge"):
        across = down = size["shortest_edge"] / min(width, height)
    else:
        across, down = size["width"] / width, size["height"] / height
    if not processor.do_center_crop:
        return 0, 0, width, height
    right, bottom = processor.crop_size["width"] / across / 2, processor.crop_size["height"] / down / 2
    return width / 2 - right, height / 2 - bottom, width / 2 + right, height / 2 + bottom
