"""Yes/no benchmarks as their authors released them (POPE, MME, AMBER, HallusionBench), and VLMEvalKit's tables of them.

A function here returns None where the folder holds no such release; its files may then be in the hub's schema.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.scoring.mme import CATEGORIES as MME_CATEGORIES
from sinkbench.scoring.pope import SPLITS
from sinkbench.tasks.layout import IMAGE_FOLDERS, Layout, Release, Row
from sinkbench.tasks.text_rows import read_file

_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")


# POPE


def pope(folder: Path, layout: Layout, *, source: str, random: str = "random") -> list[Row] | None:
    """POPE's three files about one source of images, VLMEvalKit's table, or rows of the hub that only name the image.

    Args:
        folder: Holds the files, or has them in a folder named after the source.
        layout: Of the hub's schema.
        source: "coco", "aokvqa" or "gqa".
        random: End of the name of the random split's file; one of another name must be there.

    Raises:
        UsageError: It is not.
    """
    rows: list[Row] = []
    for split in SPLITS:
        end = random if split == "random" else split
        names = [f"{source}_pope_{end}.json", f"{source}_pope_seem_{end}.json"]
        if path := _first(folder, [*names, *(f"{source}/{name}" for name in names)]):
            rows += _pope_split(path, split, folder, layout)
        elif end != split:
            raise UsageError(f"{folder} holds no {names[0]}", layout.hint)
    if rows:
        return rows
    if source == "coco" and (tables := _vlmevalkit(folder, layout)):
        return [entry for row in tables for entry in _by_split(row)]
    return _with_image_names(folder, layout)


def _pope_split(path: Path, split: str, folder: Path, layout: Layout) -> Iterator[Row]:
    for row in _with_columns(read_file(path, layout), ("question_id", "image", "text", "label"), path, layout):
        yield {
            "question_id": row["question_id"],
            "question": row["text"],
            "answer": row["label"],
            "category": split,
            "image_source": _stem(row["image"]),
            "image": _beside(row["image"], path.parent, folder),
        }


def _by_split(row: Row) -> Iterator[Row]:
    """One row for each split that VLMEvalKit's table names: a question that several share is there once."""
    for split in str(row["category"]).split(","):
        yield {
            "question_id": row["index"],
            "question": row["question"],
            "answer": _lower(row["answer"]),
            "category": split.strip(),
            "image_source": _stem(row["image_path"]) or row["index"],
            "image": row["image"],
        }


def _with_image_names(folder: Path, layout: Layout) -> list[Row] | None:
    """Rows in the hub's schema without images: the hub names an image without its ending."""
    files = sorted(path for pattern in ("*.jsonl", "*.json") for path in folder.glob(pattern))
    rows = [row for path in files for row in read_file(path, layout)]
    if not rows or not all("image_source" in row for row in rows):
        return None
    return [row if isinstance(row.get("image"), str) else {**row, "image": _file_of(row)} for row in rows]


def _file_of(row: Row) -> str | None:
    return f"{row['image_source']}.jpg" if row["image_source"] else None


def pope_chat(folder: Path, layout: Layout) -> list[Row] | None:
    """PAI's dialogues: each row of coco_pope_chat_*.json has the questions and labels of all turns about one image.

    A dialogue without questions becomes one row without a question, and a turn without a label one without an answer,
    so that they are counted.
    """
    rows: list[Row] = []
    for split in SPLITS:
        name = f"coco_pope_chat_{split}.json"
        if path := _first(folder, [name, f"coco_chat/{name}", f"coco/{name}"]):
            for row in _with_columns(read_file(path, layout), ("chat_id", "image", "text", "label"), path, layout):
                rows += _turns(row, split, path.parent, folder)
    return rows or None


def _turns(row: Row, split: str, near: Path, folder: Path) -> Iterator[Row]:
    labels = row["label"] or []
    image = _beside(row["image"], near, folder)
    for turn, question in enumerate(row["text"] or [None]):
        yield {
            "chat_id": row["chat_id"],
            "turn": turn,
            "question": question,
            "answer": labels[turn] if turn < len(labels) else None,
            "category": split,
            "image_source": _stem(row["image"]),
            "image": image,
        }


