"""Paints backdrops for a whole batch at once: gradients, the band on the horizon, patterns, clutter, value noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from sinkbench.scenes.backdrop import Pattern, Ridge
from sinkbench.scenes.hashing import counters, uniform
from sinkbench.scenes.pack import BACKDROP_FIELDS

_OCTAVES = ((6, 0.5), (14, 0.3), (40, 0.2))
"""Lattice side and weight of each octave of value noise."""


def paint_backdrops(backdrops: Tensor, blobs: Tensor, seeds: Tensor, size: int) -> Tensor:
    """Paint a batch of backdrops.

    Args:
        backdrops: (B, 23) float32, see `PackedScenes`.
        blobs: (B, K, 8) float32.
        seeds: (B,) int64.
        size: Side of the image, px.

    Returns:
        (B, 3, size, size) float32, roughly 0..1.
    """
    part = {name: backdrops[:, columns, None, None] for name, columns in BACKDROP_FIELDS.items()}
    axis = (torch.arange(size, device=backdrops.device) + 0.5) / size
    x, y = axis.view(1, 1, 1, size), axis.view(1, 1, size, 1)
    horizon = part["horizon"]
    below = (y > horizon).float()
    depth = ((y - horizon) / (1 - horizon)).clamp(0, 1)
    height = (y / horizon).clamp(0, 1)

    upper = torch.lerp(part["top"], part["near"], height)
    lower = torch.lerp(part["far"], part["bottom"], depth)
    noise = _value_noise(seeds, size)
    upper = upper * (1 - part["contrast"] * _upper_pattern(part, x, y, noise))
    lower = lower * (1 - part["contrast"] * _lower_pattern(part, x, y, depth))
    image = torch.lerp(upper, lower, below)

    ridge_top = horizon - part["ridge_height"] * _ridge_profile(part["ridge"], seeds, x)
    on_ridge = ((y > ridge_top) & (y <= horizon)).float()
    image = torch.lerp(image, part["ridge_colour"].expand_as(image), on_ridge)
    for blob in blobs.unbind(1):
        image = _add_blob(image, blob[..., None, None], x, y)
    return image + part["texture"] * noise


def _value_noise(seeds: Tensor, size: int) -> Tensor:
    """(B, 1, size, size) in -1..1: bilinear interpolation of random lattices, coarse to fine."""
    total = torch.zeros(len(seeds), 1, size, size, device=seeds.device)
    for octave, (side, weight) in enumerate(_OCTAVES):
        lattice = uniform(seeds.view(-1, 1, 1) + octave + 1, counters(side, side, device=seeds.device))
        total += weight * functional.interpolate(
            lattice[:, None] * 2 - 1, size=(size, size), mode="bilinear", align_corners=True
        )
    return total


def _is(codes: Tensor, code: Pattern | Ridge) -> Tensor:
    return (codes == float(code)).float()


def _fraction(value: Tensor) -> Tensor:
    return value - value.floor()


def _upper_pattern(part: dict[str, Tensor], x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """(B, 1, H, W): 1 where the upper half is darkened most, negative where it is lightened."""
    code, period = part["upper_pattern"], part["period"]
    column, row = _fraction(x / period), _fraction(y / period)
    stripes = (column < 0.5).float().expand_as(noise)
    grout = torch.maximum((column < 0.1).float(), (row < 0.1).float())
    clouds = -3 * (noise - 0.05).clamp(min=0) * part["upper_pattern"].ne(0)
    return _is(code, Pattern.STRIPES) * stripes + _is(code, Pattern.TILES) * grout + _is(code, Pattern.CLOUDS) * clouds


def _lower_pattern(part: dict[str, Tensor], x: Tensor, y: Tensor, depth: Tensor) -> Tensor:
    """(B, 1, H, W): 1 where the lower half is darkened most, negative where it is lightened."""
    code, period = part["lower_pattern"], part["period"]
    # A ground plane seen in perspective: columns spread and rows stretch towards the viewer.
    column = (x - 0.5) / (depth + 0.35)
    row = 1 / (depth + 0.35)
    planks = (_fraction(column / period) < 0.1).float()
    grout = torch.maximum(planks, (_fraction(row / period / 2) < 0.12).float())
    furrows = 0.5 + 0.5 * torch.sin(2 * math.pi * row / period).expand_as(grout)
    on_road = ((x - 0.5).abs() < 0.08 + 0.42 * depth).float()
    marks = ((column.abs() < 0.018) & (_fraction(row * 2.5) < 0.5)).float()
    road = 1.5 * on_road - 6 * marks
    return (
        _is(code, Pattern.PLANKS) * planks
        + _is(code, Pattern.TILES) * grout
        + _is(code, Pattern.FURROWS) * furrows
        + _is(code, Pattern.ROAD) * road
    )


def _ridge_profile(code: Tensor, seeds: Tensor, x: Tensor) -> Tensor:
    """(B, 1, 1, W) in 0..1: height of the band on the horizon along the image."""
    knots = uniform(seeds.view(-1, 1) + 101, counters(12, device=seeds.device))
    position = x.view(1, -1) * 10
    left = position.long()
    t = position - left
    index = left.expand(len(seeds), -1)
    start, end = knots.gather(1, index), knots.gather(1, index + 1)
    smooth = torch.lerp(start, end, (t * t * (3 - 2 * t)).expand_as(start))
    blocks = start
    peaks = 0.35 + 0.65 * torch.lerp(start, end, t.expand_as(start))
    profiles = {Ridge.FLAT: torch.ones_like(start), Ridge.HILLS: smooth, Ridge.BLOCKS: blocks, Ridge.PEAKS: peaks}
    total = torch.zeros_like(start)[:, None, None]
    for ridge, profile in profiles.items():
        total = total + _is(code, ridge) * profile[:, None, None]
    return total


def _add_blob(image: Tensor, blob: Tensor, x: Tensor, y: Tensor) -> Tensor:
    # blob: (B, 8, 1, 1)
    distance = ((x - blob[:, 0:1]) / blob[:, 2:3]) ** 2 + ((y - blob[:, 1:2]) / blob[:, 3:4]) ** 2
    weight = blob[:, 4:5] * (1.5 - 1.5 * distance).clamp(0, 1)
    return torch.lerp(image, blob[:, 5:8].expand_as(image), weight)
