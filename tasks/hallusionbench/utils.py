"""What HallusionBench's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from collections import Counter
from typing import Any

from sinkbench.scoring import hallusion
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]

SET = ("category", "subcategory", "set_id")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, with the names of figure and question within the benchmark, and how many rows each has."""
    data = task_data(settings, data_dir)["test"]
    figures, questions = (_names(data, column) for column in ("figure_id", "question_id"))
    data = data.remove_columns("cluster")
    for name, values in (
        ("cluster", figures),
        ("asked_of_set", questions),
        ("in_figure", _sizes(figures)),
        ("in_question", _sizes(questions)),
    ):
        data = data.add_column(name, values)
    return {"test": data}


def _names(data: Any, column: str) -> list[str]:
    return ["-".join(map(str, parts)) for parts in zip(*(data[name] for name in (*SET, column)), strict=True)]


def _sizes(names: list[str]) -> list[int]:
    times = Counter(names)
    return [times[name] for name in names]


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The figure as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    label = "yes" if doc["gt_answer"] == "1" else "no"
    question = (doc["asked_of_set"], doc["in_question"])
    judged = hallusion.score(results[0], label, doc["category"], question, doc["in_figure"], doc["parser"])
    return contributions("hallusion", hallusion.NAMES, doc, judged)
