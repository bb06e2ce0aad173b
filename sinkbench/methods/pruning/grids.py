"""Where the features of an image lie: the grids that its views make."""

from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sinkbench.engine.selection import SeenImage


def feature_places(image: "SeenImage", views: int, patches: int) -> Tensor:
    """The grid, row and column of each feature, (N, 3) int64; separators have none that means anything.

    Tiles whose rows end in separators are one grid, beside the base view's. Other tiles are a grid each [ours: how
    they lie to one another is not known here]. A class token that is kept has a grid of its own.

    Args:
        image: The image.
        views: Views of the encoder, V.
        patches: Patches of each, P.
    """
    n, device = len(image.features), image.features.device
    if (packed := image.inputs.tensors.get("image_grid_thw")) is not None:
        # Patches of the picture's own shape; a feature is a square of them.
        _, rows, columns = packed[0].tolist()
        place = torch.arange(n, device=device)
        columns //= isqrt(rows * columns // n)
        return torch.stack((torch.zeros_like(place), place // columns, place % columns), dim=1)
    view, row, column = _by_patches(image, views, patches, device)
    separators = int((~image.is_image).sum())
    if separators and views > 1:
        tiles = (image.is_image & (view > 1)).nonzero().flatten()
        columns = len(tiles) // separators
        order = torch.arange(len(tiles), device=device)
        view[tiles], row[tiles], column[tiles] = 2, order // columns, order % columns
    return torch.stack((view, row, column), dim=1)


def _by_patches(image: "SeenImage", views: int, patches: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Each feature's view, counted from 1, and the row and column in it: (N,) int64 each; 0 where there are no patches.

    A feature that is made of several patches knows the largest of their numbers, by which it is ranked.
    """
    side = isqrt(patches)
    number = torch.arange(patches, device=device).float().expand(views, -1)
    of_view = torch.arange(1.0, views + 1, device=device)[:, None].expand(-1, patches)
    view = image.patches_to_tokens(of_view.contiguous()).long()
    # Of one view alone: in stitched tiles the same number would mean several rows.
    merged = isqrt(patches // max(1, int((image.is_image & (view == 1)).sum())))
    row, column = (
        image.patches_to_tokens(values.contiguous()).long() // merged for values in (number // side, number % side)
    )
    return view, row, column
