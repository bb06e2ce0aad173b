"""A tiny folder in the form of a Scenes data set, and a model that answers as told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

N_IMAGES = 8
KINDS = ["dog", "cat", "car"]
ROTATION = 1_000_000


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pope_rows() -> list[dict]:
    """Six questions an image; the first three objects are there in even images, the others in odd ones."""
    rows = []
    for split in ("random", "popular", "adversarial"):
        for image in range(N_IMAGES):
            for kind in KINDS:
                for answer in ("yes", "no"):
                    question = f"Is there a {kind if answer == 'yes' else 'train'} in the image?"
                    rows.append(
                        {
                            "id": len(rows),
                            "image": f"{image + 1:06}.jpg",
                            "question": question,
                            "answer": answer,
                            "category": split,
                            "object": kind,
                        }
                    )
    return rows


def mcq_rows() -> list[dict]:
    rows = []
    for question in range(N_IMAGES):
        options = ["one", "two", "three", "four"]
        for r in range(4):
            turned = options[r:] + options[:r]
            rows.append(
                {
                    "id": len(rows),
                    "index": question + r * ROTATION,
                    "image": f"{question + 1:06}.jpg",
                    "question": "How many dogs are there in the image?",
                    **dict(zip("ABCD", turned, strict=True)),
                    "answer": "ABCD"[turned.index("one")],
                    "category": ("counting", "position", "attribute", "scene")[question % 4],
                    "hint": "",
                }
            )
    return rows


def chair_rows() -> list[dict]:
    return [
        {
            "id": i,
            "image": f"{i + 1:06}.jpg",
            "image_id": i + 1,
            "question": "Please describe this image in detail.",
            "objects": KINDS[: 1 + i % 3],
        }
        for i in range(N_IMAGES)
    ]


def text_rows() -> list[dict]:
    question = "What is written on the sign?"
    return [
        {"id": i, "image": f"{i + 1:06}.jpg", "question": question, "answers": ["open"] * 10} for i in range(N_IMAGES)
    ]


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Eight images of plain colour and all task rows."""
    from PIL import Image

    folder = tmp_path / "scenes"
    (folder / "images").mkdir(parents=True)
    for i in range(N_IMAGES):
        Image.new("RGB", (32, 24), (30 * i, 90, 120)).save(folder / "images" / f"{i + 1:06}.jpg")
    write_rows(folder / "pope.jsonl", pope_rows())
    write_rows(folder / "mcq.jsonl", mcq_rows())
    write_rows(folder / "chair.jsonl", chair_rows())
    write_rows(folder / "text.jsonl", text_rows())
    (folder / "synonyms.txt").write_text("dog, puppy\ncat, kitten\ncar, automobile\ntrain, locomotive\n")
    return folder


PERFECT: dict[str, Callable[[dict], str]] = {
    "scenes_pope": lambda doc: doc["answer"],
    "scenes_chair": lambda doc: f"There is a {' and a '.join(doc['objects'])}.",
    "scenes_mcq": lambda doc: doc["answer"],
    "scenes_text": lambda doc: doc["answers"][0],
}
WRONG: dict[str, Callable[[dict], str]] = {
    "scenes_pope": lambda doc: "no" if doc["answer"] == "yes" else "yes",
    "scenes_chair": lambda doc: "A train.",
    "scenes_mcq": lambda doc: "ABCD"[("ABCD".index(doc["answer"]) + 1) % 4],
    "scenes_text": lambda doc: "closed",
}


@pytest.fixture
def perfect() -> dict[str, Callable[[dict], str]]:
    return PERFECT


@pytest.fixture
def wrong() -> dict[str, Callable[[dict], str]]:
    return WRONG
