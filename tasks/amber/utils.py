"""What AMBER's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import amber_d
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]

SUFFIXES = {"original": "", "vlmevalkit": "\nPlease answer yes or no."}
"""What follows the question in each prompt profile."""


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, in the words of the prompt profile among the columns."""
    data = task_data(settings, data_dir)["test"]
    suffix = SUFFIXES[settings["prompt"]]
    return {"test": data.add_column("asked", [question and question + suffix for question in data["question"]])}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = amber_d.score(results[0], doc["answer"], doc["category"], doc["parser"])
    return contributions("amber", amber_d.NAMES, doc, judged)
