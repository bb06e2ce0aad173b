"""A Scenes folder as the data of a task: the shipped split, or one made by `sinkbench scenes render`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.paths import asset
from sinkbench.tasks.rows import parse_row, read_rows, row_problems

HINT = "Make a complete folder with `sinkbench scenes render --seed 1 --n 200 --out DIR` and add `--data-dir DIR`."


def read_scenes(settings: Mapping[str, Any], data_dir: str | Path | None) -> list[dict[str, Any]]:
    """The rows of a task with the paths of their images.

    Args:
        settings: `rows` (file name), `columns`, and `files` (further files that scoring needs), from the task's YAML;
            `images_needed` as `load_task` has it.
        data_dir: The folder; None takes the shipped split.

    Returns:
        The file's rows, questions on an image together (so that the first n rows hold whole images with all their
        splits and rotations), each with "cluster" (the image's name), "image_path" (absolute, not checked to exist) and
        one entry of the form "<stem>_path" for each of `files`.

    Raises:
        UsageError: The folder or one of its files is missing, or a row is malformed.
    """
    folder = (Path(data_dir) if data_dir is not None else asset("scenes/val")).absolute()
    images = [folder / "images"] if settings.get("images_needed", True) else []
    needed = [folder, *images, *(folder / name for name in settings.get("files", ()))]
    missing = next((path for path in needed if not path.exists()), None)
    if missing is not None:
        raise UsageError(f"the Scenes data {folder} are incomplete: {missing} does not exist", HINT)
    files = {f"{Path(name).stem}_path": str(folder / name) for name in settings.get("files", ())}
    rows = sorted(read_rows(folder / settings["rows"], settings["columns"], HINT), key=lambda row: str(row["image"]))
    return [
        {**row, "cluster": row["image"], "image_path": str(folder / "images" / row["image"]), **files} for row in rows
    ]


def scenes_problems(settings: Mapping[str, Any], folder: Path, task: str) -> list[str]:
    """Everything that is wrong with the rows of a task, one line after the other.

    Raises:
        UsageError: The file is missing or cannot be read.
    """
    return row_problems(folder / settings["rows"], settings["columns"], HINT)


def dataset_about(folder: str | Path | None) -> dict[str, Any]:
    """What the dataset.json of a Scenes folder says (seed, split, fingerprint of all tasks' rows); empty without one.

    Args:
        folder: The folder; None takes the shipped split.

    Raises:
        UsageError: The file is damaged.
    """
    path = (Path(folder) if folder is not None else asset("scenes/val")) / "dataset.json"
    if not path.is_file():
        return {}
    return parse_row(path.read_text(encoding="utf-8"), str(path), HINT)
