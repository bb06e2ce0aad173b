"""Scenes as tensors: what worker processes prepare and the renderer draws."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sinkbench.scenes.atlas import sprite_index
from sinkbench.scenes.backdrop import Backdrop
from sinkbench.scenes.scene import Scene, SceneObject, Sign
from sinkbench.scenes.world import KINDS, Colour

WHITE: Colour = (1.0, 1.0, 1.0)
POLE: Colour = (0.45, 0.46, 0.48)


@dataclass(frozen=True)
class PackedScenes:
    """A batch of scenes. B scenes, N sprite slots drawn in order, K blobs; short scenes are padded.

    Attributes:
        sprites: (B, N) int64, cell of the atlas; -1 for an empty slot.
        boxes: (B, N, 4) float32, centre x, centre y, width and height, px.
        poses: (B, N, 2) float32, rotation in radians clockwise, and -1 for a mirrored sprite, else 1.
        tints: (B, N, 3) float32, factor on the sprite's colour.
        objects: (B, N) int64, index into the scene's objects; -1 for scenery and sign.
        backdrops: (B, 23) float32, in the order of `BACKDROP_FIELDS`.
        blobs: (B, K, 8) float32, x, y, radius x, radius y (shares of the side), opacity, red, green, blue.
        finish: (B, 3) float32, blur (px), noise, exposure.
        seeds: (B, 2) int64, 32-bit seeds of the backdrop and of the pixel noise.
    """

    sprites: Tensor
    boxes: Tensor
    poses: Tensor
    tints: Tensor
    objects: Tensor
    backdrops: Tensor
    blobs: Tensor
    finish: Tensor
    seeds: Tensor

    def __len__(self) -> int:
        return self.sprites.shape[0]

    def to(self, device: torch.device | str) -> "PackedScenes":
        """The same batch on another device."""
        return PackedScenes(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


BACKDROP_FIELDS: dict[str, slice] = {
    "top": slice(0, 3),
    "near": slice(3, 6),
    "far": slice(6, 9),
    "bottom": slice(9, 12),
    "ridge_colour": slice(12, 15),
    "ridge": slice(15, 16),
    "ridge_height": slice(16, 17),
    "horizon": slice(17, 18),
    "upper_pattern": slice(18, 19),
    "lower_pattern": slice(19, 20),
    "period": slice(20, 21),
    "contrast": slice(21, 22),
    "texture": slice(22, 23),
}
"""Columns of `PackedScenes.backdrops`."""


@dataclass(frozen=True)
class _Slot:
    sprite: str
    x: float
    y: float
    width: float
    height: float
    rotation: float = 0.0
    flip: bool = False
    tint: Colour = WHITE
    object: int = -1


def pack(scenes: Sequence[Scene]) -> PackedScenes:
    """Turn scenes into CPU tensors; picklable, so a worker process can do it."""
    index = sprite_index()
    rows = [list(_slots(scene)) for scene in scenes]
    width = max(1, *map(len, rows)) if rows else 1
    blob_rows = [_blob_rows(scene.backdrop) for scene in scenes]
    n_blobs = max(1, *map(len, blob_rows)) if rows else 1
    values = [
        [
            (index[s.sprite], s.x, s.y, s.width, s.height, s.rotation, -1.0 if s.flip else 1.0, *s.tint, s.object)
            for s in row
        ]
        + [(-1, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, *WHITE, -1)] * (width - len(row))
        for row in rows
    ]
    slots = torch.tensor(values, dtype=torch.float32).view(len(scenes), width, 11)
    blobs = [row + [(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)] * (n_blobs - len(row)) for row in blob_rows]
    return PackedScenes(
        sprites=slots[..., 0].long(),
        boxes=slots[..., 1:5].contiguous(),
        poses=slots[..., 5:7].contiguous(),
        tints=slots[..., 7:10].contiguous(),
        objects=slots[..., 10].long(),
        backdrops=torch.tensor([_backdrop_row(scene.backdrop) for scene in scenes], dtype=torch.float32),
        blobs=torch.tensor(blobs, dtype=torch.float32),
        finish=torch.tensor([(s.blur, s.noise, s.exposure) for s in scenes], dtype=torch.float32),
        seeds=torch.tensor([(s.backdrop.seed, s.noise_seed) for s in scenes], dtype=torch.int64),
    )


def _slots(scene: Scene) -> Iterator[_Slot]:
    for piece in scene.scenery:
        yield _sprite_slot(f"scenery/{piece.category}", piece, -1)
    if scene.sign is not None:
        yield from _sign_slots(scene.sign, has_pole=KINDS[scene.kind].outdoor)
    for number, thing in enumerate(scene.objects):
        yield _sprite_slot(f"{thing.category}/{thing.look}", thing, number)


def _sprite_slot(sprite: str, thing: SceneObject, number: int) -> _Slot:
    return _Slot(
        sprite, thing.x, thing.y, thing.size, thing.size, math.radians(thing.rotation), thing.flip, WHITE, number
    )


def _sign_slots(sign: Sign, *, has_pole: bool) -> Iterator[_Slot]:
    if has_pole:
        yield _Slot("panel", sign.x, sign.y + sign.height / 2 + 14, 4, 28, tint=POLE)
    yield _Slot("panel", sign.x, sign.y, sign.width, sign.height, tint=sign.ink)
    yield _Slot("panel", sign.x, sign.y, sign.width - 2.5, sign.height - 2.5, tint=sign.panel)
    pitch = (sign.width - 8) / len(sign.text)
    for number, letter in enumerate(sign.text.upper()):
        x = sign.x + (number - (len(sign.text) - 1) / 2) * pitch
        yield _Slot(f"letter/{letter}", x, sign.y, sign.letter_size, sign.letter_size, tint=sign.ink)


def _blob_rows(backdrop: Backdrop) -> list[tuple[float, ...]]:
    return [(b.x, b.y, b.radius_x, b.radius_y, b.opacity, *b.colour) for b in backdrop.blobs]


def _backdrop_row(b: Backdrop) -> tuple[float, ...]:
    colours = (*b.upper[0], *b.upper[1], *b.lower[0], *b.lower[1], *b.ridge_colour)
    shape = (b.ridge, b.ridge_height, b.horizon, b.upper_pattern, b.lower_pattern)
    return (*colours, *map(float, shape), b.period, b.contrast, b.texture)
