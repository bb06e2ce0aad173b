"""A folder that the Scenes tasks read, with yes/no questions on small images."""

import json
from pathlib import Path

from PIL import Image

OBJECTS = ("dog", "cat", "car")
SPLITS = ("random", "popular", "adversarial")


def write_scenes(folder: Path, n_images: int) -> Path:
    """`n_images` coloured images with nine questions each (three objects, three splits)."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(n_images):
        name = f"{index + 1:06}.jpg"
        colour = (37 * index % 256, 91 * index % 256, 151 * index % 256)
        Image.new("RGB", (28, 28), colour).save(folder / "images" / name)
        for split in SPLITS:
            for position, thing in enumerate(OBJECTS):
                answer = "yes" if (index + position) % 2 == 0 else "no"
                question = f"is there a {thing} in the image ?"
                row = {"id": len(rows), "image": name, "question": question, "answer": answer, "category": split}
                rows.append(row)
    write_rows(folder / "pope.jsonl", rows)
    return folder


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def truncate(image: Path) -> None:
    """Cut an image file in the middle of its pixels."""
    content = image.read_bytes()
    image.write_bytes(content[: len(content) - len(content) // 4])
