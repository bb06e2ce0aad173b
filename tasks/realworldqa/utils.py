"""What RealWorldQA's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import choice
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import options_in
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "target", "text"]

METRICS = ("accuracy", "n_unparsed")

LETTERS = dict.fromkeys("ABCD", "")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The question, which says itself how to answer."""
    return f"<image>{(doc['question'] or '').strip()}"


def target(doc: dict[str, Any]) -> str:
    """The right letter or word; empty for a row without one."""
    return doc["answer"] or ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter where the answer is one, else the answer in full."""
    answer = target(doc).strip()
    if answer.upper() in LETTERS and doc["parser"] != "exact":
        # A question that lists its options in another way has letters at least.
        options = options_in(doc["question"] or "") or LETTERS
        judged = choice.score(results[0], answer.upper(), options, parser=doc["parser"])
    else:
        judged = choice.exact(results[0], answer)
    return contributions("choice", METRICS, doc, judged)
