"""CHAIR's, AMBER's and anybody's photographs as rows of a task."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.scoring.chair import MentionFinder, mention_finder
from sinkbench.tasks.captions import chair_words
from sinkbench.tasks.coco import Photographs, find_image, read_photographs
from sinkbench.tasks.layout import Layout, Row
from sinkbench.tasks.pope_sampling import pope_questions
from sinkbench.tasks.text_rows import read_file, read_text

ALL = "all"
"""As an image list: every image of val2014/ that the truth knows."""

_LISTS = "image_ids_"
_TRUTH = "coco_gt_objects"
_NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")


def chair_rows(folder: Path, layout: Layout) -> list[Row] | None:
    """CHAIR on COCO val2014: an image list, and truth from the cached table or from COCO's annotations.

    An image that the truth does not know gets a null, so that its sample fails and the others go on.

    Raises:
        UsageError: There is no such list or no choice among several; or a file is malformed.
    """
    lists = {_stem(path).removeprefix(_LISTS): path for path in sorted(folder.glob(f"{_LISTS}*.json"))}
    table = next((path for path in sorted(folder.glob(f"{_TRUTH}*.jsonl*"))), None)
    annotated = [path for sub in ("", "annotations") for path in (folder / sub).glob("instances_*.json")]
    if not lists and not table and not annotated:
        return None
    name = str(layout.settings["images"])
    ids = _all_images(folder, layout) if name == ALL else _image_ids(_chosen(name, lists, folder, layout), layout)
    truth = _cached_truth(table, layout) if table else _truth(folder, layout, ids)
    rows = [
        {"question_id": id, "image": _coco_image(folder, id), "gt_object": truth.get(id)}
        for id in ids
        if name != ALL or id in truth
    ]
    if not any(row["gt_object"] is not None for row in rows):
        raise UsageError(f"the truth in {folder} knows none of the {len(ids)} images of the list", layout.hint)
    return rows


def photos_chair_rows(folder: Path, layout: Layout) -> list[Row] | None:
    """CHAIR on any photographs in COCO's format; truth as in CHAIR, from annotations and captions."""
    photographs = read_photographs(folder, layout.hint)
    if photographs is None:
        return None
    truth = _truth_of(photographs, _finder(folder, layout), sorted(photographs.objects))
    return [
        {"question_id": id, "image": find_image(folder, photographs.files[id]), "gt_object": truth[id]} for id in truth
    ]


def photos_pope_rows(folder: Path, layout: Layout) -> list[Row] | None:
    """POPE on any photographs in COCO's format (`pope_sampling`); what is there is what is annotated.

    Raises:
        UsageError: The parameters leave no question.
    """
    photographs = read_photographs(folder, layout.hint)
    if photographs is None:
        return None
    settings = layout.settings
    for name in ("per_image", "n_images"):
        if settings[name] < 1:
            raise UsageError(f"{layout.task}.{name} must be at least 1, not {settings[name]}", f"Leave {name} out.")
    questions = pope_questions(photographs.objects, settings["per_image"], settings["n_images"], settings["seed"])
    if not questions:
        raise UsageError(
            f"no image in {folder} has {settings['per_image']} annotated categories, and as many that it lacks",
            f"Add `--set {layout.task}.per_image=1`.",
        )
    numbers = dict.fromkeys((question.split for question in questions), 0)
    rows = []
    for image, split, text, answer in questions:
        numbers[split] += 1
        row = {"question_id": numbers[split], "question": text, "answer": answer, "category": split}
        rows.append({**row, "image_id": image, "image": find_image(folder, photographs.files[image])})
    return rows


def amber_rows(folder: Path, layout: Layout) -> list[Row] | None:
    """AMBER's generative queries joined to their annotations, from its repository's files, packed or not.

    Raises:
        UsageError: A query has no annotation, or a file is malformed.
    """
    home = next((place for place in (folder, folder / "data") if _exists(place / "annotations.json")), None)
    if home is None:
        return None
    queries = next((path for sub in ("", "query") if _exists(path := home / sub / "query_generative.json")), None)
    if queries is None:
        raise UsageError(f"{home} holds no query_generative.json", layout.hint)
    annotations = {row.get("id"): row for row in read_file(home / "annotations.json", layout)}
    rows = []
    for query in read_file(queries, layout):
        known = annotations.get(query.get("id"), {})
        if known.get("type") != "generative":
            raise UsageError(f"{queries}: query {query.get('id')!r} has no generative annotation", layout.hint)
        places = [f"{sub}{query['image']}" for sub in ("image/", "") if (folder / sub / query["image"]).is_file()]
        image = places[0] if places else query["image"]
        rows.append({"question_id": query["id"], "image": image, "truth": known["truth"], "hallu": known["hallu"]})
    return rows


