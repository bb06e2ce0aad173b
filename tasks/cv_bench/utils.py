"""What CV-Bench's YAML files refer to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.letters import lettered
from sinkbench.scoring.metric import Score
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "score_2d", "score_3d", "target", "text"]

METRICS_2D = (
    "accuracy",
    "ade20k/accuracy",
    "coco/accuracy",
    "count/accuracy",
    "relation/accuracy",
    "question_accuracy",
    "n_unparsed",
)

METRICS_3D = ("accuracy", "depth/accuracy", "distance/accuracy", "n_unparsed")

METRICS = tuple(dict.fromkeys(("accuracy", "2d/accuracy", "3d/accuracy", *METRICS_2D, *METRICS_3D)))


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt under the task's profile: the data's own, with a note on how to answer before it."""
    if doc["prompt"] == "bare":
        return f"<image>{doc['asked']}"
    letters = ", ".join(lettered(doc["choices"] or ()))
    note = f"Note: You only need to respond with {letters} without providing any additional information."
    return f"<image>{note}\n\n{doc['asked']}"


def target(doc: dict[str, Any]) -> str:
    """The right letter; empty for a row without one."""
    return (doc["answer"] or "").strip("()")


def score_2d(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter, for cvbench_2d."""
    return contributions("cvbench", METRICS_2D, doc, _judge(doc, results[0]))


def score_3d(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter, for cvbench_3d."""
    return contributions("cvbench", METRICS_3D, doc, _judge(doc, results[0]))


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter, for both at once."""
    return contributions("cvbench", METRICS, doc, _judge(doc, results[0]))


def _judge(doc: dict[str, Any], answer: str) -> Score:
    scopes = [choice.scope(doc[column]) for column in ("type", "source", "task")]
    return choice.score(answer, target(doc), lettered(doc["choices"] or ()), *scopes, parser=doc["parser"])
