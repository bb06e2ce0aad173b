"""A control: answer with crops from random places, where other methods look for the right one."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar

from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.crops import RATIOS, Box, Size, base_side, check_box, cropped, half_side
from sinkbench.methods.facts import ModelInfo
from sinkbench.methods.looks import Focus, Seen
from sinkbench.request import Request

if TYPE_CHECKING:
    from PIL.Image import Image


def random_box(draw: Random, size: Size, base: int, ratios: Sequence[float]) -> Box:
    """A box of one of ViCrop's sizes, somewhere in the picture: size and place are drawn evenly."""
    side = 2 * half_side(base, draw.choice(ratios))
    width, height = (min(side, length) for length in size)
    left, top = draw.randint(0, size[0] - width), draw.randint(0, size[1] - height)
    return left, top, left + width, top + height


@dataclass(frozen=True)
class RandomCrop(Method):
    """A control of ours for methods that crop, such as ViCrop (Zhang et al., ICLR 2025, arXiv 2502.17422).

    It adds as many images of the same sizes, cut anywhere: what such a method gains beyond it comes from the place, not
    from further image tokens or pixels.

    Attributes:
        crops: Crops of each image, as many as the controlled method has: 1 as ViCrop, 3 as Visual Funnel; with 0 the
            request stays as it is.
        box: Side of the base box in pixels; 0 means half the shorter side of the image.
        ratios: Sides that are drawn, in units of the base box.
        keep_original: Whether the answer sees the whole image before its crops.
        seed: With the request's id, of the draw.
    """

    name: ClassVar[str] = "random_crop"
    summary: ClassVar[str] = "adds crops of the image from random places"
    paper: ClassVar[None] = None
    family: ClassVar[str] = "control"
    cost: ClassVar[str] = "images"
    refocuses: ClassVar[bool] = True

    crops: int = 1
    box: int = 0
    ratios: tuple[float, ...] = RATIOS
    keep_original: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_box(self.name, self.box, self.ratios)
        if self.crops < 0:
            raise UsageError(f"random_crop.crops={self.crops}", "Give the number of crops of each image, from 0 on.")

    def bind(self, model: ModelInfo) -> "RandomCropIntervention":
        """Nothing depends on the model."""
        return RandomCropIntervention(self)


class RandomCropIntervention(Intervention):
    """Random crops; there is nothing to look at."""

    def __init__(self, method: RandomCrop) -> None:
        self.method = method

    def refocus(self, request: Request, seen: Sequence[Sequence[Seen]], images: Sequence["Image"]) -> Focus:
        """Image and crops; the draw depends on seed and request alone."""
        m = self.method
        if not m.crops:
            return Focus(request)
        draw = Random(f"{m.seed}/{request.id}")
        boxes = [
            [random_box(draw, image.size, base_side(m.box, image.size), m.ratios) for _ in range(m.crops)]
            for image in images
        ]
        return cropped(request, images, boxes, m.keep_original)
