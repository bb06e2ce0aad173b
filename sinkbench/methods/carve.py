"""CARVE: answer with an image of which only the regions remain where the question draws attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sinkbench.engine.context import Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.crops import Box, Size, inside, with_images
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.looks import (
    GENERAL,
    SHORT_ANSWER,
    Area,
    Focus,
    Look,
    Seen,
    about_images,
    at_depth,
    with_ending,
)
from sinkbench.methods.regions import label_regions
from sinkbench.request import MadeImage, Request

if TYPE_CHECKING:
    from PIL.Image import Image

Steps = Literal["all", "first", "last"]
Rank = Literal["attention", "area", "none"]
Limit = Literal["least", "most"]

TIE = 1e-9
"""Relative difference below which a pixel ties with the threshold. Ours: between the centres of its outermost cells and
the edge a map is flat but for rounding, which would else decide over whole stretches of pixels."""

SMALL = 0.001
"""Regions below this share of the mask are outliers where regions are not ranked."""


def contrast_maps(question: Tensor, general: Tensor, steps: Steps, lam: float) -> NDArray[np.float64]:
    """Contrast the attention of a question with that of a general instruction (spec §2, steps 1 to 3).

    C = A_Q / (A_G + λ), summed over layers and over the steps that both answers have, step t with weight t.

    Args:
        question: (T, n_layers, rows, columns).
        general: (T', n_layers, rows, columns).
        steps: "all" of them; the "first" or the "last" one alone.
        lam: λ.

    Returns:
        (rows, columns).
    """
    count = min(len(question), len(general))
    contrast = (question[:count].double() / (general[:count].double() + lam)).sum(1)
    if steps != "all":
        contrast = contrast[:1] if steps == "first" else contrast[-1:]
    weights = torch.arange(1, len(contrast) + 1, dtype=torch.float64)
    fused: NDArray[np.float64] = torch.einsum("t,trc->rc", weights, contrast).numpy()
    return fused


def on_pixels(values: NDArray[np.float64], area: Area, size: Size) -> NDArray[np.float64]:
    """A grid (rows, columns) upsampled bilinearly to the pixels (H, W) of a picture; 0 where it does not reach."""
    left, top, right, bottom = (round(edge) for edge in area)
    shape = (bottom - top, right - left)
    grid = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    fine = F.interpolate(grid, shape, mode="bilinear", align_corners=False)[0, 0]
    width, height = size
    # Negative padding cuts.
    pixels: NDArray[np.float64] = F.pad(fine, (left, width - right, top, height - bottom)).numpy()
    return pixels


def keep_regions(
    values: NDArray[np.float64], share: float, regions: int, limit: Limit, rank: Rank
) -> NDArray[np.bool_]:
    """The pixels that stay (spec §2, step 4).

    Of the top share of pixels, the connected regions (4 neighbours) with the largest sums of values, or areas: at most
    `regions` of them, or at least so many and at least the same share of all regions. Unranked, every region stays but
    for those smaller than a thousandth of the mask.

    Args:
        values: (H, W).
        share: p.
        regions: K.
        limit: Whether K is the most or the least.
        rank: By what regions are ranked.

    Returns:
        (H, W).
    """
    threshold = np.quantile(values, 1 - share)
    labels, count = label_regions(values >= threshold - TIE * abs(threshold))
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if rank == "none":
        kept = area >= int(SMALL * area.sum())
    else:
        weight = area if rank == "area" else np.bincount(labels.ravel(), values.ravel(), minlength=count + 1)[1:]
        most = regions if limit == "most" else max(regions, int(share * count))
        kept = np.zeros(count, dtype=bool)
        kept[np.argsort(-weight, kind="stable")[:most]] = True
    return np.concatenate(([False], kept))[labels]


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The box around the pixels of a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def refined(image: "Image", mask: NDArray[np.bool_]) -> "Image":
    """An image blackened outside a mask, cut to the box around it and enlarged until it covers its old size.

    The shape of the box stays, so that one side may become longer than it was (released code).
    """
    from PIL import Image

    left, top, right, bottom = bounding_box(mask)
    cut = Image.fromarray(np.where(mask[..., None], np.asarray(image), 0)[top:bottom, left:right])
    factor = max(image.width / cut.width, image.height / cut.height)
    return cut.resize((int(cut.width * factor), int(cut.height * factor)), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Carve(Method):
    """Contrastive Attention Refinement for Visual Enhancement.

    Two recorded answers, to the question and to a general instruction, give a map of what the question alone draws
    attention to; the answer sees the image with everything else blackened and cut away. The defaults are those of the
    released code; profile "paper" has the paper's.

    Attributes:
        layers: Whose attention is read, 0-based; empty means 20 to 25 of 32, of other depths in proportion (released
            code for LLaVA-1.5 and Qwen2.5-VL, whatever their depth; the proportion is ours).
        steps: Which steps of the answers count: "all" (step t with weight t), the "first", or the "last" that both
            have (the paper's best; the released code has none like it).
        lam: λ, added to the general instruction's attention.
        share: Share p of the pixels that enters the mask.
        regions: K, how many regions of the mask stay.
        limit: Whether K is the "most" (paper) or the "least" number (released code, which keeps p of all regions if
            that is more).
        rank: Which regions stay: those with the most "attention", the largest "area", or ("none") all that are no
            specks, as in older versions of the released code.
        tokens: Most tokens of the recorded answers.
        general: The instruction against which the question is held.
        suffix: Ends both looks, where the question does not end so already; never the final question.
        keep_original: Whether the answer sees the whole image before the refined one (released code; not the paper's
            algorithm).
    """

    name: ClassVar[str] = "carve"
    summary: ClassVar[str] = "adds the image cut and blackened to what the question draws attention to"
    paper: ClassVar[Paper] = Paper(
        title="Focusing by Contrastive Attention",
        authors="Ge et al.",
        venue="ECCV 2026",
        arxiv="2509.06461",
        code="YuyaoGe/CARVE@a1f0442",
    )
    observes: ClassVar[Stage] = Stage.SUFFIX | Stage.DECODE
    family: ClassVar[str] = "image"
    cost: ClassVar[str] = "passes"
    refocuses: ClassVar[bool] = True

    layers: tuple[int, ...] = ()
    steps: Steps = "all"
    lam: float = 1e-8
    share: float = 0.2
    regions: int = 3
    limit: Limit = "least"
    rank: Rank = "attention"
    tokens: int = 32
    general: str = GENERAL
    suffix: str = SHORT_ANSWER
    keep_original: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"carve.share={self.share} is no share", "Give a number above 0, up to 1.")
        if self.regions < 1 or self.tokens < 1:
            raise UsageError(f"carve.regions={self.regions}, carve.tokens={self.tokens}", "Give 1 or more of each.")
        if self.lam <= 0:
            raise UsageError(f"carve.lam={self.lam} could divide by zero", "Give a small number above 0.")

    def bind(self, model: ModelInfo) -> "CarveIntervention":
        """Resolve the layers.

        Raises:
            UsageError: The model lacks one.
        """
        start = at_depth(20, model.n_layers)
        layers = self.layers or tuple(range(start, max(start + 1, at_depth(26, model.n_layers))))
        model.check_layers("carve.layers", layers)
        return CarveIntervention(self, layers)


class CarveIntervention(Intervention):
    """CARVE on a model."""

    def __init__(self, method: Carve, layers: tuple[int, ...]) -> None:
        self.method, self.layers = method, layers

    def looks(self, request: Request) -> list[Look]:
        """The question and the general instruction."""
        m = self.method
        general = about_images(request, f"{m.general} {m.suffix}", m.tokens)
        return [Look(asked, self.layers) for asked in (with_ending(request, m.suffix, m.tokens), general)]

    def refocus(self, request: Request, seen: Sequence[Sequence[Seen]], images: Sequence["Image"]) -> Focus:
        """Image and refined image."""
        masks = [
            self._mask(question, general, image.size) for question, general, image in zip(*seen, images, strict=True)
        ]
        made = [[MadeImage.of(refined(image, mask))] for image, mask in zip(images, masks, strict=True)]
        details = {
            "boxes": [[list(bounding_box(mask))] for mask in masks],
            "kept": [round(float(mask.mean()), 4) for mask in masks],
        }
        return Focus(with_images(request, made, self.method.keep_original), details)

    def _mask(self, question: Seen, general: Seen, size: Size) -> NDArray[np.bool_]:
        m = self.method
        fused = contrast_maps(question.maps, general.maps, m.steps, m.lam)
        values = on_pixels(*inside(fused, question.box, size), size)
        return keep_regions(values, m.share, m.regions, m.limit, m.rank)
