"""From a task's name to lm-eval's task object, and from its documents to requests."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.judge import Judge
from sinkbench.paths import resource
from sinkbench.request import IMAGE_PLACEHOLDER, Generation, ImageRef, Message, Request
from sinkbench.scoring.lemmatize import get_lemmatizer
from sinkbench.tasks.captions import check_amber, check_chair
from sinkbench.tasks.catalog import task_info
from sinkbench.tasks.images import ImageFiles
from sinkbench.tasks.in_context import check_in_context
from sinkbench.tasks.layout import FAULT
from sinkbench.tasks.scenes import dataset_about, read_scenes
from sinkbench.tasks.tables import KEEP_FAULTS, check_table, embeds_images

_SOURCES: dict[str, Callable[[Mapping[str, Any], str | Path | None, str], object]] = {
    "table": check_table,
    "chair": check_chair,
    "amber": check_amber,
    "scenes": lambda settings, data_dir, task: read_scenes(settings, data_dir),
    "in_context": check_in_context,
}

FOLLOWS = "follows"
"""Column with the id of the document whose dialogue a document goes on with; empty where it begins one."""

TURNS = "turns"
"""Column with what was said before the question, a list of {"role", "text"}; absent where a prompt is all there is."""

_PLACES = ("image_path", "image_paths", "synonyms_path")
"""Columns that say where something lies on this machine."""

_AT_ONCE = 256
"""Documents in memory at once."""


def check_data(
    name: str,
    data_dir: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    images_needed: bool = True,
) -> None:
    """Make sure that a task's data can be had, without lm-eval, torch or decoding images.

    Args:
        name: Task name.
        data_dir: The folder given by `--data-dir`; None takes the shipped data or the hub's.
        params: As for `load_task`.
        images_needed: As for `load_task`.

    Raises:
        UsageError: The task or a parameter is unknown, a file or column is missing, a row is malformed, or the hub is
            out of reach and nothing is cached; says what to type next.
    """
    info = task_info(name)
    settings = {**info.settings, **info.with_params(params or {}), "images_needed": images_needed}
    Judge.of(name, settings)
    _SOURCES[info.source](settings, data_dir, name)
    if "lemmatizer" in settings:
        # Its dictionaries are found missing now rather than after the last answer.
        get_lemmatizer(settings["lemmatizer"])("a dog", frozenset())


def load_task(
    name: str,
    data_dir: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    images_needed: bool = True,
) -> Any:
    """Load a task through lm-eval's TaskManager.

    Folder and parameters travel in the TaskManager's `metadata`, which lm-eval hands to the task's `custom_dataset`;
    nothing global is set, so tasks with different folders can be loaded side by side.

    Args:
        name: Task name.
        data_dir: Folder with the data; None takes the shipped data or the hub's.
        params: Values for `task_info(name).params`, for example {"parser": "vcd"}.
        images_needed: Refuse a folder that has none of the images. Scoring needs none, and the task's fingerprint does
            not depend on them.

    Returns:
        An `lm_eval.api.task.ConfigurableTask`.

    Raises:
        UsageError: As for `check_data`.
    """
    info = task_info(name)
    # lm-eval by itself hands over a prompt and knows no turns: a task must not be asked for them there.
    metadata: dict[str, Any] = {**info.with_params(params or {}), TURNS: True, KEEP_FAULTS: True}
    if data_dir is not None:
        metadata["data_dir"] = str(Path(data_dir).absolute())
    if not images_needed:
        metadata["images_needed"] = False
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(resource("tasks")), include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"][name]


def documents(task: Any) -> Any:
    """A loaded task's documents without embedded images, in order."""
    data = task.eval_docs
    return data.remove_columns("image") if "image" in data.features and embeds_images(data.features["image"]) else data