def _exists(path: Path) -> bool:
    return path.is_file() or path.with_name(f"{path.name}.gz").is_file()


def _stem(path: Path) -> str:
    return path.name.removesuffix(".json")


def _chosen(name: str, lists: dict[str, Path], folder: Path, layout: Layout) -> Path:
    if name in lists or (not name and len(lists) == 1):
        return lists[name] if name else next(iter(lists.values()))
    wanted = f"--set {layout.task}.images"
    if not lists:
        raise UsageError(
            f"{folder} holds no list of images ({_LISTS}NAME.json, a JSON list of COCO's ids)",
            f"Write one, or take every image that is there: `{wanted}={ALL}`.",
        )
    known = ", ".join(lists)
    problem = f"holds no image list {name!r}, but {known}" if name else f"holds several image lists: {known}"
    raise UsageError(f"{folder} {problem}", f"Choose one: `{wanted}={next(iter(lists))}`.")


def _image_ids(path: Path, layout: Layout) -> list[int]:
    """Ids from a JSON list of ids or of file names."""
    try:
        listed = json.loads(read_text(path, layout))
        found = [_NUMBER.search(str(entry)) for entry in listed]
    except (json.JSONDecodeError, TypeError) as error:
        raise UsageError(f"{path} is no JSON list: {error}", layout.hint) from error
    wrong = next((entry for entry, number in zip(listed, found, strict=True) if number is None), None)
    if wrong is not None or not found:
        raise UsageError(f"{path} must be a list of COCO's image ids; it holds {wrong!r}", layout.hint)
    return [int(number.group(1)) for number in found if number]


def _all_images(folder: Path, layout: Layout) -> list[int]:
    files = sorted((folder / "val2014").glob("*.jpg"))
    if not files:
        raise UsageError(f"{folder}/val2014 holds no images", layout.hint)
    return [int(number.group(1)) for path in files if (number := _NUMBER.search(path.name))]


def _coco_image(folder: Path, id: int) -> str:
    names = (f"COCO_val2014_{id:012}.jpg", f"{id:012}.jpg")
    return next((path for name in names if (folder / (path := find_image(folder, name))).is_file()), names[0])


def _cached_truth(path: Path, layout: Layout) -> dict[int, list[str]]:
    """The table of `[image id, [categories]]` a line."""
    path = path.with_suffix("") if path.suffix == ".gz" else path
    truth = {}
    for number, line in enumerate(read_text(path, layout).splitlines(), start=1):
        try:
            id, names = json.loads(line)
            truth[int(id)] = [str(name) for name in names]
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{path}, line {number}: expected [image id, [categories]] ({error})", layout.hint
            ) from error
    return truth


def _truth(folder: Path, layout: Layout, ids: Sequence[int]) -> dict[int, list[str]]:
    """From COCO's annotations.

    Raises:
        UsageError: There are no captions: the truth would lack what people say of the images.
    """
    photographs = read_photographs(folder, layout.hint, frozenset(ids))
    if photographs is None or not photographs.captions:
        raise UsageError(f"{folder} holds no instances_*.json or no captions_*.json", layout.hint)
    known = [id for id in ids if id in photographs.objects and id in photographs.captions]
    return _truth_of(photographs, _finder(folder, layout), known)


def _finder(folder: Path, layout: Layout) -> MentionFinder:
    settings: Any = layout.settings
    table, further = chair_words(settings, folder, layout.task)
    return mention_finder(table, settings["lemmatizer"], settings["strict_synonyms"], tuple(further))


def _truth_of(photographs: Photographs, finder: MentionFinder, ids: Sequence[int]) -> dict[int, list[str]]:
    """Categories of the annotations, and those that the reference captions name, sorted."""
    truth = {}
    for id in ids:
        named = {finder.category(name) for name in photographs.objects[id]}
        for caption in photographs.captions.get(id, ()):
            named.update(finder.find(caption).objects)
        truth[id] = sorted(named)
    return truth
