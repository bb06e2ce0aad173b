"""Photographs with annotations in COCO's format: which categories stand in an image, and how people describe it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import read_packed

ABOUT = "annotations in COCO's format (instances*.json, captions*.json; in it or in its annotations/) and the images"

IMAGE_FOLDERS = ("", "images", "val2014", "val2017", "train2014", "train2017", "annotations")
"""Where images are looked for: some tools put them beside their annotations."""


@dataclass
class Photographs:
    """What a folder's annotation files say.

    Attributes:
        files: Name of each image's file, by image id.
        objects: Names of the categories annotated in each image, each once, in the order of the annotations.
        captions: Reference captions of each image; empty for those that have none.
        categories: Every category's name.
    """

    files: dict[int, str] = field(default_factory=dict)
    objects: dict[int, list[str]] = field(default_factory=dict)
    captions: dict[int, list[str]] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)


def read_photographs(folder: Path, hint: str, wanted: Set[int] = frozenset()) -> Photographs | None:
    """Read every annotation file of a folder; None if it has none with categories.

    Files named instances* and captions* are read where there are any, else all JSON files in COCO's format.
    Annotations of images that no file lists are left out; crowds count, as in CHAIR.

    Args:
        folder: The data's folder.
        hint: What the user should do about a bad file.
        wanted: Stop reading files of a kind once these images are covered (COCO's train files are large).

    Raises:
        UsageError: A file is no valid JSON, or an entry lacks a field; names the file and the entry.
    """
    places = [path for sub in ("annotations", "") for path in sorted((folder / sub).glob("*.json*"))]
    places = [path.with_suffix("") if path.suffix == ".gz" else path for path in places]
    # COCO's val files are a third of its train files.
    places.sort(key=lambda path: "train" in path.name)
    named = [path for path in places if path.name.startswith(("instances", "captions"))]
    found, has_objects = Photographs(), False
    for path in named or places:
        kind = path.name.partition("_")[0]
        if wanted and wanted <= {"instances": found.objects, "captions": found.captions}.get(kind, {}).keys():
            continue
        content = _load(path, hint)
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            has_objects |= _File(path, content, hint).add_to(found)
    return found if has_objects else None


def find_image(folder: Path, name: str) -> str:
    """The path of an image relative to the folder; its plain name where it is missing."""
    return next((f"{sub}/{name}".lstrip("/") for sub in IMAGE_FOLDERS if (folder / sub / name).is_file()), name)


def _load(path: Path, hint: str) -> Any:
    try:
        return json.loads(read_packed(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is no readable JSON file: {error}", hint) from error


class _File:
    """One annotation file.

    Args:
        path: For messages.
        content: What it holds.
        hint: For messages.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], hint: str) -> None:
        self._path, self._content, self._hint = path, content, hint

    def add_to(self, found: Photographs) -> bool:
        """Add what the file says; whether it tells categories."""
        names: dict[Any, str] = {}
        for id, name in self._entries("categories", ("id", "name")):
            names[id] = plain_name(str(name))
        images = self._images(found)
        annotations = self._content.get("annotations") or []
        captioned = any(isinstance(entry, dict) and "caption" in entry for entry in annotations[:1])
        if captioned:
            self._add(found.captions, images, "caption", str)
        elif names:
            found.categories += [name for name in names.values() if name not in found.categories]
            self._add(found.objects, images, "category_id", lambda id: self._name(names, id))
        return bool(names) and not captioned

    def _images(self, found: Photographs) -> set[int]:
        listed = set()
        for id, name in self._entries("images", ("id", "file_name")):
            known = found.files.setdefault(id, str(name))
            if known != name:
                raise UsageError(f"{self._path}: image {id} is {name} here and {known} in another file", self._hint)
            listed.add(id)
        return listed

    def _add(self, place: dict[int, list[str]], images: Iterable[int], column: str, read: Callable[[Any], str]) -> None:
        """Append each annotation's value to its image's list, each category once."""
        for id in images:
            place.setdefault(id, [])
        for id, value in self._entries("annotations", ("image_id", column)):
            text = read(value)
            if id in place and (column == "caption" or text not in place[id]):
                place[id].append(text)

    def _name(self, names: Mapping[Any, str], id: Any) -> str:
        if id not in names:
            raise UsageError(f"{self._path}: category {id!r} is annotated and not among the categories", self._hint)
        return names[id]

    def _entries(self, table: str, columns: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
        for number, entry in enumerate(self._content.get(table) or [], start=1):
            lacking = [column for column in columns if not isinstance(entry, dict) or entry.get(column) is None]
            if lacking:
                raise UsageError(f"{self._path}: {table} entry {number} has no {lacking[0]}", self._hint)
            yield entry[columns[0]], entry[columns[1]]


def plain_name(category: str) -> str:
    """A category's name as one would write it: lower case, spaces for underscores."""
    return " ".join(category.lower().replace("_", " ").split())
