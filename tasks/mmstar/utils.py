"""What MMStar's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import LETTER
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "target", "text"]

CATEGORIES = (
    "coarse_perception",
    "fine_grained_perception",
    "instance_reasoning",
    "logical_reasoning",
    "science_technology",
    "math",
)

METRICS = ("accuracy", *(f"{category}/accuracy" for category in CATEGORIES), "question_accuracy", "n_unparsed")

SUFFIXES = {"lmms-eval": f"\n{LETTER.removesuffix('.')}", "bare": ""}
"""What follows the question, which lists its options itself."""

LETTERS = dict.fromkeys("ABCD", "")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt under the task's profile."""
    return f"<image>{(doc['question'] or '').strip()}{SUFFIXES[doc['prompt']]}"


def target(doc: dict[str, Any]) -> str:
    """The right letter; empty for a row without one."""
    return doc["answer"] or ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    judged = choice.mmstar(results[0], target(doc), LETTERS, doc["category"], doc["l2_category"], doc["parser"])
    return contributions("mmstar", METRICS, doc, judged)
