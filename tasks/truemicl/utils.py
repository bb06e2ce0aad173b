"""What TrueMICL's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from datasets import Dataset

from sinkbench.errors import UsageError
from sinkbench.scoring import in_context
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.in_context import read_in_context

__all__ = ["aggregate", "dataset", "doc_to_image", "score_all", "score_one"]


def dataset(data_dir: str | None = None, turns: bool = False, **settings: Any) -> dict[str, Dataset]:
    """The questions with their demonstrations, the parameters among the columns.

    Args:
        data_dir: The folder of folders.
        turns: Whether what asks knows turns (`sinkbench.tasks.load_task` says so; lm-eval by itself does not).
        settings: The task's `metadata`.

    Raises:
        UsageError: The data cannot be read, or turns are wanted where there are none.
    """
    if settings["prompt"] == "chat_turns" and not turns:
        raise UsageError(
            "the prompt chat_turns needs turns of user and assistant, which lm-eval does not hand to a model",
            "Use `sinkbench eval`, or the prompt vl_icl.",
        )
    params = {name: settings[name] for name in settings.get("params", ())}
    rows = [{**row, **params} for row in read_in_context(settings, data_dir)]
    if settings["prompt"] == "vl_icl":
        # Empty lists have no type of their own in a table.
        rows = [{key: value for key, value in row.items() if key != "turns"} for row in rows]
    return {"test": Dataset.from_list(rows)}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The images of demonstrations and question as PIL images."""
    return open_images(doc)


def score_all(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """A short answer, for metrics of each task and over them."""
    judged = in_context.score(results[0], doc["answer"], doc["folder"])
    return contributions("in_context", in_context.names(), doc, judged)


def score_one(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """A short answer, for the metrics of its task alone."""
    judged = in_context.score(results[0], doc["answer"], doc["folder"])
    return contributions("in_context", in_context.names((doc["folder"],)), doc, judged)
