"""Attention views that `sinkbench inspect sample --method` wrote, read for the samples of the page."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.leaderboard.report.pictures import Gallery
from sinkbench.leaderboard.report.private import publishable
from sinkbench.schemas import validate

FILE = "views.json"

HEADS = 24
"""Heads of a view that the page lists: those that a method changes most."""

Key = tuple[str, str, str]
"""Model, task and request id."""


@dataclass(frozen=True)
class SampleView:
    """One method's view of one sample.

    Attributes:
        folder: Where its overlay lies.
        content: An entry of "views" (schemas/views.schema.json).
    """

    folder: Path
    content: Mapping[str, Any]


def read_views(folders: Iterable[Path]) -> dict[Key, list[SampleView]]:
    """Every view below the folders, by its sample; of two of one method and parameters the later one.

    Raises:
        UsageError: A folder holds none, or a file is not what schemas/views.schema.json says.
    """
    found: dict[Key, dict[str, SampleView]] = {}
    for folder in folders:
        files = sorted(folder.rglob(FILE))
        if not files:
            raise UsageError(
                f"no {FILE} below {folder}",
                "Make one: sinkbench inspect sample -m MODEL -t TASK --id ID -M greedy,METHOD -o DIR",
            )
        for file in files:
            document = _read(file)
            views = found.setdefault((document["model"], document["task"] or "", document["id"]), {})
            for view in document["views"]:
                views[json.dumps([view["method"], view["params"]], sort_keys=True)] = SampleView(file.parent, view)
    return {key: list(views.values()) for key, views in found.items()}


def shown(view: SampleView, gallery: Gallery) -> dict[str, Any]:
    """What the page needs of a view: its overlay in the gallery, and the heads that change most, or look most."""
    content = view.content
    heads = sorted(content["heads"], key=lambda head: (-abs(head["after"] - head["before"]), -head["before"]))
    return {
        "method": content["method"],
        "params": publishable(content["params"]),
        "answer": content["answer"],
        "overlay": gallery.add_overlay(view.folder / content["overlay"]),
        "share": publishable(content["image_share"]),
        "heads": [publishable([head[key] for key in ("layer", "head", "before", "after")]) for head in heads[:HEADS]],
        "n_heads": len(heads),
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        validate(document, "views")
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}", "Make it again with sinkbench inspect sample.") from error
    return document
