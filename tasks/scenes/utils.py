"""What the Scenes tasks' YAML refers to.

Where the data come from: lm-eval calls `dataset` with the task's `metadata`, over which the TaskManager's own metadata
are laid. So `TaskManager(include_path="tasks", metadata={"data_dir": "DIR", "parser": "vcd"})`, `sinkbench eval
--data-dir DIR` (through `sinkbench.tasks.load_task`) and `lm_eval --metadata '{"data_dir": "DIR"}'` all read DIR, and
without `data_dir` the shipped split is read. A task's parameters travel the same way and become columns of every
document, so that scoring needs nothing but the document.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset

from sinkbench.scoring import chair, multiple_choice, pope, vqa
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.scenes import read_scenes

__all__ = ["aggregate", "dataset", "doc_to_image", "score_chair", "score_mcq", "score_pope", "score_text"]

CATEGORIES = ("counting", "position", "attribute", "scene")


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Dataset]:
    """The task's rows, its parameters among the columns."""
    params = {name: settings[name] for name in settings.get("params", ())}
    return {"test": Dataset.from_list([{**row, **params} for row in read_scenes(settings, data_dir)])}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The scene as a PIL image."""
    return open_images(doc)


def score_pope(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = pope.score(results[0], doc["answer"], doc["category"], doc["parser"])
    return contributions("pope", pope.NAMES, doc, judged)


def score_chair(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Objects named in the caption against objects in the scene."""
    caption = chair.drop_incomplete_sentence(results[0]) if doc["drop_incomplete_sentence"] else results[0]
    synonyms = Path(doc["synonyms_path"]).read_text(encoding="utf-8")
    finder = chair.mention_finder(synonyms, doc["lemmatizer"], doc["strict_synonyms"])
    return contributions("chair", chair.NAMES, doc, chair.score(finder.find(caption), doc["objects"]))


def score_mcq(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    options = multiple_choice.options_of(doc)
    judged = multiple_choice.score(results[0], doc["answer"], options, doc["index"], doc["category"])
    return contributions("multiple_choice", multiple_choice.names(CATEGORIES), doc, judged)


def score_text(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The word on the sign."""
    return contributions("vqa", vqa.NAMES, doc, vqa.score(results[0], doc["answers"]))
