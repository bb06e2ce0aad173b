"""What a user of transformers writes: prompts by the processor, answers by the model's own generate."""

from collections.abc import Sequence
from typing import Any

import torch
from harness import NEW_TOKENS

from sinkbench.adapters.base import Adapter
from sinkbench.request import Request


def inputs(a: Adapter, asked: Sequence[Request]) -> dict[str, Any]:
    """Prompts of the requests, padded on the left, as the model takes them."""
    texts = [a._render(request)[0] for request in asked]
    images = [[image.load() for image in request.images] for request in asked]
    given = {"images": images} if any(images) else {}
    if not any(images) and hasattr(a.processor, "image_processor"):
        given = {"images": None}
    batch = a.processor if hasattr(a.processor, "image_processor") else a.tokenizer
    return dict(batch(text=texts, return_tensors="pt", padding=True, add_special_tokens=False, **given))


def texts(a: Adapter, asked: Sequence[Request], **settings: Any) -> list[str]:
    """Greedy answers by the model's own generate."""
    given = inputs(a, asked)
    out = a.model.generate(**given, **{"max_new_tokens": NEW_TOKENS, "do_sample": False, **settings})
    return [a.decode(_until_end(a, row)) for row in out[:, given["input_ids"].shape[1] :].tolist()]


@torch.no_grad()
def logits(a: Adapter, asked: Sequence[Request]) -> torch.Tensor:
    """(B, L, V) of one call of the model."""
    return a.model(**inputs(a, asked)).logits


def _until_end(a: Adapter, ids: list[int]) -> list[int]:
    ends = [index for index, token in enumerate(ids) if token in a.eos]
    return ids[: ends[0]] if ends else ids
