"""What MMHal-Bench's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import mmhal
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, with the prompt among the columns."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The image as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """An answer and, where a judge was asked, its reply; by itself an answer has a share in no metric."""
    reply = results[1] if len(results) > 1 else None
    return contributions("mmhal", mmhal.NAMES, doc, mmhal.score(results[0], reply, doc["question_type"]))
