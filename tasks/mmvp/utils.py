"""What MMVP's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import LETTER, bracketed_options, mmvp_pairs, option_lines
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "target", "text"]

METRICS = ("pair_accuracy", "accuracy", "n_unparsed")

CORRECTED = {99: "B", 100: "A", 279: "B", 280: "A"}
"""Right letters by question number, where the first release has them the wrong way round (tsb0601/MMVP, issue 30)."""


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, numbered from 1; the two of a pair follow each other."""
    return {"test": mmvp_pairs(task_data(settings, data_dir)["test"])}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt under the task's profile."""
    if doc["prompt"] == "original":
        return f"<image>{doc['question']} {doc['options']}"
    return f"<image>{doc['question']}\n{option_lines(_options(doc))}\n{LETTER}"


def target(doc: dict[str, Any]) -> str:
    """The right letter; empty for a row without one."""
    given = (doc["answer"] or "").strip().strip("()").upper()
    return CORRECTED.get(doc["number"], given) if given and doc["labels"] == "fixed" else given


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    judged = choice.score(results[0], target(doc), _options(doc), parser=doc["parser"])
    return contributions("mmvp", METRICS, doc, choice.paired(judged, doc["cluster"]))


def _options(doc: dict[str, Any]) -> dict[str, str]:
    return bracketed_options(doc["options"] or "")
