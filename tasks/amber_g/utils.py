"""What the YAML of AMBER's generative task refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import amber
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.captions import amber_data, amber_score
from sinkbench.tasks.images import open_images

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The images with their annotated words."""
    return {"test": amber_data(settings, data_dir)}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The image as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Nouns of the description against annotated words."""
    return contributions("amber_g", amber.NAMES, doc, amber_score(doc, results[0]))
