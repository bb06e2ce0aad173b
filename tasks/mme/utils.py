"""What MME's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import mme
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]

REQUEST = " Please answer yes or no."
SHORT = "\nAnswer the question using a single word or phrase."


def ask(question: str, prompt: str) -> str:
    """A question in the words of a prompt profile.

    Some questions have two spaces before the request for yes or no; lmms-eval leaves one of them.
    """
    if prompt == "vlmevalkit":
        return question
    asked = question.strip().replace(REQUEST, "")
    return (asked.rstrip() if prompt == "original" else asked) + SHORT


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, in the words of the prompt profile among the columns."""
    data = task_data(settings, data_dir)["test"]
    asked = [question and ask(question, settings["prompt"]) for question in data["question"]]
    return {"test": data.add_column("asked", asked)}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = mme.score(results[0], doc["answer"], doc["category"], doc["question_id"], doc["parser"])
    return contributions("mme", mme.NAMES, doc, judged)
