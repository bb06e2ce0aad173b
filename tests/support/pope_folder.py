"""A small POPE release: questions on two images; yes questions are the same in every split, as in the real one."""

import json
from pathlib import Path
from typing import Any

SPLITS = ("random", "popular", "adversarial")
ABSENT = {"random": "boat", "popular": "car", "adversarial": "bench"}


def image_name(image: int) -> str:
    return f"COCO_val2014_{310196 + image:012}.jpg"


def pope_questions(split: str, n_images: int = 2) -> list[dict[str, Any]]:
    """A yes and a no question on each image, in the release's columns; numbers repeat across splits."""
    asked = [
        (image, thing, label)
        for image in range(n_images)
        for thing, label in ((f"dog {image}", "yes"), (ABSENT[split], "no"))
    ]
    return [
        {
            "question_id": number,
            "image": image_name(image),
            "text": f"Is there a {thing} in the image?",
            "label": label,
        }
        for number, (image, thing, label) in enumerate(asked, start=1)
    ]


def write_pope(folder: Path, splits: tuple[str, ...] = SPLITS) -> Path:
    """The release's files without images."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        write_lines(folder / f"coco_pope_{split}.json", pope_questions(split))
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