# MME


def mme(folder: Path, layout: Layout) -> list[Row] | None:
    """MME's folders, one a category, or VLMEvalKit's table.

    In a category's folder there is a text file for each image, with lines of question, tab and answer. It lies beside
    the image, or in questions_answers_YN/ with the images in images/; both are in the one release.
    """
    roots = (folder, *(folder / name for name in ("MME_Benchmark_release_version", "MME_Benchmark")))
    for root in (*roots, folder / "MME_Benchmark_release_version" / "MME_Benchmark"):
        rows = [row for name in MME_CATEGORIES for row in _mme_category(root / name, folder, layout)]
        if rows:
            return rows
    return [
        {"question_id": row["image_path"] or row["index"], **_picked(row, ("question", "answer", "category", "image"))}
        for row in _vlmevalkit(folder, layout)
    ] or None


def _mme_category(place: Path, folder: Path, layout: Layout) -> Iterator[Row]:
    apart = place / "questions_answers_YN"
    for path in sorted((apart if apart.is_dir() else place).glob("*.txt")):
        places = (place / "images", place, apart)
        image = next((file for at in places for end in _SUFFIXES if (file := at / f"{path.stem}{end}").is_file()), None)
        image = image or places[0 if apart.is_dir() else 1] / f"{path.stem}.jpg"
        for line in _lines(path, layout):
            question, _, answer = line.partition("\t")
            yield {
                "question_id": f"{place.name}/{image.name}",
                "question": question.strip() or None,
                "answer": answer.strip() or None,
                "category": place.name,
                "image": str(image.relative_to(folder)),
            }


def _lines(path: Path, layout: Layout) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", layout.hint) from error


# AMBER

_AMBER_QUERIES = ("existence", "attribute", "relation")


def amber(folder: Path, layout: Layout) -> list[Row] | None:
    """AMBER's discriminative queries with their annotations, or VLMEvalKit's table.

    The queries are those of query_discriminative.json, or of query_all.json, or of the files of the three dimensions;
    annotations.json says which are generative. Both lie in the folder, in data/ or in data/query/.

    Raises:
        UsageError: The annotations are missing, or lack a query.
    """
    places = ("", "query/", "data/", "data/query/")
    names = ("query_discriminative.json", "query_all.json")
    whole = _first(folder, [f"{place}{name}" for name in names for place in places])
    parts = [_first(folder, [f"{p}query_discriminative-{each}.json" for p in places]) for each in _AMBER_QUERIES]
    files = [whole] if whole else [path for path in parts if path]
    if not files:
        return [_amber_of_table(row) for row in _vlmevalkit(folder, layout)] or None
    annotations = _first(folder, [f"{place}annotations.json" for place in places])
    if annotations is None:
        raise UsageError(f"{folder} holds AMBER's queries and no annotations.json", layout.hint)
    truths = {
        row["id"]: row for row in _with_columns(read_file(annotations, layout), ("id", "type"), annotations, layout)
    }
    rows = []
    for path in files:
        for row in _with_columns(read_file(path, layout), ("id", "image", "query"), path, layout):
            if row["id"] not in truths:
                raise UsageError(f"{annotations} has no entry for query {row['id']} of {path.name}", layout.hint)
            truth = truths[row["id"]]
            if truth["type"] != "generative":
                rows.append(_amber_row(row, truth, folder))
    return rows


def _amber_row(row: Row, truth: Row, folder: Path) -> Row:
    return {
        "question_id": row["id"],
        "question": row["query"],
        "answer": truth.get("truth"),
        "category": truth["type"],
        "image_source": _stem(row["image"]),
        "image": _beside(row["image"], folder / "image", folder),
    }


def _amber_of_table(row: Row) -> Row:
    return {
        "question_id": row["index"],
        "image_source": _stem(row["image_path"]) or row["index"],
        **_picked(row, ("question", "category", "image")),
        "answer": _lower(row["answer"]),
    }