def each_document(data: Any) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets.Dataset` in order; several times as fast as its own iterator."""
    for part in data.iter(_AT_ONCE):
        for values in zip(*part.values(), strict=True):
            yield dict(zip(part, values, strict=True))


def request_id(task: Any, document: Mapping[str, Any]) -> str:
    """A document's id within a run, for example "scenes_pope/17"."""
    return f"{task.task_name}/{document['id']}"


def right_answers(task: Any, document: Mapping[str, Any]) -> list[str]:
    """The right answers to a document as its task words them, each once, the most frequent first; perhaps none."""
    target = task.doc_to_target(document)
    answers = target if isinstance(target, list | tuple) else [target]
    counted = Counter(str(answer) for answer in answers if answer not in (None, ""))
    return [answer for answer, _ in counted.most_common()]


def build_requests(task: Any, image_folder: Path, limit: int | None = None) -> Iterator[Request]:
    """The questions of a loaded task.

    A document with the id of another, earlier one under `FOLLOWS` is the next turn of that one's dialogue: its messages
    are those of the earlier request, a place for the answer, and its own prompt, which holds no image.

    Args:
        task: From `load_task`.
        image_folder: Where images that are embedded in the data set are written; others stay where they are.
        limit: Take the first so many documents only.

    Yields:
        One request a document; of a broken row one without words and images that has a `fault`.

    Raises:
        UsageError: A question in the data holds the placeholder of an image.
    """
    generation = _generation(task.config.generation_kwargs)
    files = ImageFiles(image_folder)
    turns: dict[str, Request] = {}
    for document in islice(each_document(task.eval_docs), limit):
        id, fault = request_id(task, document), document.get(FAULT) or ""
        before = turns[document[FOLLOWS]] if document.get(FOLLOWS) else None
        if fault:
            # Neither its prompt nor its image need be there.
            request = Request(id, (Message("user", ""),), generation=generation, fault=fault)
        else:
            images = () if before else files.refer(document)
            messages = (*_turns(document), Message("user", task.doc_to_text(document)))
            _check_placeholders(id, messages, images)
            request = Request(id, messages, images, generation)
        if FOLLOWS in document:
            request = turns[document["id"]] = _next_turn(before, request) if before else request
        yield request


def _check_placeholders(id: str, messages: Sequence[Message], images: Sequence[ImageRef]) -> None:
    if sum(message.text.count(IMAGE_PLACEHOLDER) for message in messages) != len(images):
        prompt = "\n".join(message.text for message in messages)
        raise UsageError(
            f"{id}: the prompt must hold {IMAGE_PLACEHOLDER} {len(images)} times, once for each image: {prompt!r}",
            f"Remove {IMAGE_PLACEHOLDER} from the question in the data.",
        )


def _next_turn(before: Request, request: Request) -> Request:
    messages = (*before.messages, Message("assistant", ""), *request.messages)
    return replace(request, messages=messages, images=before.images, history=(*before.history, before.id))


def _turns(document: Mapping[str, Any]) -> Iterator[Message]:
    return (Message(turn["role"], turn["text"]) for turn in document.get(TURNS) or ())


def task_fingerprint(task: Any) -> str:
    """SHA-256 (hex) of what a loaded task asks and how it judges, the same on every machine.

    Covers the prompt template (or each prompt, where a function makes it), questions, ground truth, scoring parameters,
    generation settings and the task's version; folders and the images' bytes do not enter (each sample carries its
    image's hash).
    """
    template = task.config.doc_to_text
    # A prompt that a function makes is known by its words only.
    made = callable(template)
    settings = [str(task.VERSION), "" if made else template, task.config.generation_kwargs]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    data = documents(task)
    ids = data["id"][:]
    in_order = data.select(sorted(range(len(ids)), key=lambda index: str(ids[index])))
    for document in each_document(in_order):
        row = {key: value for key, value in document.items() if key not in _PLACES}
        digest.update(json.dumps(row, sort_keys=True).encode())
        if made and not document.get(FAULT):
            digest.update(task.doc_to_text(document).encode())
    return digest.hexdigest()


def recorded_data(task: Any) -> dict[str, Any]:
    """What a loaded task's YAML wants run.json to say about its data (`record`): columns that are the same in all rows.

    For example the hash of CHAIR's image list. Empty for most tasks.
    """
    first = documents(task)[0]
    return {name: first[name] for name in task_info(task.task_name).settings.get("record", ())}


def dataset_fingerprint(name: str, data_dir: str | Path | None = None) -> str:
    """Equal for tasks whose questions are about the same data set as a whole; empty where it has no such mark.

    Args:
        name: Task name.
        data_dir: Folder with its data; None takes the shipped data.
    """
    return str(dataset_about(data_dir).get("fingerprint", "")) if task_info(name).source == "scenes" else ""


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
