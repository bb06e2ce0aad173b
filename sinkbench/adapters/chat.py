"""Chat templates: a request's messages as the text that the model reads, and where the user's words are in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sinkbench.engine.context import Role
from sinkbench.engine.prompt import UserText
from sinkbench.errors import SampleError
from sinkbench.request import IMAGE_PLACEHOLDER, Request

Shape = tuple[tuple[str, tuple[str, ...]], ...]
"""What a conversation looks like without its words: the role of each message and the kind of each of its parts."""

_SENTINEL = "\ue000{}\ue001"
"""Stands for a text while the template is rendered; private-use characters that no template holds."""

_CACHED_SHAPES = 256
"""A task asks all its questions in one shape; few-shot and dialogue tasks in a few dozen."""


@dataclass(frozen=True)
class TokenisedText:
    """A rendered prompt as tokens; each image is still one of them.

    Attributes:
        text: The prompt.
        ids: L token ids.
        offsets: Characters [start, end) of `text` that each token covers.
        spans: Characters [begin, stop) of each stretch of the user's words.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    spans: list[tuple[int, int]]

    def expand(self, images: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, tuple[UserText, ...]]:
        """Let images take their room.

        Args:
            images: From an image token's index to the ids (M,) and roles (M,) that stand in its place.

        Returns:
            (L',) int64 ids, (L',) uint8 roles, and the user's words with their tokens.
        """
        plain = torch.tensor(self.ids)
        roles = torch.full((len(plain),), int(Role.TEMPLATE), dtype=torch.uint8)
        widths = [1] * len(self.ids)
        id_parts, role_parts, done = [], [], 0
        for place, (image_ids, image_roles) in images.items():
            widths[place] = len(image_ids)
            id_parts += [plain[done:place], image_ids]
            role_parts += [roles[done:place], image_roles]
            done = place + 1
        ids = torch.cat([*id_parts, plain[done:]])
        roles = torch.cat([*role_parts, roles[done:]])
        starts = list(accumulate(widths, initial=0))
        user_texts = tuple(self._user_text(begin, stop, starts) for begin, stop in self.spans)
        roles[[token for part in user_texts for token, _, _ in part.tokens]] = int(Role.QUERY)
        return ids, roles, user_texts

    def _user_text(self, begin: int, stop: int, starts: Sequence[int]) -> UserText:
        """The user's words `text[begin:stop]`; `starts` says where each token stands in the expanded prompt."""
        tokens = tuple(
            (starts[token], max(start, begin) - begin, min(end, stop) - begin)
            for token, (start, end) in enumerate(self.offsets)
            if max(start, begin) < min(end, stop)
        )
        return UserText(self.text[begin:stop], tokens)


class ChatTemplate:
    """A processor's chat template, rendered once for each shape of conversation and then filled with words.

    Args:
        processor: Renders the template and tokenises.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._image_text = str(getattr(processor, "image_token", IMAGE_PLACEHOLDER))
        self._literals = lru_cache(_CACHED_SHAPES)(self._render_shape)

    def literals(self, shape: Shape) -> tuple[str, ...]:
        """What the template writes before, between and after the n texts of a conversation: n + 1 strings.

        Raises:
            SampleError: It leaves a message out.
        """
        return self._literals(shape)

    def tokenise(self, request: Request) -> TokenisedText:
        """The prompt as tokens.

        Raises:
            SampleError: See `render`.
        """
        text, spans = self.render(request)
        tokenizer = self._processor.tokenizer
        has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not has_bos)
        return TokenisedText(text, encoded["input_ids"], encoded["offset_mapping"], spans)

    def render(self, request: Request) -> tuple[str, list[tuple[int, int]]]:
        """The prompt's text, and the characters [begin, stop) of each stretch of the user's words.

        Raises:
            SampleError: A text holds the model's image token (it would make an image of nothing), or the template
                leaves a message out.
        """
        shape: list[tuple[str, tuple[str, ...]]] = []
        texts: list[tuple[str, bool]] = []
        for message in request.messages:
            kinds: list[str] = []
            for index, piece in enumerate(message.text.split(IMAGE_PLACEHOLDER)):
                if index:
                    kinds.append("image")
                # Templates put an image where they want it; white space around the placeholder is not the user's.
                words = piece.strip() if request.images else piece
                if self._image_text in words:
                    raise SampleError(f"the text holds the model's image token {self._image_text!r}")
                if words:
                    kinds.append("text")
                    texts.append((words, message.role == "user"))
            shape.append((message.role, tuple(kinds)))
        first, *literals = self._literals(tuple(shape))
        parts, length, spans = [first], len(first), []
        for (words, by_user), literal in zip(texts, literals, strict=True):
            if by_user:
                spans.append((length, length + len(words)))
            parts += (words, literal)
            length += len(words) + len(literal)
        return "".join(parts), spans

    def _render_shape(self, shape: Shape) -> tuple[str, ...]:
        """What the template writes before, between and after the n texts of a conversation: n + 1 strings."""
        messages, count = [], 0
        for role, kinds in shape:
            parts = []
            for kind in kinds:
                if kind == "text":
                    parts.append({"type": "text", "text": _SENTINEL.format(count)})
                    count += 1
                else:
                    parts.append({"type": kind})
            messages.append({"role": role, "content": parts})
        rendered = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        pieces = re.split(_SENTINEL.format(r"(\d+)"), rendered)
        if pieces[1::2] != [str(index) for index in range(count)]:
            raise SampleError("the chat template dropped a message")
        return tuple(pieces[::2])