# HallusionBench


def hallusionbench(folder: Path, layout: Layout) -> list[Row] | None:
    """HallusionBench.json beside hallusion_bench/, or VLMEvalKit's table; questions without an image are left out.

    The index of VLMEvalKit's table ends in the numbers of set, figure and question.
    """
    path = _first(folder, ["HallusionBench.json"])
    if path is None:
        return [_hallusion_of_table(row) for row in _vlmevalkit(folder, layout, "l2-category")] or None
    rows = _with_columns(read_file(path, layout), ("filename", *layout.columns), path, layout)
    seen = [row for row in rows if str(row.get("visual_input")) != "0"]
    return [{**row, "image": _inside(row["filename"], folder)} for row in seen]


def _inside(name: str | None, folder: Path) -> str | None:
    """A file name of the release, which starts with its folder; that folder itself may be the one that is given."""
    if not name:
        return None
    plain = name.removeprefix("./")
    return plain if (folder / plain).is_file() else next(iter(plain.split("/", 1)[1:]), plain)


def _hallusion_of_table(row: Row) -> Row:
    set_id, figure_id, question_id = [*[""] * 3, *str(row["index"]).split("_")][-3:]
    return {
        "category": row["category"],
        "subcategory": row["l2-category"],
        "set_id": set_id,
        "figure_id": figure_id,
        "question_id": question_id,
        "question": row["question"],
        "gt_answer": {"yes": "1", "no": "0"}.get(_lower(row["answer"]) or "", row["answer"]),
        "image": row["image"],
    }


# Common


def _vlmevalkit(folder: Path, layout: Layout, *more: str) -> list[Row]:
    """Rows of VLMEvalKit's TSV files, with further columns that a benchmark's table has.

    In place of an image there may be the index of the row that has it.
    """
    columns = ("index", "image", "question", "answer", "category", *more)
    found: list[Row] = []
    for path in sorted(folder.glob("*.tsv")):
        rows = _with_columns(read_file(path, layout), columns, path, layout)
        images = {row["index"]: row["image"] for row in rows}
        found += ({"image_path": None, **row, "image": images.get(row["image"], row["image"])} for row in rows)
    return found


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    """The first file of these names that is there, as it is or packed by gzip."""
    return next((path for name in names if (path := folder / name).is_file() or _packed(path).is_file()), None)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _with_columns(rows: Sequence[Row], columns: Sequence[str], path: Path, layout: Layout) -> Sequence[Row]:
    """The rows, all of which have the columns of a release.

    Raises:
        UsageError: One does not; names file, row and column.
    """
    for number, row in enumerate(rows, start=1):
        missing = next((column for column in columns if column not in row), None)
        if missing is not None:
            found = ", ".join(map(str, row))
            raise UsageError(f"{path}, row {number}: column {missing!r} is missing (found: {found})", layout.hint)
    return rows


def _picked(row: Mapping[str, Any], columns: Sequence[str]) -> Row:
    return {column: row[column] for column in columns}


def _beside(name: str | None, near: Path, folder: Path) -> str | None:
    """An image's name; with the way from the folder if it lies near the questions, which may be deeper."""
    if name and near != folder:
        found = next((path for sub in IMAGE_FOLDERS if (path := near / sub / name).is_file()), None)
        return str(found.relative_to(folder)) if found else name
    return name


def _stem(name: str | None) -> str | None:
    return Path(name).stem if name else None


def _lower(text: str | None) -> str | None:
    return text.strip().lower() if text else None


RELEASES: dict[str, Release] = {
    "pope_coco": partial(pope, source="coco"),
    "pope_aokvqa": partial(pope, source="aokvqa"),
    "pope_gqa": partial(pope, source="gqa"),
    "pope_2910": partial(pope, source="coco", random="random.2910"),
    "pope_chat": pope_chat,
    "mme": mme,
    "amber": amber,
    "hallusionbench": hallusionbench,
}
"""By the name that a task's YAML gives (`release`)."""
