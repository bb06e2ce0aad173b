"""Random numbers from an integer hash: the same on every device and for every batch size."""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def hash32(seed: Tensor, counter: Tensor) -> Tensor:
    """Mix a seed and a counter into 32 random bits.

    The mixer is C. Wellons's `lowbias32` (Hash Function Prospector, 2018), computed in int64 with a 32-bit mask.

    Args:
        seed: int64, broadcast against `counter`.
        counter: int64.

    Returns:
        int64 in 0 .. 2**32 - 1.
    """
    x = (seed + counter * 0x9E3779B9) & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """Float32 in 0..1 with 24 random bits; arguments as for `hash32`."""
    return (hash32(seed, counter) >> 8).float() / 2**24


def gaussian(seed: Tensor, counter: Tensor) -> Tensor:
    """Approximately standard normal float32: the sum of the four bytes of one hash, centred and scaled.

    Four uniform bytes have mean 510 and variance 4 (256^2 - 1) / 12. Arguments as for `hash32`.
    """
    bits = hash32(seed, counter)
    total = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
    return (total.float() - 510) / math.sqrt(4 * (256**2 - 1) / 12)


def counters(*shape: int, device: torch.device) -> Tensor:
    """Counters 0, 1, 2, ... in the given shape, int64."""
    return torch.arange(math.prod(shape), device=device).view(1, *shape)
