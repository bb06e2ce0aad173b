"""The views of one question as tiles: pictures with grids of image tokens, on scales that all views share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from sinkbench.adapters.base import Adapter
from sinkbench.adapters.views import View, sample_views
from sinkbench.errors import UsageError
from sinkbench.inspection.compared import Array, Compared, MethodView

CLIPPED = 99.0
"""The scale of colours ends at this percentile, so that one sink does not leave the rest dark."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture with a grid of image tokens over it.

    Attributes:
        key: Equal for the same grid over the same picture; views that share a key can be compared.
        label: "image", or what a method added.
        original: Whether it was asked about; otherwise a method made it.
        picture: Its pixels.
        view: Where the tokens lie; numbers within the view's own prompt.
        boxes: Of crops that were cut from it.
    """

    key: tuple[str, str, tuple[int, ...]]
    label: str
    original: bool
    picture: Image.Image
    view: View
    boxes: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, eq=False)
class Gallery:
    """The views of a question as tiles.

    Attributes:
        seen: What was compared.
        layer: Whose weights are drawn; None is the mean over layers.
        tiles: Of each view, in order.
    """

    seen: Compared
    layer: int | None
    tiles: list[list[Tile]]

    @classmethod
    def of(cls, adapter: Adapter, seen: Compared, layer: int | None) -> "Gallery":
        """Find where the image tokens of each view lie.

        Raises:
            UsageError: That is not known for the model.
        """
        originals = [image.key for image in seen.before.prompt.request.images]
        tiles = [_tiles(adapter, view, originals) for view in seen.views]
        if not tiles[0]:
            raise UsageError(
                "where the image tokens lie in the picture is not known for this model: nothing can be drawn over it",
                "Leave --method out: without it the attention to image tokens is drawn in a row.",
            )
        return cls(seen, layer, tiles)

    @property
    def marks(self) -> list[str]:
        """What is drawn beside the weights, and what it means."""
        marks = []
        if any(view.dropped(self.layer).any() for view in self.seen.views):
            marks.append("hatched: tokens that were dropped")
        if any(tile.boxes for own in self.tiles for tile in own):
            marks.append("boxes: where added images were cut")
        return marks

    @property
    def caption(self) -> str:
        """What the pictures show."""
        return "; ".join([f"{self.seen.row}, mean over heads", *self.marks])

    @property
    def what(self) -> str:
        """Which weights are drawn."""
        return f"layer {self.layer}" if self.layer is not None else "mean over layers"

    @cached_property
    def top(self) -> float:
        """Where the scale of colours ends, for all views alike."""
        values = [self.heat(view, tile).ravel() for view, own in self._pairs for tile in own]
        return max(float(np.percentile(np.concatenate(values), CLIPPED)), float(np.finfo(np.float32).tiny))

    @cached_property
    def widest(self) -> float:
        """Where the scale of changes ends on both sides."""
        changes = [
            np.abs(change).ravel()
            for view, own in self._pairs
            for tile in own
            if (change := self.change(view, tile)) is not None
        ]
        return max(float(np.percentile(np.concatenate(changes), CLIPPED)), 1e-6)

    @property
    def _pairs(self) -> list[tuple[MethodView, list[Tile]]]:
        return list(zip(self.seen.views, self.tiles, strict=True))

    def heat(self, view: MethodView, tile: Tile) -> Array:
        """Weights on the cells of a tile."""
        return np.asarray(view.heat(self.layer)[tile.view.tokens])

    def change(self, view: MethodView, tile: Tile) -> Array | None:
        """The same less what it was before; None where the plain model has no such tile."""
        before = next((own for own in self.tiles[0] if own.key == tile.key), None)
        return None if before is None else self.heat(view, tile) - self.heat(self.seen.before, before)


def _tiles(adapter: Adapter, view: MethodView, originals: Sequence[str]) -> list[Tile]:
    """The tiles of a view: the pictures asked about first, then what the method added."""
    tiles, added = [], 0
    images = view.prompt.request.images
    numbers = {}
    for index, image in enumerate(images):
        if image.key not in originals:
            added += 1
            numbers[index] = added
    for grid in sample_views(adapter, view.prompt):
        image = images[grid.image]
        original = image.key in originals
        label = (
            ("image" if len(originals) == 1 else f"image {originals.index(image.key) + 1}")
            if original
            else f"added image {numbers[grid.image]}"
        )
        if grid.name != "image":
            label += f", {grid.name}"
        place = originals.index(image.key) if original else -1
        boxes = view.boxes[place] if 0 <= place < len(view.boxes) else ()
        key = (image.key, grid.name, grid.tokens.shape)
        tiles.append(Tile(key, label, original, image.load(), grid, boxes))
    return sorted(tiles, key=lambda tile: not tile.original)
