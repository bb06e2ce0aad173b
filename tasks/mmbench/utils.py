"""What MMBench's YAML files refer to; folder and parameters arrive as in tasks/scenes/utils.py."""

from typing import Any

from sinkbench.scoring import multiple_choice
from sinkbench.scoring.choice import scope
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.choices import mmbench_prompt, with_rotations
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "text"]

BROAD = (
    "attribute_reasoning",
    "coarse_perception",
    "finegrained_perception_cross_instance",
    "finegrained_perception_instance_level",
    "logic_reasoning",
    "relation_reasoning",
)
"""The L2 categories, as `scope` writes them."""

FINE = (
    "action_recognition",
    "attribute_comparison",
    "attribute_recognition",
    "celebrity_recognition",
    "function_reasoning",
    "future_prediction",
    "identity_reasoning",
    "image_emotion",
    "image_quality",
    "image_scene",
    "image_style",
    "image_topic",
    "nature_relation",
    "object_localization",
    "ocr",
    "physical_property_reasoning",
    "physical_relation",
    "social_relation",
    "spatial_relationship",
    "structuralized_imagetext_understanding",
)
"""The categories within them."""

METRICS = multiple_choice.names((*BROAD, *FINE))


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The rows, the rotations of a question together."""
    data = task_data(settings, data_dir)["test"]
    data = data.add_column("language", [settings["language"]] * len(data))
    return {"test": with_rotations(data, "mmbench")}


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The picture as a PIL image."""
    return open_images(doc)


def text(doc: dict[str, Any]) -> str:
    """The prompt under the task's profile."""
    return f"<image>{mmbench_prompt(doc, doc['prompt'], doc['language'])}"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The chosen letter."""
    # A table may repeat the one name as the other.
    categories = dict.fromkeys(filter(None, (scope(doc["category"]), scope(doc.get("L2-category")))))
    judged = multiple_choice.score(
        results[0],
        doc["answer"],
        multiple_choice.options_of(doc),
        int(doc["index"]),
        *categories,
        parser=doc["parser"],
        n_rotations=doc["rotations"],
    )
    return contributions("multiple_choice", METRICS, doc, judged)
