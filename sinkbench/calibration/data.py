"""The questions that a calibration learns from, and the refusal of those that the task evaluates."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.backend import LmEvalTask
from sinkbench.calibration.base import Box, Question
from sinkbench.errors import UsageError
from sinkbench.tasks import (
    build_requests,
    documents,
    load_task,
    request_id,
    right_answers,
    task_fingerprint,
    task_info,
)
from sinkbench.tasks.hub import cached_snapshot
from sinkbench.tasks.scenes import dataset_about

SPLIT = "train"
"""The split of Scenes that calibrations learn from; the others are for evaluation."""


@dataclass(frozen=True, eq=False)
class Data:
    """Questions with their answers.

    Attributes:
        questions: In the task's order.
        task: Scores answers to them.
        about: The `data` entry of a calibration.
    """

    questions: list[Question]
    task: LmEvalTask
    about: dict[str, Any]


def check_source(name: str, data_dir: Path | None) -> None:
    """See, before anything is loaded or rendered, that a task's data may be learned from.

    Args:
        name: The task.
        data_dir: Folder with its data; None lets Scenes be rendered.

    Raises:
        UsageError: They are what the task evaluates.
    """
    info = task_info(name)
    if data_dir is None:
        if info.source != "scenes":
            raise UsageError(
                f"all data of {name} are its test split, which a calibration must not see",
                "Give --data-dir DIR with other questions in the same form; or learn from rendered scenes: "
                "--task scenes_pope.",
            )
        return
    split = dataset_about(data_dir).get("split", SPLIT) if info.source == "scenes" else SPLIT
    if split != SPLIT:
        raise UsageError(
            f"--data-dir {data_dir} is a {split} split of Scenes, for evaluation; a calibration must not see it",
            f"sinkbench scenes render --split {SPLIT} --seed 1 --n 40 --out DIR makes scenes to learn from; without "
            "--data-dir they are rendered on the way.",
        )


def load_data(
    name: str,
    data_dir: Path | None,
    folder: Path,
    *,
    n: int,
    seed: int,
    limit: int | None = None,
    params: Mapping[str, Any] | None = None,
    rendered: Callable[[int], None] = lambda _: None,
) -> Data:
    """Load a task's questions from a folder, or render scenes first.

    Args:
        name: The task.
        data_dir: Folder with its data; None renders `n` scenes with `seed`.
        folder: Where scenes and images that a data set embeds are written.
        n: Scenes to render.
        seed: Decides the scenes.
        limit: Take the first so many questions only.
        params: Of the task.
        rendered: Told about finished scenes.

    Raises:
        UsageError: As for `check_source`; or the questions are those that the task evaluates.
    """
    check_source(name, data_dir)
    scenes = task_info(name).source == "scenes"
    source = data_dir
    if source is None:
        from sinkbench.scenes.dataset import write_dataset

        source = folder / "scenes"
        write_dataset(source, seed, n, SPLIT, progress=rendered)
    scored = LmEvalTask(name, source, params or {})
    task = scored.loaded
    fingerprint = task_fingerprint(task)
    if fingerprint == _evaluated(name, params):
        raise UsageError(
            f"--data-dir {data_dir} holds the questions that {name} evaluates; a calibration must not see them",
            "Give a folder with other questions.",
        )
    about = dataset_about(source) if scenes else {}
    boxes = _boxes(source) if scenes else {}
    rows = {request_id(task, document): document for document in documents(task)}
    asked = build_requests(task, folder / "images", limit)
    # Later turns of a dialogue stand behind answers that nobody has given here.
    requests = [request for request in asked if not (request.history or request.fault)]
    return Data(
        questions=[
            Question(
                request,
                next(iter(right_answers(task, row := rows[request.id])), ""),
                subject := str(row.get("object") or ""),
                boxes.get((Path(str(row.get("image_path", ""))).name, subject), ()),
            )
            for request in requests
        ],
        task=scored,
        about={
            "task": name,
            "split": about.get("split", "given"),
            "seed": about.get("seed"),
            "folder": data_dir.resolve().name if data_dir is not None else None,
            "fingerprint": fingerprint,
            "dataset": about.get("fingerprint", ""),
            "n": len(requests),
        },
    )


def _evaluated(name: str, params: Mapping[str, Any] | None) -> str:
    """The fingerprint of what the task evaluates by default; empty where that is not on this machine."""
    hub = task_info(name).hub
    if hub and cached_snapshot(hub, "**/*") is None:
        return ""
    return task_fingerprint(load_task(name, None, params))


def _boxes(folder: Path) -> dict[tuple[str, str], tuple[Box, ...]]:
    """Boxes of the objects in a Scenes folder by image and category; none where it has no annotations."""
    path = folder / "instances.json"
    if not path.is_file():
        return {}
    instances = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image["file_name"] for image in instances["images"]}
    categories = {category["id"]: category["name"] for category in instances["categories"]}
    boxes: dict[tuple[str, str], tuple[Box, ...]] = {}
    for row in instances["annotations"]:
        left, top, width, height = row["bbox"]
        key = (images[row["image_id"]], categories[row["category_id"]])
        boxes[key] = (*boxes.get(key, ()), (left, top, left + width, top + height))
    return boxes
