"""`sinkbench inspect sample --method`: what is written of one question without and with methods."""

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sinkbench.adapters.base import Adapter
from sinkbench.inspection.compared import BEFORE, Compared, MethodView, compare
from sinkbench.inspection.gallery import Gallery
from sinkbench.inspection.overlays import change_figure, draw, drawing, png, share_figure
from sinkbench.methods.base import Method
from sinkbench.request import IMAGE_PLACEHOLDER, Request

MOST = 12
"""Heads in the terminal and on top of the page: those that a method changes most."""


LEAST = 5e-5
"""Changes of a share below this one are not listed as changes."""


def write_before_after(
    adapter: Adapter,
    methods: Mapping[str, Method],
    request: Request,
    folder: Path,
    *,
    task: str | None = None,
    step: int | None = None,
    layer: int | None = None,
) -> dict[str, Any]:
    """Answer a question under every method; write views.json, before_after.html, before_after.png and overlays.

    Args:
        adapter: The model.
        methods: By name, the plain model's first.
        request: What is asked.
        folder: Where the files go.
        task: Whose question it is.
        step: Whose row is shown; see `Comparison`.
        layer: Whose weights are drawn; None is the mean over layers.

    Returns:
        What sample.json says of it.

    Raises:
        UsageError: As `compare`, or it is not known where the image tokens lie.
    """
    seen = compare(adapter, methods, request, step)
    gallery = Gallery.of(adapter, seen, layer)
    question = request.messages[-1].text.replace(IMAGE_PLACEHOLDER, "").strip()
    with drawing():
        overlays = draw(gallery, folder, question)
        views = [_contract(view, seen.before, overlays[view.method]) for view in seen.views]
        document = {
            "schema_version": 1,
            "model": adapter.preset.name,
            "task": task,
            "id": request.id,
            "question": question,
            "views": views,
        }
        (folder / "before_after.html").write_text(_page(document, gallery, folder), "utf-8")
    (folder / "views.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return {
        "row": seen.row,
        "step": seen.step,
        "layer": layer,
        "pictures": ["before_after.png", *overlays.values()],
        "page": "before_after.html",
        "views": [_summary(view, seen, written) for view, written in zip(seen.views, views, strict=True)],
    }


def _contract(view: MethodView, before: MethodView, overlay: str) -> dict[str, Any]:
    """A view as views.schema.json has it."""
    shares = zip(before.shares.tolist(), view.shares.tolist(), strict=True)
    return {
        "method": view.method,
        "params": view.params,
        "answer": view.answer,
        "overlay": overlay,
        "image_share": [round(share, 6) for share in view.by_layer.tolist()],
        "heads": [
            {"layer": layer, "head": head, "before": round(old, 6), "after": round(new, 6)}
            for layer, rows in enumerate(shares)
            for head, (old, new) in enumerate(zip(*rows, strict=True))
        ],
    }


def most_changed(heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The heads of a view that changed most, by more than rounding; of equal ones the earlier."""
    changed = [head for head in heads if _change(head) > LEAST]
    return sorted(changed, key=_change, reverse=True)[:MOST]


def _change(head: Mapping[str, Any]) -> float:
    return abs(float(head["after"] - head["before"]))


def _summary(view: MethodView, seen: Compared, written: Mapping[str, Any]) -> dict[str, Any]:
    """What sample.json says of a view; all heads are in views.json."""
    return {
        **{key: written[key] for key in ("method", "params", "answer", "image_share")},
        "note": seen.note(view),
        "row_sums": [round(float(view.total.min()), 4), round(float(view.total.max()), 4)],
        "image_tokens": [int(kept.sum()) for kept in view.kept],
        "boxes": view.boxes,
        "most_changed": [] if view is seen.before else most_changed(written["heads"]),
    }


def _page(document: Mapping[str, Any], gallery: Gallery, folder: Path) -> str:
    """One page that needs no other file and no script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("sinkbench.inspection")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    views = []
    for number, view in enumerate(document["views"]):
        change = change_figure(gallery, number) if number else None
        views.append(
            {
                **view,
                "note": gallery.seen.note(gallery.seen.views[number]),
                "overlay": _data((folder / view["overlay"]).read_bytes()),
                "change": _data(png(change)) if change else "",
                "most": most_changed(view["heads"]),
            }
        )
    return pages.get_template("before_after.html.j2").render(
        **{key: document[key] for key in ("model", "task", "id", "question")},
        row=gallery.seen.row,
        what=gallery.what,
        marks=[mark[0].upper() + mark[1:] for mark in gallery.marks],
        before=BEFORE,
        views=views,
        curve=_data(png(share_figure(gallery))),
    )


def _data(picture: bytes) -> str:
    return f"data:image/png;base64,{b64encode(picture).decode()}"
