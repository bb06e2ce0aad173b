"""How important the vision encoder finds each patch: calibrated attention and the entropy of grey levels (VFlowOpt)."""

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sinkbench.errors import UsageError

if TYPE_CHECKING:
    from sinkbench.adapters.base import ImageInputs

Base = Literal["mean", "sum"]
"""How the calibrated rows become one value a patch: as the released code has it, or as the paper."""

LEVELS = 256
"""Grey levels that are told apart."""


@dataclass(frozen=True)
class ImportanceMap:
    """VFlowOpt's map of a view (spec §2): I = a + α·e.

    Attributes:
        t: Rows count of patches that receive more than t times the mean attention.
        alpha: Weight of the patches' entropies; 0 leaves the pixels unread.
        base: How the rows become a.
        compat: Read grey levels as the released code does, from normalised pixels that wrap around in a byte.
        pixel_mean: What the processor takes from each colour, 0 to 1.
        pixel_std: By what it divides the rest.
    """

    t: float
    alpha: float = 0.0
    base: Base = "mean"
    compat: bool = False
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()

    def of(self, attention: Tensor, class_tokens: int, image: "ImageInputs") -> Tensor:
        """I, (V, P) float32.

        Class tokens count neither as rows nor as columns [ours: the released models have none].

        Args:
            attention: (V, H, T, T) float32 post-softmax weights of the image's V views; the class tokens come first.
            class_tokens: 1 or 0.
            image: The preprocessed image.

        Raises:
            UsageError: α is not 0 and the pixels come in no form that is known.
        """
        between = attention.mean(1)[:, class_tokens:, class_tokens:]
        base = calibrated_attention(between, self.t, self.base)
        if self.alpha == 0:
            return base
        views, patches = base.shape
        pixels = image.tensors["pixel_values"].to(base.device)
        levels = self.grey_levels(patch_pixels(pixels, views, patches))
        return base + self.alpha * grey_entropy(levels).softmax(-1)

    def grey_levels(self, pixels: Tensor) -> Tensor:
        """Grey levels (…, S) int64 of preprocessed pixels (…, 3, S): the mean of the three colours."""
        if self.compat:
            # Cast as a byte is: the fraction is cut off, and what is negative counts down from 255.
            colours = (pixels.float() * 255).to(torch.int64).remainder(LEVELS).float()
        else:
            mean, std = (pixels.new_tensor(each)[:, None] for each in (self.pixel_mean, self.pixel_std))
            colours = (pixels * std + mean).float() * 255
        return colours.mean(-2).round().to(torch.int64).clamp(0, LEVELS - 1)


def calibrated_attention(attention: Tensor, t: float, base: Base) -> Tensor:
    """What each patch receives from the patches that receive much themselves: a, (V, P).

    Args:
        attention: (V, P, P), mean over heads; rows are queries.
        t: A row counts if its patch receives more than t times the mean; where no patch does, all count.
        base: Whether the rows' mean or sum is taken.
    """
    received = attention.sum(1)
    chosen = received > t * received.mean(1, keepdim=True)
    chosen |= ~chosen.any(1, keepdim=True)
    total = (chosen.to(attention)[:, None] @ attention)[:, 0]
    return total / chosen.sum(1, keepdim=True) if base == "mean" else total


def grey_entropy(levels: Tensor) -> Tensor:
    """Entropy (…) float32, in bits, of the grey levels (…, S) int64 of patches with S pixels."""
    counts = torch.zeros(*levels.shape[:-1], LEVELS, device=levels.device)
    counts.scatter_add_(-1, levels, torch.ones_like(levels, dtype=counts.dtype))
    share = counts / levels.shape[-1]
    return -torch.xlogy(share, share).sum(-1) / torch.log(torch.tensor(2.0))


def patch_pixels(pixels: Tensor, views: int, patches: int) -> Tensor:
    """The pixels of each patch, (V, P, 3, S), in the order in which the encoder sees patches.

    Args:
        pixels: (…, 3, height, width) with V views in front, or (P, n) where the processor has cut out the patches of
            the one view, colour after colour. What is left at the edges of a view, less than a patch, is not seen.
        views: V.
        patches: P.

    Raises:
        UsageError: They are neither.
    """
    if pixels.ndim == 2 and views == 1 and len(pixels) == patches:
        return pixels.view(1, patches, 3, -1)
    side = isqrt(patches)
    if pixels.ndim < 4 or pixels.shape[-3] != 3 or pixels.shape[:-3].numel() != views or side**2 != patches:
        raise UsageError(
            f"vflowopt.alpha: no patches can be cut from preprocessed pixels of shape {list(pixels.shape)}",
            "Leave the pixels unread: --set vflowopt.alpha=0.",
        )
    height, width = (size // side for size in pixels.shape[-2:])
    cut = pixels.flatten(0, -4).unfold(2, height, height).unfold(3, width, width)[:, :, :side, :side]
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(views, patches, 3, height * width)
