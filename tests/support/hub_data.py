"""Small data sets in the exact schema of the hub, made by tests: parquet with typed columns and embedded images."""

import io
from pathlib import Path
from typing import Any

from PIL import Image


def jpeg(seed: int = 0, size: tuple[int, int] = (32, 24)) -> bytes:
    """A JPEG file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, ((37 * seed) % 256, (91 * seed) % 256, (151 * seed) % 256)).save(buffer, "JPEG")
    return buffer.getvalue()


def embedded(content: bytes | None) -> dict[str, Any]:
    """An image as a parquet file of the hub holds it."""
    return {"bytes": content, "path": None}


def write_parquet(folder: Path, name: str, rows: list[dict[str, Any]], features: dict[str, Any]) -> Path:
    """Write rows with the features (`datasets.Value`, `datasets.Image`, …) of the hub's data card.

    Args:
        folder: Made if absent.
        name: File name within it, such as "data/test-00000-of-00001.parquet".
        rows: Every column of `features`; images as `embedded` gives them.
        features: By column.
    """
    from datasets import Dataset, Features

    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(str(path))
    return path
