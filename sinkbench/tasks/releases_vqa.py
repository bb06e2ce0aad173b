"""TextVQA, VQAv2, VizWiz and GQA as their authors released them, as rows of the hub's schema."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import read_packed
from sinkbench.tasks.layout import Layout, Row
from sinkbench.tasks.text_rows import read_file

TEXTVQA = "TextVQA_0.5.1_val.json"
TEXTVQA_LLAVA = "llava_textvqa_val_v051_ocr.jsonl"
TEXTVQA_ROSETTA = "TextVQA_Rosetta_OCR_v0.2_val.json"
VQAV2_QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
VQAV2_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
VIZWIZ = ("val.json", "Annotations/val.json", "annotations/val.json")
GQA = "testdev_balanced_questions.json"

_OCR_LINE = "Reference OCR token: "


def textvqa(folder: Path, layout: Layout) -> list[Row] | None:
    """TextVQA 0.5.1 with the OCR tokens of LLaVA's question file, else of the release's Rosetta file.

    LLaVA's file also says how it spells each question, which is taken over, so that its prompts come out to the letter.
    Without either file the rows have no `ocr_tokens`. A question that the file lacks has none (null).

    Raises:
        UsageError: A file cannot be read or is not of that form.
    """
    if not _is_there(folder / TEXTVQA):
        return None
    rows = [
        {**row, "image": _named(row.get("image_id"), "{}.jpg")} for row in _entries(folder / TEXTVQA, "data", layout)
    ]
    if _is_there(folder / TEXTVQA_LLAVA):
        asked = _llava_questions(folder / TEXTVQA_LLAVA, layout)
        return [{**row, "ocr_tokens": None, **asked.get(_key(row), {})} for row in rows]
    if _is_there(folder / TEXTVQA_ROSETTA):
        read = {
            row.get("image_id"): row.get("ocr_tokens") for row in _entries(folder / TEXTVQA_ROSETTA, "data", layout)
        }
        return [{**row, "ocr_tokens": read.get(row.get("image_id"))} for row in rows]
    return rows


def _key(row: Row) -> tuple[Any, str]:
    """LLaVA numbers its questions by image, and several may be about one; the words tell them apart."""
    return row.get("image_id"), str(row.get("question")).lower()


def _llava_questions(path: Path, layout: Layout) -> dict[tuple[Any, str], Row]:
    """Question and tokens by `_key`, from prompts of three lines: the question, the tokens, how to answer."""
    found: dict[tuple[Any, str], Row] = {}
    for number, row in enumerate(read_file(path, layout), start=1):
        lines = str(row.get("text")).split("\n")
        if len(lines) != 3 or not lines[1].startswith(_OCR_LINE):
            raise UsageError(
                f"{path}, row {number}: expected a question, a line {_OCR_LINE.strip()!r} and how to answer, "
                f"not {row.get('text')!r}",
                layout.hint,
            )
        tokens = lines[1].removeprefix(_OCR_LINE)
        asked = {"question": lines[0], "ocr_tokens": tokens.split(", ") if tokens else []}
        found[row.get("question_id"), lines[0].lower()] = asked
    return found


def vqav2(folder: Path, layout: Layout) -> list[Row] | None:
    """VQAv2's validation questions with their annotations, joined by question_id; one without any has null answers.

    Raises:
        UsageError: One of the two files is missing, cannot be read or is not of that form.
    """
    paths = folder / VQAV2_QUESTIONS, folder / VQAV2_ANNOTATIONS
    if not any(map(_is_there, paths)):
        return None
    for path in paths:
        if not _is_there(path):
            raise UsageError(f"{path} is missing", layout.hint)
    questions = _entries(paths[0], "questions", layout)
    annotations = {row.get("question_id"): row for row in _entries(paths[1], "annotations", layout, _answer_only)}
    return [
        {
            **{"answers": None, "answer_type": None, **annotations.get(row.get("question_id"), {})},
            **row,
            "image": _named(row.get("image_id"), "COCO_val2014_{:0>12}.jpg"),
        }
        for row in questions
    ]


def _answer_only(entry: Row) -> Any:
    """Keep of the two million annotators' answers nothing but the words, each word once: the rest fills a gigabyte."""
    answer = entry.get("answer")
    return sys.intern(answer) if "answer_id" in entry and isinstance(answer, str) else entry


def vizwiz(folder: Path, layout: Layout) -> list[Row] | None:
    """VizWiz' val.json; the hub's question_id is the image's name without ending.

    Raises:
        UsageError: It cannot be read or is not of that form.
    """
    path = next((folder / name for name in VIZWIZ if _is_there(folder / name)), None)
    if path is None:
        return None
    rows = read_file(path, layout)
    if any("question_id" in row for row in rows):
        return None  # A file of that name in the hub's schema.
    return [{**row, "question_id": Path(str(row.get("image"))).stem} for row in rows]


def gqa(folder: Path, layout: Layout) -> list[Row] | None:
    """GQA's balanced test-dev questions, an object by question id.

    Raises:
        UsageError: It cannot be read or is not of that form.
    """
    path = folder / GQA
    if not _is_there(path):
        return None
    questions = _json(path, layout)
    if not isinstance(questions, dict) or not all(isinstance(row, dict) for row in questions.values()):
        raise UsageError(f"{path}: expected an object with questions by id", layout.hint)
    return [{**row, "id": id, "image": _named(row.get("imageId"), "{}.jpg")} for id, row in questions.items()]


def _named(image: Any, form: str) -> str | None:
    """A file's name; none for an image that is null."""
    return None if image is None else form.format(image)


def _is_there(path: Path) -> bool:
    return path.exists() or path.with_name(f"{path.name}.gz").exists()


def _entries(path: Path, key: str, layout: Layout, hook: Callable[[Row], Any] | None = None) -> list[Row]:
    """The list of objects that a JSON object holds under a key."""
    whole = _json(path, layout, hook)
    entries = whole.get(key) if isinstance(whole, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: expected an object with a list of objects under {key!r}", layout.hint)
    return entries


def _json(path: Path, layout: Layout, hook: Callable[[Row], Any] | None = None) -> Any:
    try:
        return json.loads(read_packed(path), object_hook=hook)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", layout.hint) from error
