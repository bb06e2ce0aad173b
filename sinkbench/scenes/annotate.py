"""Exact annotations of rendered scenes in COCO's formats: instances with boxes, areas and RLE masks, and captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkbench.scenes.language import caption
from sinkbench.scenes.scene import SIZE, Scene, scene_rng
from sinkbench.scenes.world import CATEGORIES

if TYPE_CHECKING:
    from torch import Tensor

MIN_VISIBLE = 0.3
"""A scene in which less than this share of some object can be seen is not used for evaluation."""
CAPTION_SHARES = (1.0, 0.75, 0.5)
"""Share of the categories that each reference caption names."""
_INFO = {"description": "sinkbench Scenes", "version": "1", "year": 2026}
_LICENSES = [
    {"id": 1, "name": "SIL Open Font License 1.1 (sprites)", "url": "https://openfontlicense.org"},
]


@dataclass(frozen=True)
class LabelledScene:
    """A scene with the pixels of its objects.

    Attributes:
        scene: The scene.
        masks: (n_objects, 224, 224) bool on the CPU, what can be seen of each object.
    """

    scene: Scene
    masks: "Tensor"


def file_name(image_id: int) -> str:
    """Name of an image file; image ids count from 1."""
    return f"{image_id:06d}.jpg"


def visible_share(visible: "Tensor", whole: "Tensor") -> float:
    """The smallest share of any object that can be seen; masks (n_objects, H, W) bool."""
    seen, total = visible.flatten(1).sum(1), whole.flatten(1).sum(1)
    return float((seen / total.clamp(min=1)).min())


def instances(labelled: Sequence[LabelledScene]) -> dict[str, Any]:
    """COCO instances of the scenes, numbered from image id 1.

    Every annotation has `bbox` [x, y, width, height] and `area` of the visible pixels, `segmentation` as compressed RLE
    with a string of counts, and `iscrowd` 0.
    """
    annotations: list[dict[str, Any]] = []
    for image_id, item in enumerate(labelled, 1):
        for thing, mask in zip(item.scene.objects, item.masks, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORIES[thing.category].id,
                    "iscrowd": 0,
                    **_shape(mask),
                }
            )
    return {
        "info": _INFO,
        "licenses": _LICENSES,
        "images": _images(len(labelled)),
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name, "supercategory": c.supercategory} for c in CATEGORIES.values()],
    }


def captions(scenes: Sequence[Scene]) -> dict[str, Any]:
    """COCO captions: three references an image, which name only what is there."""
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, 1):
        rng = scene_rng(scene.split, scene.seed, scene.index, "captions")
        for share in CAPTION_SHARES:
            text = caption(scene, rng, share=share)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "caption": text})
    return {"info": _INFO, "licenses": _LICENSES, "images": _images(len(scenes)), "annotations": annotations}


def _images(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": file_name(i), "width": SIZE, "height": SIZE, "license": 1} for i in range(1, n + 1)]


def _shape(mask: "Tensor") -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask as rle

    encoded = rle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {
        "bbox": [float(v) for v in rle.toBbox(encoded)],
        "area": float(rle.area(encoded)),
        "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
    }
