"""What ScienceQA's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.letters import lettered
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import LETTER, option_lines
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "target", "text"]

SUBJECTS = ("natural_science", "social_science", "language_science")

METRICS = ("accuracy", *(f"{subject}/accuracy" for subject in SUBJECTS), "n_unparsed")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt: context if there is one, question, options, LLaVA's request for a letter."""
    told = f"Context: {doc['hint']}\n" if doc.get("hint") else ""
    return f"<image>{told}{doc['question']}\n{option_lines(_options(doc))}\n{LETTER}"


def target(doc: dict[str, Any]) -> str:
    """The right letter; empty for a row without one, or whose answer is none of its options."""
    number = doc["answer"]
    letters = list(_options(doc))
    return letters[number] if number is not None and 0 <= number < len(letters) else ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    subject = choice.scope(doc.get("subject"))
    judged = choice.score(results[0], target(doc), _options(doc), subject, parser=doc["parser"])
    return contributions("choice", METRICS, doc, judged)


def _options(doc: dict[str, Any]) -> dict[str, str]:
    return lettered(doc["choices"] or ())
