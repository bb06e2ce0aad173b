"""From a task's name to lm-eval's task object, and from its documents to requests."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import resource
from sinkbench.request import IMAGE_PLACEHOLDER, Generation, Message, Request
from sinkbench.scoring.lemmatize import get_lemmatizer
from sinkbench.tasks.catalog import task_info
from sinkbench.tasks.images import ImageFiles
from sinkbench.tasks.pope_data import check_pope
from sinkbench.tasks.scenes import dataset_about, read_scenes

_SOURCES: dict[str, Callable[[Mapping[str, Any], str | Path | None, str], object]] = {
    "scenes": lambda settings, data_dir, task: read_scenes(settings, data_dir),
    "pope": check_pope,
}

_PLACES = ("image_path", "synonyms_path")
"""Columns that say where something lies on this machine."""


def check_data(name: str, data_dir: str | Path | None = None, params: Mapping[str, Any] | None = None) -> None:
    """Make sure that a task's data can be had, without lm-eval, torch or decoding images.

    Args:
        name: Task name.
        data_dir: The folder given by `--data-dir`; None takes the shipped data or the hub's.
        params: As for `load_task`.

    Raises:
        UsageError: The task or a parameter is unknown, a file or column is missing, a row is malformed, or the hub is
            out of reach and nothing is cached; says what to type next.
    """
    info = task_info(name)
    settings = {**info.settings, **info.with_params(params or {})}
    _SOURCES[info.source](settings, data_dir, name)
    if "lemmatizer" in settings:
        # Its dictionaries are found missing now rather than after the last answer.
        get_lemmatizer(settings["lemmatizer"])("a dog", frozenset())


def load_task(name: str, data_dir: str | Path | None = None, params: Mapping[str, Any] | None = None) -> Any:
    """Load a task through lm-eval's TaskManager.

    Folder and parameters travel in the TaskManager's `metadata`, which lm-eval hands to the task's `custom_dataset`;
    nothing global is set, so tasks with different folders can be loaded side by side.

    Args:
        name: Task name.
        data_dir: Folder with the data; None takes the shipped data or the hub's.
        params: Values for `task_info(name).params`, for example {"parser": "vcd"}.

    Returns:
        An `lm_eval.api.task.ConfigurableTask`.

    Raises:
        UsageError: As for `check_data`.
    """
    info = task_info(name)
    metadata: dict[str, Any] = dict(info.with_params(params or {}))
    if data_dir is not None:
        metadata["data_dir"] = str(Path(data_dir).absolute())
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(resource("tasks")), include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"][name]


def documents(task: Any) -> Any:
    """A loaded task's documents without embedded images, in order."""
    data = task.eval_docs
    return data.remove_columns("image") if _has_embedded_images(data) else data


def request_id(task: Any, document: Mapping[str, Any]) -> str:
    """A document's id within a run, for example "scenes_pope/17"."""
    return f"{task.task_name}/{document['id']}"


def build_requests(task: Any, image_folder: Path, limit: int | None = None) -> Iterator[Request]:
    """The questions of a loaded task.

    Args:
        task: From `load_task`.
        image_folder: Where images that are embedded in the data set are written; others stay where they are.
        limit: Take the first so many documents only.
    """
    generation = _generation(task.config.generation_kwargs)
    files = ImageFiles(image_folder)
    data = task.eval_docs
    for index in range(len(data) if limit is None else min(limit, len(data))):
        document = data[index]
        prompt = task.doc_to_text(document)
        if prompt.count(IMAGE_PLACEHOLDER) != 1:
            raise UsageError(
                f"{request_id(task, document)}: the prompt must hold {IMAGE_PLACEHOLDER} once: {prompt!r}",
                f"Remove {IMAGE_PLACEHOLDER} from the question in the data.",
            )
        yield Request(
            id=request_id(task, document),
            messages=(Message("user", prompt),),
            images=(files.refer(document),),
            generation=generation,
        )


def task_fingerprint(task: Any) -> str:
    """SHA-256 (hex) of what a loaded task asks and how it judges, the same on every machine.

    Covers the prompt template, questions, ground truth, scoring parameters, generation settings and the task's version;
    folders and the images' bytes do not enter (each sample carries its image's hash).
    """
    settings = [str(task.VERSION), task.config.doc_to_text, task.config.generation_kwargs]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for document in sorted(documents(task), key=lambda row: str(row["id"])):
        row = {key: value for key, value in document.items() if key not in _PLACES}
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def dataset_fingerprint(name: str, data_dir: str | Path | None = None) -> str:
    """Equal for tasks whose questions are about the same data set as a whole; empty where it has no such mark.

    Args:
        name: Task name.
        data_dir: Folder with its data; None takes the shipped data.
    """
    return str(dataset_about(data_dir).get("fingerprint", "")) if task_info(name).source == "scenes" else ""


def _has_embedded_images(data: Any) -> bool:
    return type(data.features.get("image")).__name__ == "Image"


def _generation(settings: Mapping[str, Any]) -> Generation:
    """lm-eval's generation_kwargs as sinkbench's settings.

    lm-eval puts a blank line into `until` when a task does not say; the tasks here all do.
    """
    return Generation(
        max_new_tokens=int(settings["max_gen_toks"]),
        stop=tuple(settings["until"]),
        do_sample=bool(settings.get("do_sample", False)),
        temperature=float(settings.get("temperature", 1.0)),
        top_p=float(settings.get("top_p", 1.0)),
    )
