"""All questions on one image in one sequence: the image's prefix once, then each turn by itself behind it.

A turn attends to the prefix and to itself, and its positions restart after the prefix, so a packed forward computes
what a separate forward for every question would, at the cost of one vision pass and one prefix. A turn without an image
sees itself alone and is numbered from zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tiny.text import Chat

IGNORED = -100
"""The target of positions without loss (`torch.nn.functional.cross_entropy`'s default)."""


class TextTurn(NamedTuple):
    """A turn of a conversation without an image.

    Attributes:
        question: The user's words.
        answer: The answer.
    """

    question: str
    answer: str


@dataclass(frozen=True)
class Turns:
    """The packed turns of a batch of images.

    Attributes:
        ids: (B, S) int64, token ids, padding 0.
        turn: (B, S) int64, number of the turn from 1, negative where it has no image, 0 on padding.
        offset: (B, S) int64, place behind the prefix; a turn without an image begins before it, where the prompt does.
        targets: (B, S) int64, the token that follows if it belongs to an answer, else `IGNORED`.
    """

    ids: Tensor
    turn: Tensor
    offset: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Turns":
        """The same on another device; from pinned memory without waiting."""
        return Turns(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    def pin_memory(self) -> "Turns":
        """The same in pinned memory (the DataLoader's protocol)."""
        return Turns(*(getattr(self, name).pin_memory() for name in self.__dataclass_fields__))


class TurnEncoder:
    """Turns questions and answers into token ids.

    Args:
        tokenizer: The word-level `tokenizers.Tokenizer`.
        chat: The conversation form.
        prefix: Tokens of the prefix, image included; only turns without an image ask for it.
    """

    def __init__(self, tokenizer: Any, chat: Chat, prefix: int = 0) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._prefix = prefix
        self._cache: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        ids = self._cache.get(text)
        if ids is None:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            if len(self._cache) < 50_000:
                self._cache[text] = ids
        return ids

    def question(self, question: str) -> list[int]:
        """Token ids of a question with the markup up to the answer."""
        return self._ids(question + self._chat.ask)

    def answer(self, answer: str) -> list[int]:
        """Token ids of an answer, end of sequence included."""
        return self._ids(answer + self._chat.eos)

    def pack(self, dialogues: Sequence[Sequence[tuple[str, str]]], length: int) -> Turns:
        """Pack the turns of every image; a turn that does not fit any more is left out.

        Turns do not see each other, so their order is free: the longest answer goes first, for captions would otherwise
        be left out the more often the more they tell.

        Args:
            dialogues: For every image its (question, answer) pairs.
            length: S, tokens an image may use.
        """
        rows = torch.zeros(4, len(dialogues), length, dtype=torch.int64)
        rows[3] = IGNORED
        for row, dialogue in enumerate(dialogues):
            columns: list[list[int]] = [[], [], [], []]
            for number, dialogue_turn in enumerate(_longest_first(dialogue), start=1):
                question, answer = dialogue_turn
                alone = isinstance(dialogue_turn, TextTurn)
                asked, answered = self.question(question), self.answer(answer)
                if alone:
                    asked = self._ids(self._chat.text_prefix) + asked
                size = len(asked) + len(answered)
                if len(columns[0]) + size > length:
                    continue
                columns[0] += asked + answered
                columns[1] += [-number if alone else number] * size
                first = -self._prefix if alone else 0
                columns[2] += range(first, first + size)
                columns[3] += [IGNORED] * (len(asked) - 1) + answered + [IGNORED]
            rows[:, row, : len(columns[0])] = torch.tensor(columns, dtype=torch.int64)
        return Turns(*rows)


def _longest_first(dialogue: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns with the longest answer moved to the front."""
    longest = max(range(len(dialogue)), key=lambda number: len(dialogue[number][1]))
    return [dialogue[longest], *dialogue[:longest], *dialogue[longest + 1 :]]


def attention_bias(turn: Tensor, prefix: int, dtype: torch.dtype) -> Tensor:
    """The additive attention mask of packed sequences.

    Args:
        turn: (B, S) number of the turn from 1, negative where it has no image, 0 on padding.
        prefix: P, tokens before the first turn.
        dtype: The dtype of the queries.

    Returns:
        (B, 1, P + S, P + S) of 0 where a query (row) may attend to a key (column), else the dtype's lowest number.
    """
    owner = torch.nn.functional.pad(turn, (prefix, 0))
    in_prefix = torch.arange(owner.shape[1], device=owner.device) < prefix
    causal = torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool, device=owner.device).tril()
    sees_prefix = in_prefix & (owner >= 0)[:, :, None]
    allowed = (sees_prefix | (owner[:, :, None] == owner[:, None, :])) & causal
    bias = torch.zeros(allowed.shape, dtype=dtype, device=owner.device)
    return bias.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
