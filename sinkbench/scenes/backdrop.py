"""What stands behind the objects of a scene, as numbers: sky and ground or wall and floor, their patterns, clutter."""

import random
from dataclasses import dataclass
from enum import IntEnum

from sinkbench.scenes.world import Colour


class Ridge(IntEnum):
    """Shape of the band that stands on the horizon."""

    FLAT = 0
    HILLS = 1
    BLOCKS = 2
    PEAKS = 3


class Pattern(IntEnum):
    """Texture of the upper or lower half."""

    PLAIN = 0
    STRIPES = 1
    TILES = 2
    CLOUDS = 3
    PLANKS = 4
    ROAD = 5
    FURROWS = 6


@dataclass(frozen=True)
class Blob:
    """A soft ellipse of low-frequency clutter; position and radii as shares of the image's side."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    opacity: float
    colour: Colour


@dataclass(frozen=True)
class Backdrop:
    """Everything the painter needs.

    Attributes:
        upper: Colours at the top of the image and at the horizon.
        lower: Colours at the horizon and at the bottom of the image.
        ridge_colour: Colour of the band that stands on the horizon.
        ridge: Its shape.
        ridge_height: Its height as a share of the image's side.
        horizon: Height of the horizon from the top, as a share of the image's side.
        upper_pattern: Texture above the horizon.
        lower_pattern: Texture below it.
        period: Width of a stripe, tile or plank as a share of the image's side.
        contrast: How much a pattern darkens what it covers, 0..1.
        texture: Amplitude of the value noise over the whole image.
        blobs: Clutter, back to front.
        seed: Feeds the integer hash behind ridge, clouds and value noise; 32 bits.
    """

    upper: tuple[Colour, Colour]
    lower: tuple[Colour, Colour]
    ridge_colour: Colour
    ridge: Ridge
    ridge_height: float
    horizon: float
    upper_pattern: Pattern
    lower_pattern: Pattern
    period: float
    contrast: float
    texture: float
    blobs: tuple[Blob, ...]
    seed: int


@dataclass(frozen=True)
class _Palette:
    # Colours are 0xRRGGBB; one is drawn for each image.
    upper: tuple[int, ...]
    near_horizon: tuple[int, ...]
    lower: tuple[int, ...]
    bottom: tuple[int, ...]
    ridge_colour: tuple[int, ...]
    ridge: Ridge
    ridge_height: tuple[float, float]
    upper_pattern: tuple[Pattern, ...]
    lower_pattern: tuple[Pattern, ...]


_SKY, _HAZE = (0x6FB1E8, 0x8CC4F0, 0x9AA9B8, 0x5B9BD9), (0xDDEBF5, 0xE9E4D8, 0xC9D4DC, 0xF3DCC0)
_WALLS = (0xE8DCC8, 0xD5E0DA, 0xE6E2EC, 0xD9C7B0, 0xC9D6E3, 0xEBDAD3)
_FLOORS, _FLOOR_ENDS = (0xB98F63, 0xA87B52, 0xC7A579, 0xB7B2AA), (0x94693F, 0x86603F, 0xA98A60, 0x98938C)
_OPEN, _OVERCAST = (Pattern.CLOUDS, Pattern.PLAIN), (Pattern.CLOUDS,)
_PAPERED = (Pattern.PLAIN, Pattern.STRIPES)

_PALETTES: dict[str, _Palette] = {
    "street": _Palette(_SKY, _HAZE, (0x7D7F84, 0x8B8A86), (0x56585E, 0x65656A), (0x9A8C80, 0xA9A39B, 0x8793A0),
                       Ridge.BLOCKS, (0.12, 0.26), _OPEN, (Pattern.ROAD,)),
    "park": _Palette(_SKY, _HAZE, (0x8DBF68, 0x7FB25C), (0x5E9443, 0x6FA34F), (0x4E8A4B, 0x5E9657),
                     Ridge.HILLS, (0.06, 0.16), _OPEN, (Pattern.PLAIN, Pattern.FURROWS)),
    "beach": _Palette(_SKY, _HAZE, (0xE9D6A4, 0xEBDDB6), (0xD8BE84, 0xE0C994), (0x3E97B5, 0x4AA7C0),
                      Ridge.FLAT, (0.08, 0.16), _OPEN, (Pattern.PLAIN, Pattern.FURROWS)),
    "farm": _Palette(_SKY, _HAZE, (0xB9B95C, 0xA8B858), (0x86853B, 0x8E7B45), (0x77964E, 0x8B9A55),
                     Ridge.HILLS, (0.03, 0.09), _OPEN, (Pattern.PLANKS, Pattern.FURROWS)),
    "savanna": _Palette((0xE8B870, 0xA9CBE0, 0xE3C58D), (0xF4E0B5, 0xF2D6A0), (0xD2B566, 0xC9A95A),
                        (0xA98941, 0xB09049), (0xA58F56, 0x8E8450), Ridge.HILLS, (0.02, 0.07), (Pattern.PLAIN,),
                        (Pattern.PLAIN, Pattern.FURROWS)),
    "mountain": _Palette(_SKY, _HAZE, (0xEDF2F7, 0xE3EAF2), (0xC9D6E4, 0xD6E0EB), (0x8FA3B8, 0xA7B6C6),
                         Ridge.PEAKS, (0.15, 0.30), _OVERCAST, (Pattern.PLAIN,)),
    "airport": _Palette(_SKY, _HAZE, (0xA9ABAD, 0xB4B5B3), (0x85878A, 0x929394), (0x8FA3AE, 0xA5A9A8),
                        Ridge.BLOCKS, (0.05, 0.12), _OVERCAST, (Pattern.ROAD, Pattern.TILES)),
    "kitchen": _Palette(_WALLS, _WALLS, (0xC9B79C, 0xB9A58A), (0xA48C6C, 0x9A8468), (0xF0ECE4, 0x8F7A62),
                        Ridge.FLAT, (0.02, 0.05), (Pattern.TILES,), (Pattern.TILES, Pattern.PLANKS)),
    "living room": _Palette(_WALLS, _WALLS, _FLOORS, _FLOOR_ENDS, (0xF4F0E8, 0xC4B49C), Ridge.FLAT, (0.01, 0.03),
                            _PAPERED, (Pattern.PLANKS,)),
    "bedroom": _Palette(_WALLS, _WALLS, (0xC9B9C4, 0xB5BFCB, 0xBFAE98), (0xA8969F, 0x97A3B1, 0xA08E79),
                        (0xF4F0E8, 0xD0C4B4), Ridge.FLAT, (0.01, 0.03), _PAPERED, (Pattern.PLAIN, Pattern.PLANKS)),
    "bathroom": _Palette((0xC4E0E4, 0xD6E8E4, 0xE0E6EA), (0xD6E8EC, 0xE6F0EE), (0xB4C4CA, 0xC4CCCC),
                         (0x93A8B0, 0xA6B2B4), (0x7FB0BC, 0xF0F4F4), Ridge.FLAT, (0.01, 0.04), (Pattern.TILES,),
                         (Pattern.TILES,)),
    "office": _Palette((0xD8DCE0, 0xE2E0DA, 0xCBD3DA), (0xE6E8EA, 0xDADFE2), (0x9AA0A6, 0xA59E94, 0x8C97A0),
                       (0x7C838A, 0x8A8278, 0x707C86), (0x6E7780, 0xB9B2A6), Ridge.FLAT, (0.01, 0.03),
                       (Pattern.PLAIN, Pattern.STRIPES), (Pattern.PLAIN, Pattern.TILES)),
}  # fmt: skip


def sample_backdrop(kind: str, clutter: tuple[int, int], rng: random.Random) -> Backdrop:
    """Draw the backdrop of one scene.

    Args:
        kind: Name of a kind of scene.
        clutter: Smallest and largest number of blobs.
        rng: Source of randomness.
    """
    palette = _PALETTES[kind]
    upper = _vary(rng.choice(palette.upper), rng)
    lower = _vary(rng.choice(palette.lower), rng)
    return Backdrop(
        upper=(upper, _vary(rng.choice(palette.near_horizon), rng)),
        lower=(lower, _vary(rng.choice(palette.bottom), rng)),
        ridge_colour=_vary(rng.choice(palette.ridge_colour), rng),
        ridge=palette.ridge,
        ridge_height=rng.uniform(*palette.ridge_height),
        horizon=rng.uniform(0.32, 0.5),
        upper_pattern=rng.choice(palette.upper_pattern),
        lower_pattern=rng.choice(palette.lower_pattern),
        period=rng.uniform(0.06, 0.14),
        contrast=rng.uniform(0.05, 0.18),
        texture=rng.uniform(0.03, 0.10),
        blobs=tuple(_sample_blob((upper, lower), rng) for _ in range(rng.randint(*clutter))),
        seed=rng.getrandbits(32),
    )


def _sample_blob(colours: tuple[Colour, Colour], rng: random.Random) -> Blob:
    base = rng.choice(colours)
    shift = rng.uniform(-0.25, 0.2)
    colour = (_clip(base[0] + shift), _clip(base[1] + shift), _clip(base[2] + shift * rng.uniform(0.5, 1.5)))
    return Blob(
        rng.random(), rng.random(), rng.uniform(0.04, 0.2), rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.6), colour
    )


def _vary(rgb: int, rng: random.Random) -> Colour:
    light = rng.uniform(-0.08, 0.08)
    red, green, blue = (_clip((rgb >> shift & 255) / 255 + light + rng.uniform(-0.03, 0.03)) for shift in (16, 8, 0))
    return red, green, blue


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)
