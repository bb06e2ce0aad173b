"""Draws packed scenes: backdrop, sprites back to front, blur, exposure and pixel noise, for a whole batch at once.

The loop runs over sprite slots, not over images. Each slot is drawn into a window around its centre, so the work per
sprite does not grow with the image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sinkbench.scenes.atlas import CELL, load_sprites
from sinkbench.scenes.hashing import counters, gaussian
from sinkbench.scenes.pack import PackedScenes, pack
from sinkbench.scenes.paint import paint_backdrops
from sinkbench.scenes.scene import SIZE, Scene

RENDERER_VERSION = 1
"""Raised whenever the pixels of a scene change."""
WINDOW = 96
"""Side of the window that one sprite may touch, px; the widest sign has 88."""
MARGIN = WINDOW // 2
LEVEL_SIZES = (40.0, 20.0)
"""Sprites smaller than these, px, are sampled from pre-filtered levels 1 and 2, against aliasing."""


class Renderer:
    """Turns scenes into images; holds the sprite atlas on its device.

    Args:
        device: Where to draw.
        size: Side of the images, px; only 224, the size that scenes are laid out for.
    """

    def __init__(self, device: torch.device | str = "cpu", size: int = SIZE) -> None:
        if size != SIZE:
            raise ValueError(f"scenes are laid out for {SIZE} px, not {size}")
        self.device = torch.device(device)
        self.size = size
        sprites = load_sprites()
        self._n_sprites = len(sprites)
        self._levels = torch.cat([_filtered(sprites, level) for level in range(len(LEVEL_SIZES) + 1)]).to(self.device)

    def render(self, scenes: Sequence[Scene]) -> Tensor:
        """Draw scenes as (B, 3, 224, 224) uint8 on the renderer's device."""
        return self.render_packed(pack(scenes))

    @torch.inference_mode()
    def render_packed(self, packed: PackedScenes) -> Tensor:
        """Draw packed scenes as (B, 3, 224, 224) uint8 on the renderer's device."""
        packed = packed.to(self.device)
        image = paint_backdrops(packed.backdrops, packed.blobs, packed.seeds[:, 0], self.size)
        canvas = functional.pad(image, [MARGIN] * 4).flatten(2)
        for slot in range(packed.sprites.shape[1]):
            colour, alpha, index = self._draw(packed, slot)
            where = index[:, None].expand(-1, 3, -1)
            canvas.scatter_(2, where, canvas.gather(2, where) * (1 - alpha) + colour)
        image = self._crop(canvas)
        blur, noise, exposure = (packed.finish[:, i].view(-1, 1, 1, 1) for i in range(3))
        image = _blur(image, blur) * exposure
        counter = counters(3, self.size, self.size, device=self.device)
        image = image + noise * gaussian(packed.seeds[:, 1].view(-1, 1, 1, 1), counter)
        return (image.clamp(0, 1) * 255).round().to(torch.uint8)

    @torch.inference_mode()
    def object_masks(self, packed: PackedScenes) -> tuple[Tensor, Tensor]:
        """Which pixels belong to which object; a pixel belongs to a sprite whose alpha there exceeds one half.

        Returns:
            visible: (B, M, 224, 224) bool, less what later objects cover; M is the largest number of objects.
            whole: (B, M, 224, 224) bool, as if nothing stood in front, cut at the image's border.
        """
        packed = packed.to(self.device)
        n_objects = int(packed.objects.max()) + 1
        whole = torch.zeros(len(packed), n_objects, self.size, self.size, dtype=torch.bool, device=self.device)
        for slot in range(packed.sprites.shape[1]):
            _, alpha, index = self._draw(packed, slot)
            canvas = torch.zeros(len(packed), 1, (self.size + 2 * MARGIN) ** 2, device=self.device)
            canvas.scatter_(2, index[:, None], alpha)
            mask = self._crop(canvas)[:, 0] > 0.5
            rows = (packed.objects[:, slot] >= 0).nonzero()[:, 0]
            whole[rows, packed.objects[rows, slot]] = mask[rows]
        visible = whole.clone()
        for back in range(n_objects - 1):
            visible[:, back] &= ~whole[:, back + 1 :].any(1)
        return visible, whole

    def _draw(self, packed: PackedScenes, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sample one slot of every scene within its window.

        Returns:
            colour (B, 3, W*W) premultiplied, alpha (B, 1, W*W), index (B, W*W) of each pixel on the padded canvas.
        """
        x, y, width, height = packed.boxes[:, slot, :, None, None].unbind(1)
        left, top = (v.floor().long() - MARGIN for v in (x, y))
        steps = torch.arange(WINDOW, device=self.device)
        columns, rows = left + steps.view(1, 1, -1), top + steps.view(1, -1, 1)
        dx, dy = columns + 0.5 - x, rows + 0.5 - y
        angle, mirror = packed.poses[:, slot, :, None, None].unbind(1)
        cos, sin = angle.cos(), angle.sin()
        u = 2 * mirror * (dx * cos + dy * sin) / width
        v = 2 * (dy * cos - dx * sin) / height
        sprite = packed.sprites[:, slot]
        side = torch.minimum(packed.boxes[:, slot, 2], packed.boxes[:, slot, 3])
        level = sum((side < bound).long() for bound in LEVEL_SIZES)
        cells = self._levels[sprite.clamp(min=0) + level * self._n_sprites]
        drawn = functional.grid_sample(cells, torch.stack((u, v), -1), align_corners=False).flatten(2)
        drawn = drawn * (sprite >= 0).view(-1, 1, 1)
        index = (rows + MARGIN) * (self.size + 2 * MARGIN) + columns + MARGIN
        return drawn[:, :3] * packed.tints[:, slot, :, None], drawn[:, 3:], index.flatten(1)

    def _crop(self, canvas: Tensor) -> Tensor:
        side = self.size + 2 * MARGIN
        return canvas.view(*canvas.shape[:2], side, side)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _filtered(sprites: Tensor, level: int) -> Tensor:
    """Sprites (n, 4, 64, 64) averaged over 2**level squares and brought back to full size."""
    if level == 0:
        return sprites
    small = functional.avg_pool2d(sprites, 2**level)
    return functional.interpolate(small, size=(CELL, CELL), mode="bilinear", align_corners=False)


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Separable Gaussian of five taps with its own standard deviation (B, 1, 1, 1) for every image."""
    taps = [torch.exp(-0.5 * (k / sigma.clamp(min=0.1)) ** 2) for k in range(3)]
    norm = taps[0] + 2 * taps[1] + 2 * taps[2]
    centre, near, far = (tap / norm for tap in taps)
    for axis, border in ((2, [0, 0, 2, 2]), (3, [2, 2, 0, 0])):
        padded = functional.pad(image, border, mode="replicate")
        a, b, c, d, e = (padded.narrow(axis, k, image.shape[axis]) for k in range(5))
        image = centre * c + near * (b + d) + far * (a + e)
    return image
