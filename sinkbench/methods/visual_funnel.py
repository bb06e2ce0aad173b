"""Visual Funnel: answer with three crops of growing size around the place where the answer seems to be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from sinkbench.engine.context import Stage
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.crops import Box, Size, base_side, check_box, cropped, inside
from sinkbench.methods.facts import ModelInfo, Paper
from sinkbench.methods.looks import SHORT_ANSWER, Area, Focus, Look, Seen, at_depth, single_maps, with_words, words
from sinkbench.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image

QUESTION = "{question}"
"""Stands for the question in `VisualFunnel.anchor`."""


def as_distribution(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares (rows, columns): what is not finite or negative counts 0, and nothing at all means everywhere alike."""
    clean = np.where(np.isfinite(values) & (values > 0), values, 0.0)
    total = clean.sum()
    return clean / total if total > 0 else np.full(values.shape, 1 / values.size)


def normalised_entropy(shares: NDArray[np.float64]) -> float:
    """−Σ P·log P / log(number of cells), 0 to 1; 0 where there is one cell."""
    some = shares[shares > 0]
    if shares.size == 1:
        return 0.0
    return float(np.clip(-(some * np.log(some)).sum() / np.log(shares.size), 0, 1))


def portfolio(shares: NDArray[np.float64], area: Area, size: Size, base: int, scales: Sequence[float]) -> list[Box]:
    """Boxes from the narrowest to the widest (spec §2, steps 5 and 6).

    The first one, of side S, lies around the centroid of all cells; each next one, of side scale·S, around the
    centroid of the cells whose centres lie in the one before.

    Args:
        shares: (rows, columns) of a grid.
        area: Where it lies.
        size: Of the picture.
        base: S, in pixels.
        scales: Of the boxes after the first.
    """
    region, boxes = area, []
    for scale in (1.0, *scales):
        region = _square(_centroid(shares, area, region), scale * base, size)
        boxes.append(_rounded(region))
    return boxes


def _centroid(shares: NDArray[np.float64], area: Area, region: Area) -> tuple[float, float]:
    """Weighted mean of the cells' centres in a region; the region's own centre where nothing is."""
    rows, columns = shares.shape
    x = area[0] + (np.arange(columns) + 0.5) * (area[2] - area[0]) / columns
    y = area[1] + (np.arange(rows) + 0.5) * (area[3] - area[1]) / rows
    left, top, right, bottom = region
    within = np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))
    kept = shares * within
    total = kept.sum()
    if total <= 0:
        return (left + right) / 2, (top + bottom) / 2
    return float(kept.sum(0) @ x / total), float(kept.sum(1) @ y / total)


def _square(centre: tuple[float, float], side: float, size: Size) -> Area:
    """A square around a centre, shifted into the picture; no side is longer than the picture's."""
    width, height = (min(side, length) for length in size)
    left = min(max(centre[0] - width / 2, 0.0), size[0] - width)
    top = min(max(centre[1] - height / 2, 0.0), size[1] - height)
    return left, top, left + width, top + height


def _rounded(area: Area) -> Box:
    left, top, right, bottom = (round(edge) for edge in area)
    return left, top, right, bottom


@dataclass(frozen=True)
class VisualFunnel(Method):
    """Visual Funnel: crops at three scales around one place, the wider the less certain the place is.

    The crops go through the model's own processor, as in the released code; by the paper's notes they are resized to
    S × S. Sides are S, a1·S and a2·S with a1 = 1.2 + 0.6·H and a2 = 1.6 + 1.2·H, H the map's normalised entropy.

    Attributes:
        layer: Whose attention is read, 0-based; -1 means 14 of 32, of other depths in proportion (ViCrop's for
            LLaVA-1.5-7B, as the paper says; the proportion is ours).
        box: S in pixels, the model's input size; 0 means half the shorter side of the image (ours).
        anchor: What is asked to find the place; {question} stands for the question.
        scale1: a1 at H = 0 and what H = 1 adds.
        scale2: The same of a2.
        suffix: Left out of the question in `anchor`, where it ends so (the released code adds it to the answer only).
        keep_original: Whether the answer sees the whole image before its crops.
    """

    name: ClassVar[str] = "visual_funnel"
    summary: ClassVar[str] = "adds crops of the image at three scales around one place"
    paper: ClassVar[Paper] = Paper(
        title="Visual Funnel",
        authors="Jung et al.",
        venue="CVPR 2026 Findings",
        arxiv="2512.10362",
        code="jungnerd/Visual-Funnel@ee47145",
    )
    observes: ClassVar[Stage] = Stage.SUFFIX
    family: ClassVar[str] = "image"
    cost: ClassVar[str] = "passes"
    refocuses: ClassVar[bool] = True

    layer: int = -1
    box: int = 0
    anchor: str = f"To answer '{QUESTION}', where in the image should I look?"
    scale1: tuple[float, ...] = (1.2, 0.6)
    scale2: tuple[float, ...] = (1.6, 1.2)
    suffix: str = SHORT_ANSWER
    keep_original: bool = True

    def __post_init__(self) -> None:
        check_box(self.name, self.box)
        for name, scale in (("scale1", self.scale1), ("scale2", self.scale2)):
            if len(scale) != 2 or scale[0] <= 0 or sum(scale) <= 0:
                raise UsageError(
                    f"visual_funnel.{name}={list(scale)}", "Give two numbers: the scale at H = 0, and what H = 1 adds."
                )

    def bind(self, model: ModelInfo) -> "VisualFunnelIntervention":
        """Resolve the layer.

        Raises:
            UsageError: The model lacks it.
        """
        layer = at_depth(14, model.n_layers) if self.layer == -1 else self.layer
        model.check_layers("visual_funnel.layer", [layer])
        return VisualFunnelIntervention(self, layer)

    def scales(self, entropy: float) -> tuple[float, float]:
        """a1 and a2."""
        (start1, more1), (start2, more2) = self.scale1, self.scale2
        return start1 + more1 * entropy, start2 + more2 * entropy


class VisualFunnelIntervention(Intervention):
    """Visual Funnel on a model."""

    def __init__(self, method: VisualFunnel, layer: int) -> None:
        self.method, self.layer = method, layer

    def looks(self, request: Request) -> list[Look]:
        """Where to look."""
        question = words(request).removesuffix(self.method.suffix).strip()
        asked = with_words(request, self.method.anchor.replace(QUESTION, question), 1)
        return [Look(asked, (self.layer,))]

    def refocus(self, request: Request, seen: Sequence[Sequence[Seen]], images: Sequence["Image"]) -> Focus:
        """Image and crops, the narrowest first."""
        boxes = [
            self._boxes(values.numpy(), image.box, picture.size)
            for values, image, picture in zip(single_maps(seen[0]), seen[0], images, strict=True)
        ]
        return cropped(request, images, boxes, self.method.keep_original)

    def _boxes(self, values: NDArray[np.float64], area: Area, size: Size) -> list[Box]:
        values, area = inside(values, area, size)
        shares = as_distribution(values)
        scales = self.method.scales(normalised_entropy(shares))
        return portfolio(shares, area, size, base_side(self.method.box, size), scales)
