"""The data of POPE: its own release with COCO images, or a copy in the hub's schema, in parquet or JSON."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.scoring.pope import SPLITS
from sinkbench.tasks.hub import check_hub, fetch
from sinkbench.tasks.rows import Columns, read_rows

HUB_FILES = "**/test-*.parquet"

LAYOUT = (
    "the release's coco_pope_{random,popular,adversarial}.json and the COCO images (in it, in images/ or in val2014/), "
    "or with parquet or JSON-lines files in the hub's schema (question_id, question, answer, category, image)"
)
HINT = f"Give `--data-dir` a folder with {LAYOUT}."

IMAGE_FOLDERS = ("", "images", "val2014")

_RELEASE: Columns = {"question_id": "integer", "image": "string", "text": "string", "label": ["yes", "no"]}
_HUB_JSON: Columns = {"question_id": "key", "question": "string", "answer": ["yes", "no"], "category": list(SPLITS)}
_HUB_PARQUET = ("question_id", "question", "answer", "category", "image_source", "image")


def check_pope(settings: Mapping[str, Any], data_dir: str | Path | None, task: str) -> None:
    """Make sure that the data can be read, without reading images.

    Raises:
        UsageError: They cannot; names the file, line and column, or the hub ids that are out of reach.
    """
    if data_dir is None:
        check_hub(_hubs(settings), HUB_FILES, task, LAYOUT)
        return
    folder = _folder(data_dir)
    parquet = _parquet_files(folder)
    if parquet:
        _check_parquet(parquet)
    else:
        _check_images(_json_rows(folder), folder)


def read_pope(settings: Mapping[str, Any], data_dir: str | Path | None) -> Any:
    """The questions as a `datasets.Dataset`.

    Columns: id ("random-17": question numbers repeat across splits), question, answer, category, cluster (the image's
    name), image_path (empty where the image is embedded), and for embedded images image ({"bytes", "path"}).

    Args:
        settings: `hub` and `hub_fallback`, from the task's YAML.
        data_dir: A folder as `LAYOUT` describes; None takes the hub's copy.

    Raises:
        UsageError: The data cannot be read.
    """
    from datasets import Dataset

    folder = fetch(_hubs(settings), HUB_FILES) if data_dir is None else _folder(data_dir)
    parquet = _parquet_files(folder)
    if parquet:
        _check_parquet(parquet)
        return _from_parquet(parquet)
    rows = _json_rows(folder)
    _check_images(rows, folder)
    documents = [_document(row, folder) for row in rows]
    _check_unique([document["id"] for document in documents], folder)
    return Dataset.from_list(documents)


def _hubs(settings: Mapping[str, Any]) -> list[str]:
    return [hub for hub in (settings["hub"], settings["hub_fallback"]) if hub]


def _folder(data_dir: str | Path) -> Path:
    folder = Path(data_dir).absolute()
    if not folder.is_dir():
        raise UsageError(f"data folder {folder} does not exist", HINT)
    return folder


def _parquet_files(folder: Path) -> list[Path]:
    """The test split's files; a snapshot of the hub holds other configurations besides."""
    return sorted(folder.glob(HUB_FILES)) or sorted(folder.glob("*.parquet"))


def _check_parquet(files: list[Path]) -> None:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_schema

    for path in files:
        try:
            found = read_schema(path).names
        except (OSError, ArrowInvalid) as error:
            raise UsageError(f"{path} is no readable parquet file: {error}", HINT) from error
        missing = [column for column in _HUB_PARQUET if column not in found]
        if missing:
            raise UsageError(f"{path}: columns {', '.join(missing)} are missing (found: {', '.join(found)})", HINT)


def _from_parquet(files: list[Path]) -> Any:
    from datasets import Dataset, Image

    data = Dataset.from_parquet([str(path) for path in files]).select_columns(list(_HUB_PARQUET))
    data = data.cast_column("image", Image(decode=False))
    names = zip(data["category"], data["question_id"], strict=True)
    ids = [f"{category}-{number}" for category, number in names]
    _check_unique(ids, files[0].parent)
    data = data.add_column("id", ids)
    data = data.add_column("image_path", [""] * len(data))
    return data.rename_column("image_source", "cluster").remove_columns("question_id")


def _json_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows with question_id, question, answer, category and image (a file name)."""
    release = [(split, path) for split in SPLITS for path in sorted(folder.glob(f"*pope_{split}.json"))]
    if release:
        return [
            {**row, "question": row["text"], "answer": row["label"], "category": split}
            for split, path in release
            for row in read_rows(path, _RELEASE, HINT)
        ]
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.json")])
    if not files:
        raise UsageError(f"{folder} holds no POPE questions", HINT)
    return [_with_image(row) for path in files for row in read_rows(path, _HUB_JSON, HINT)]


def _with_image(row: dict[str, Any]) -> dict[str, Any]:
    """The hub names the image without its ending and embeds the file itself."""
    image = row.get("image")
    return row if isinstance(image, str) else {**row, "image": f"{row.get('image_source', '')}.jpg"}


def _check_unique(ids: list[str], folder: Path) -> None:
    """Answers are joined by split and question number, never by position."""
    twice = next((id for id, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise UsageError(f"{folder} holds question {twice} more than once", HINT)


def _find_image(folder: Path, name: str) -> Path | None:
    return next((path for sub in IMAGE_FOLDERS if (path := folder / sub / name).is_file()), None)


def _check_images(rows: list[dict[str, Any]], folder: Path) -> None:
    """One missing image fails its own samples; none at all means that the folder is the wrong one."""
    names = {row["image"] for row in rows}
    if not any(_find_image(folder, name) for name in names):
        raise UsageError(
            f"none of the {len(names)} images is in {folder}, its images/ or its val2014/ (looked for {min(names)})",
            HINT,
        )


def _document(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "id": f"{row['category']}-{row['question_id']}",
        "question": row["question"],
        "answer": row["answer"],
        "category": row["category"],
        "cluster": row["image"],
        "image_path": str(_find_image(folder, row["image"]) or folder / row["image"]),
    }
