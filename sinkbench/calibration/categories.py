"""Categories of a prompt's tokens for causal tracing (FCCT, arXiv 2511.05923): what is patched together."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.adapters.views import View, sample_views
from sinkbench.calibration.base import Box, Question
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt

FINE = (
    "visual_before",
    "visual_object",
    "visual_after",
    "text_early",
    "text_object",
    "text_late",
    "last",
)
"""The paper's seven: image tokens before, on and after the object, text before, on and after its name, last token."""

COARSE = ("visual", "text", "last")
"""Where nobody knows where the object is."""


def token_codes(adapter: Adapter, prompt: Prompt, question: Question, categories: Sequence[str]) -> Tensor | None:
    """The category of every token of a prompt.

    The paper does not say how its spans are cut. Here image tokens after the object are all that follow its first
    token, those beside it in the raster included, since they have seen some of it; tokens that part an image's rows
    go with the image tokens around them; and the text begins behind the image: what stands before it cannot see it.

    Args:
        adapter: Knows where its tokens lie in an image.
        prompt: The question's prompt, about one image.
        question: Has boxes and the object's name, for `FINE`.
        categories: `FINE` or `COARSE`.

    Returns:
        (L,) uint8, 1 + the category's index, 0 for none; or None where the object cannot be located in the image or
        the text, or there is no image.
    """
    code = {name: index for index, name in enumerate(categories, 1)}
    images = (prompt.roles == Role.IMAGE).nonzero()[:, 0]
    if not len(images):
        return None
    codes = torch.zeros(len(prompt), dtype=torch.uint8)
    first, end = int(images[0]), prompt.prefix_length
    if tuple(categories) == COARSE:
        codes[first:end], codes[end:] = code["visual"], code["text"]
    else:
        shown = images[object_tokens(sample_views(adapter, prompt), question.boxes, len(images))]
        named = _named(prompt, question.subject, end)
        if not len(shown) or named is None:
            return None
        codes[first:end] = code["visual_after"]
        codes[first : int(shown[0])] = code["visual_before"]
        codes[shown] = code["visual_object"]
        codes[end : named[0]], codes[named[1] :] = code["text_early"], code["text_late"]
        codes[named[0] : named[1]] = code["text_object"]
    codes[-1] = code["last"]
    return codes


def object_tokens(views: Sequence[View], boxes: Sequence[Box], n_tokens: int) -> Tensor:
    """The image tokens, of any view of the first image, whose cell's centre lies in one of the boxes.

    An object smaller than a cell has the one in which its box's centre lies.

    Args:
        views: Grids of tokens over the picture.
        boxes: In pixels.
        n_tokens: Image tokens of the prompt.

    Returns:
        (n,) int64 indices among the image tokens, ascending.
    """
    chosen = np.zeros(n_tokens, dtype=bool)
    for view in (view for view in views if view.image == 0):
        rows, columns = view.tokens.shape
        left, top, right, bottom = view.box
        across, down = (right - left) / columns, (bottom - top) / rows
        x, y = left + (np.arange(columns) + 0.5) * across, top + (np.arange(rows) + 0.5) * down
        for box in boxes:
            hit = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None]
            if not hit.any():
                row, column = int(((box[1] + box[3]) / 2 - top) // down), int(((box[0] + box[2]) / 2 - left) // across)
                if not (0 <= row < rows and 0 <= column < columns):
                    continue
                hit[row, column] = True
            chosen[view.tokens[hit]] = True
    return torch.from_numpy(chosen).nonzero()[:, 0]


def _named(prompt: Prompt, subject: str, start: int) -> tuple[int, int] | None:
    """First token and end of the object's name in the text from `start` on."""
    if not subject:
        return None
    pattern = re.compile(rf"\b{re.escape(subject)}\b", re.IGNORECASE)
    marks = prompt.mark(lambda text: [match.span() for match in pattern.finditer(text)])
    places = (marks.nonzero()[:, 0]).tolist()
    return (places[0], places[-1] + 1) if places and places[0] >= start else None


def spellings(adapter: Adapter, answer: str) -> list[list[int]]:
    """Token ids of an answer's spellings: as given and capitalised, with and without a space before it."""
    texts = [space + text for text in (answer, answer.capitalize()) for space in ("", " ")]
    encoded = [adapter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    unknown = adapter.tokenizer.unk_token_id
    # A space may be a token of its own, which begins any answer.
    return [ids for ids in encoded if ids and ids[0] != unknown and adapter.tokenizer.decode([ids[0]]).strip()]


def answer_tokens(adapter: Adapter, answer: str) -> tuple[int, ...]:
    """First tokens of an answer's spellings."""
    return tuple(dict.fromkeys(ids[0] for ids in spellings(adapter, answer)))
