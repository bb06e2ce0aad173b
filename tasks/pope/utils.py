"""What the YAML of POPE's tasks refers to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import pope
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "dialogues", "doc_to_image", "score"]

SHORT = "\nAnswer the question using a single word or phrase."

SUFFIXES = {
    "original": SHORT,
    "llava": SHORT,
    "lmms-eval": SHORT,
    "vlmevalkit": "",
    "bare": "",
    "vcd": " Please answer this question with one word.",
}
"""What follows the question in each prompt profile."""

CHAT_SUFFIXES = {"original": "", "llava": SHORT}
"""The same in dialogues, where the original is PAI's script."""


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, with what follows each among the columns."""
    data = task_data(settings, data_dir)["test"]
    return {"test": data.add_column("suffix", [SUFFIXES[settings["prompt"]]] * len(data))}


def dialogues(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The turns of all dialogues, each with the id of the turn that it follows ("" for the first)."""
    data = task_data(settings, data_dir)["test"]
    turns = zip(data["category"], data["chat_id"], data["turn"], strict=True)
    before = [f"{category}-{chat}-{turn - 1}" if turn else "" for category, chat, turn in turns]
    data = data.add_column("follows", before)
    return {"test": data.add_column("suffix", [CHAT_SUFFIXES[settings["prompt"]]] * len(data))}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = pope.score(results[0], doc["answer"], doc["category"], doc["parser"])
    return contributions("pope", pope.NAMES, doc, judged)
