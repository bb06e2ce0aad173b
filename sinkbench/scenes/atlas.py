"""The sprite atlas: which cell holds which sprite, and its pixels as a tensor."""

import json
from functools import cache
from typing import TYPE_CHECKING

from sinkbench.paths import asset

if TYPE_CHECKING:
    from torch import Tensor

CELL = 64
"""Side of a sprite in the atlas, px."""


@cache
def sprite_index() -> dict[str, int]:
    """Cell number of every sprite name, for example "car/red", "scenery/🌳", "letter/A" or "panel"."""
    index = json.loads((asset("scenes") / "atlas.json").read_text("utf-8"))
    return {name: cell for cell, name in enumerate(index["sprites"])}


def load_sprites() -> "Tensor":
    """All sprites as (n_sprites, 4, 64, 64) float32 in 0..1, colour premultiplied with alpha."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(asset("scenes") / "atlas.png") as image:
        pixels = torch.from_numpy(np.array(image.convert("RGBA"))).float() / 255
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    cells = pixels.view(rows, CELL, columns, CELL, 4).permute(0, 2, 4, 1, 3).reshape(-1, 4, CELL, CELL)
    cells = cells[: len(sprite_index())].contiguous()
    cells[:, :3] *= cells[:, 3:]
    return cells
