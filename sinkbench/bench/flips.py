"""Do answers depend on the batch? The share that differs between a batch of 32 and each question alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sinkbench.adapters.base import Adapter
from sinkbench.bench.measure import answer_all
from sinkbench.engine.generate import Engine
from sinkbench.methods.base import Method
from sinkbench.paths import asset, read_packed
from sinkbench.request import IMAGE_PLACEHOLDER, Generation, ImageRef, Message, Request

BATCH = 32
NEW_TOKENS = {"pope": 4, "text": 8, "chair": 64}
"""Question files of the shipped Scenes, and room for their answers."""


def scenes_requests(per_file: int, folder: Path | None = None) -> list[Request]:
    """The first questions of each file of a Scenes folder, the shipped one by default.

    They are asked as they stand, without the hints that the tasks add: what matters is that answers vary.
    """
    folder = folder or asset("scenes/val")
    return [
        Request(
            f"{name}/{row['id']}",
            (Message("user", f"{IMAGE_PLACEHOLDER}\n{row['question']}"),),
            (ImageRef.from_file(folder / "images" / row["image"]),),
            Generation(max_new_tokens=new_tokens),
        )
        for name, new_tokens in NEW_TOKENS.items()
        for row in map(json.loads, read_packed(folder / f"{name}.jsonl").splitlines()[:per_file])
    ]


def flip_rates(adapter: Adapter, method: Method, requests: Sequence[Request]) -> dict[str, Any]:
    """How many texts change when questions are answered one at a time instead of 32 at a time.

    Returns:
        "questions", "flipped" and "rate", overall and under "by_file" for each question file.
    """
    together, alone = (_texts(Engine(adapter, method, size), requests) for size in (BATCH, 1))
    by_file = {
        name: _count([request.id for request in requests if request.id.startswith(f"{name}/")], together, alone)
        for name in NEW_TOKENS
    }
    return {"batch": BATCH, **_count(list(together), together, alone), "by_file": by_file}


def _texts(engine: Engine, requests: Sequence[Request]) -> dict[str, str]:
    return {response.id: response.text for response in answer_all(engine, requests)}


def _count(ids: Sequence[str], together: dict[str, str], alone: dict[str, str]) -> dict[str, Any]:
    flipped = sum(together[name] != alone[name] for name in ids)
    return {"questions": len(ids), "flipped": flipped, "rate": flipped / len(ids) if ids else 0.0}
