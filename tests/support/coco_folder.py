"""A small folder in COCO's format: six coloured photographs with boxes and captions."""

import json
from pathlib import Path
from typing import Any

from hub_data import jpeg

CATEGORIES = {1: "person", 17: "cat", 18: "dog", 62: "chair", 70: "toilet"}

OBJECTS = {11: [1, 18, 1], 12: [1, 17], 13: [18, 62, 1], 14: [1, 62], 15: [70], 16: []}
"""Categories annotated in each image, repeats and all."""

CAPTIONS = {
    11: ["A man walks two puppies.", "Someone with a dog beside a seat."],
    12: ["A woman holds a kitten."],
    13: [],
    14: ["People sit."],
    15: ["A toilet seat."],
    16: ["Nothing but sky."],
}

SYNONYMS = "person, man, woman, people\ncat, kitten\ndog, puppy\nchair, seat,  arm chair\ntoilet\n"


def image_name(id: int) -> str:
    return f"COCO_val2014_{id:012}.jpg"


def instances(**changes: Any) -> dict[str, Any]:
    """The content of instances_val2014.json."""
    pairs = [(image, category) for image, listed in OBJECTS.items() for category in listed]
    return {
        "info": {},
        "images": [{"id": id, "file_name": image_name(id), "width": 32, "height": 24} for id in OBJECTS],
        "categories": [{"id": id, "name": name, "supercategory": "thing"} for id, name in CATEGORIES.items()],
        "annotations": [
            {"id": index, "image_id": image, "category_id": category, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0}
            for index, (image, category) in enumerate(pairs)
        ],
        **changes,
    }


def captions() -> dict[str, Any]:
    """The content of captions_val2014.json."""
    pairs = [(image, text) for image, texts in CAPTIONS.items() for text in texts]
    return {
        "info": {},
        "images": [{"id": id, "file_name": image_name(id)} for id in CAPTIONS],
        "annotations": [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(pairs)],
    }


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for id in OBJECTS:
        (folder / image_name(id)).write_bytes(jpeg(id))


def write_coco(folder: Path, annotations: str = "annotations", images: str = "val2014") -> Path:
    """Images, instances and captions, laid out as COCO is."""
    write_images(folder / images)
    (folder / annotations).mkdir(exist_ok=True)
    (folder / annotations / "instances_val2014.json").write_text(json.dumps(instances()))
    (folder / annotations / "captions_val2014.json").write_text(json.dumps(captions()))
    return folder
