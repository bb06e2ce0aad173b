"""What the YAML of photos_pope and photos_chair refers to; all arrives as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import chair, pope
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.captions import chair_data, chair_score, images_hash
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "captions", "doc_to_image", "questions", "score_answer", "score_caption"]

SUFFIXES = {
    "llava": "\nAnswer the question using a single word or phrase.",
    "vcd": " Please answer this question with one word.",
    "bare": "",
}
"""As in tasks/pope/utils.py."""


def captions(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The photographs with their true objects."""
    return {"test": chair_data(settings, data_dir)}


def questions(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """POPE's questions about the photographs."""
    data = task_data(settings, data_dir)["test"]
    images = images_hash(set(data["cluster"][:]))
    for name, value in (("suffix", SUFFIXES[settings["prompt"]]), ("images_sha256", images)):
        data = data.add_column(name, [value] * len(data))
    return {"test": data}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def score_caption(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Objects named in the caption against objects in the photograph."""
    return contributions("chair", chair.NAMES, doc, chair_score(doc, results[0]))


def score_answer(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Yes or no."""
    judged = pope.score(results[0], doc["answer"], doc["category"], doc["parser"])
    return contributions("pope", pope.NAMES, doc, judged)
