"""What POPE's YAML refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import pope
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_image
from sinkbench.tasks.pope_data import read_pope

__all__ = ["aggregate", "dataset", "doc_to_image", "score"]

SUFFIXES = {
    "llava": "\nAnswer the question using a single word or phrase.",
    "vcd": " Please answer this question with one word.",
    "bare": "",
}
"""What follows the question: LLaVA and lmms-eval; VCD; PAI, OPERA and VLMEvalKit."""


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, with parser and prompt among the columns."""
    data = read_pope(settings, data_dir)
    for name, value in (("parser", settings["parser"]), ("suffix", SUFFIXES[settings["prompt"]])):
        data = data.add_column(name, [value] * len(data))
    return {"test": data}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return [open_image(doc)]


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = pope.score(results[0], doc["answer"], doc["category"], doc["parser"])
    return contributions("pope", pope.NAMES, doc, judged)
