"""What SEED-Bench's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.letters import lettered
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import LETTER, option_lines
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "target", "text"]

DIMENSIONS = (
    "scene_understanding",
    "instance_identity",
    "instance_attributes",
    "instance_location",
    "instances_counting",
    "spatial_relation",
    "instance_interaction",
    "visual_reasoning",
    "text_understanding",
)
"""By `question_type_id` from 1 (`question_type` of SEED-Bench.json); those from 10 on are about videos."""

METRICS = ("accuracy", *(f"{dimension}/accuracy" for dimension in DIMENSIONS), "n_unparsed")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions on images."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt: question, options, LLaVA's request for a letter."""
    return f"<image>{doc['question']}\n{option_lines(_options(doc))}\n{LETTER}"


def target(doc: dict[str, Any]) -> str:
    """The right letter; empty for a row without one."""
    return doc["answer"] or ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    number = doc.get("question_type_id") or 0
    dimension = DIMENSIONS[number - 1] if 1 <= number <= len(DIMENSIONS) else ""
    judged = choice.score(results[0], target(doc), _options(doc), dimension, parser=doc["parser"])
    return contributions("choice", METRICS, doc, judged)


def _options(doc: dict[str, Any]) -> dict[str, str]:
    return lettered(doc[f"choice_{letter}"] for letter in "abcd")
