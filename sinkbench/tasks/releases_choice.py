"""Releases of multiple-choice benchmarks as rows of the hub's schema. MMBench's tables need none of this."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import read_packed
from sinkbench.tasks.layout import Layout, Row
from sinkbench.tasks.text_rows import read_file

_MMVP_COLUMNS = ("Question", "Options", "Correct Answer")
_MMVP_IMAGES = ("MMVP Images", "MMVP Imgaes", "images", "")
"""The second is what the release's own script looks in."""


def scienceqa(folder: Path, layout: Layout) -> list[Row] | None:
    """ScienceQA's problems.json and pid_splits.json: the test questions with a picture, in the split's order.

    Pictures lie in test/ID/ below the folder or, as LLaVA wants it, below its images/.

    Raises:
        UsageError: A file is damaged, or a question of the split is missing.
    """
    problems_path, splits_path = folder / "problems.json", folder / "pid_splits.json"
    if not (problems_path.is_file() and splits_path.is_file()):
        return None
    problems, splits = _object(problems_path, layout), _object(splits_path, layout)
    ids = splits.get("test") or []
    missing = [id for id in ids if id not in problems]
    if missing or not ids:
        what = f"{len(missing)} questions of the test split, for example {missing[0]}," if missing else "the test split"
        raise UsageError(f"{folder}: {what} cannot be found in problems.json and pid_splits.json", layout.hint)
    pictured = [id for id in ids if problems[id].get("image")]
    return [{**_needed(problems[id], layout), "image": f"test/{id}/{problems[id]['image']}"} for id in pictured]


def seed_bench(folder: Path, layout: Layout) -> list[Row] | None:
    """SEED-Bench.json; the pictures lie in SEED-Bench-image/, named by data_id.

    Raises:
        UsageError: The file is damaged.
    """
    path = folder / "SEED-Bench.json"
    if not path.is_file():
        return None
    questions = _object(path, layout).get("questions")
    if not isinstance(questions, list) or not all(isinstance(row, dict) for row in questions):
        raise UsageError(f"{path} holds no list of questions", layout.hint)
    return [{**_needed(row, layout), "image": _seed_image(row)} for row in questions]


def _seed_image(row: Row) -> str | None:
    name = row.get("data_id")
    return None if name is None else f"SEED-Bench-image/{name}"


def cv_bench(folder: Path, layout: Layout) -> list[Row] | None:
    """CV-Bench's JSON lines (test_2d.jsonl, test_3d.jsonl, or the older test.jsonl); pictures lie in img/."""
    files = sorted(folder.glob("test*.jsonl"))
    rows = [row for path in files for row in read_file(path, layout)]
    if not rows or any("filename" not in row for row in rows):
        return None
    return [{**_needed(row, layout), "image": _cv_image(folder, row["filename"])} for row in rows]


def _cv_image(folder: Path, name: Any) -> str | None:
    """The picture's path within the folder: file names of the release may or may not begin with img/."""
    if name is None:
        return None
    return str(name) if (folder / str(name)).is_file() else f"img/{str(name).removeprefix('img/')}"


def mmvp(folder: Path, layout: Layout) -> list[Row] | None:
    """MMVP's Questions.csv; the pictures lie in "MMVP Images", named by the row's number, as its own script counts.

    Raises:
        UsageError: A column is missing.
    """
    path = folder / "Questions.csv"
    if not path.is_file():
        return None
    rows = list(csv.DictReader(io.StringIO(_text(path, layout), newline="")))
    missing = [name for name in _MMVP_COLUMNS if rows and name not in rows[0]]
    if missing or not rows:
        raise UsageError(f"{path}: columns {', '.join(missing or _MMVP_COLUMNS)} are missing", layout.hint)
    images = next((name for name in _MMVP_IMAGES if (folder / name / "1.jpg").is_file()), _MMVP_IMAGES[0])
    taken = [{name: row[name] or None for name in _MMVP_COLUMNS} for row in rows]
    return [
        {**row, "index": number, "image": str(Path(images) / f"{number}.jpg")}
        for number, row in enumerate(taken, start=1)
    ]


def _needed(row: Row, layout: Layout) -> Row:
    """What the task needs of a row: other columns may hold anything, and a table holds one kind a column."""
    wanted = {*layout.columns, *layout.rename, *layout.keep, layout.cluster.removesuffix("?")}
    return {name: value for name, value in row.items() if name in wanted}


def _object(path: Path, layout: Layout) -> dict[str, Any]:
    try:
        found = json.loads(_text(path, layout))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: no valid JSON ({error})", layout.hint) from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a JSON object", layout.hint)
    return found


def _text(path: Path, layout: Layout) -> str:
    try:
        return read_packed(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", layout.hint) from error
