"""What CHAIR's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import chair
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.captions import chair_data, chair_score
from sinkbench.tasks.images import open_images

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The images with their true objects."""
    return {"test": chair_data(settings, data_dir)}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Objects named in the caption against objects in the photograph."""
    return contributions("chair", chair.NAMES, doc, chair_score(doc, results[0]))
