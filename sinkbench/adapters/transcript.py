"""Chats read back from token ids: where the user's words are in a prompt that somebody else has made.

The way of `chat.ChatTemplate` backwards. The template is rendered for conversations of growing length, and what it
writes around the texts is looked for in the prompt. White space counts for nothing in the comparison: tokenizers do not
give it back to the character.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import torch
from jinja2 import TemplateError
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.adapters.chat import ChatTemplate, Shape
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import UserText
from sinkbench.errors import SampleError

_IMAGE = "\ue010"
"""Stands for an image; a private-use character that no tokenizer writes."""

_CACHED_TOKENS = 1 << 16
_CACHED_PATTERNS = 256


@dataclass(frozen=True)
class ReadPrompt:
    """What the tokens of a prompt are for.

    Attributes:
        roles: (L,) uint8; every image feature is IMAGE.
        user_texts: The user's words, in order, with their tokens.
    """

    roles: Tensor
    user_texts: tuple[UserText, ...]


class Transcript:
    """Reads prompts of one model.

    Args:
        adapter: The model.
    """

    def __init__(self, adapter: Adapter) -> None:
        self._tokenizer = adapter.tokenizer
        self._chat = ChatTemplate(adapter.processor)
        self._image_token = adapter.image_token
        self._markup = adapter.image_markup
        self._piece = lru_cache(_CACHED_TOKENS)(self._decoded)
        self._pattern = lru_cache(_CACHED_PATTERNS)(self._pattern_of)

    def read(self, ids: Sequence[int]) -> ReadPrompt:
        """Tell what each token of a prompt is for.

        Args:
            ids: L token ids, without padding; images are runs of the model's image token.

        Raises:
            SampleError: The prompt is not what the model's chat template writes before an answer.
        """
        pieces = self._pieces(ids)
        text = "".join(pieces)
        # Which token each character comes from.
        owners = [index for index, piece in enumerate(pieces) for _ in piece]
        roles = torch.full((len(ids),), int(Role.TEMPLATE), dtype=torch.uint8)
        roles[torch.tensor(ids) == self._image_token] = int(Role.IMAGE)
        user_texts = []
        for begin, end in self._user_spans(text):
            first, last = owners[begin], owners[end - 1]
            roles[first : last + 1] = int(Role.QUERY)
            user_texts.append(self._user_text(ids[first : last + 1], first))
        return ReadPrompt(roles, tuple(user_texts))

    def _pieces(self, ids: Sequence[int], opening: bool = True) -> list[str]:
        """What each token writes, without white space; an image is one character of its first token.

        `opening` says that a beginning-of-sequence token in front writes nothing.
        """
        pieces: list[str] = []
        for index, token in enumerate(ids):
            inside = token == self._image_token
            again = inside and index > 0 and ids[index - 1] == token
            begins = opening and index == 0 and token == self._tokenizer.bos_token_id
            nothing = again or begins or token in self._markup
            pieces.append("" if nothing else _IMAGE if inside else self._piece(token))
        return pieces

    def _decoded(self, token: int) -> str:
        return "".join(self._tokenizer.decode([token], skip_special_tokens=False).split())

    def _user_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Characters [begin, end) of the user's words.

        Raises:
            SampleError: No conversation fits.
        """
        ending = self._literals((("user", ("text",)),))[-1]
        # The longest conversation first: a shorter one would take markup in the middle for words.
        longest = max(1, text.count(ending)) if ending else 1
        for rounds in range(longest, 0, -1):
            for shape in (_shape(rounds, system=False), _shape(rounds, system=True)):
                pattern = self._pattern(shape)
                if pattern is not None and (found := pattern.fullmatch(text)):
                    by_user = [group + 1 for group, (role, _) in enumerate(shape) if role == "user"]
                    for group in by_user:
                        yield from self._words(found[group], found.start(group))
                    return
        raise SampleError("the prompt is not what the model's chat template writes before an answer")

    def _pattern_of(self, shape: Shape) -> "re.Pattern[str] | None":
        """Finds the texts of a conversation; None where the template cannot write it."""
        try:
            literals = self._literals(shape)
        except (SampleError, TemplateError):
            return None
        return re.compile("(.*?)".join(map(_escaped, literals)), re.DOTALL)

    def _literals(self, shape: Shape) -> list[str]:
        """What the template writes around the texts, as `_pieces` has it."""
        literals = self._chat.literals(shape)
        opening = self._tokenizer.bos_token or ""
        return [self._normal(literals[0].removeprefix(opening)), *map(self._normal, literals[1:])]

    def _normal(self, text: str) -> str:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return "".join(self._pieces(ids, opening=False))

    def _words(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """The parts of a message of the user that are no images, nor what the template writes around these."""
        markup = self._image_markup() if _IMAGE in text else ""
        done = 0
        for image in re.finditer(f"{_escaped(markup)}|{_IMAGE}+" if markup else f"{_IMAGE}+", text):
            if done < image.start():
                yield start + done, start + image.start()
            done = image.end()
        if done < len(text):
            yield start + done, start + len(text)

    def _image_markup(self) -> str:
        """What the template writes for an image at the beginning of a message."""
        plain, shown = (self._literals((("user", kinds),))[0] for kinds in (("text",), ("image", "text")))
        return shown.removeprefix(plain)

    def _user_text(self, ids: Sequence[int], first: int) -> UserText:
        """Words of these tokens, of which the first is token `first` of the prompt."""
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if encoded["input_ids"] == list(ids):
            spans = encoded["offset_mapping"]
        else:
            ends = [len(self._tokenizer.decode(ids[:n], skip_special_tokens=False)) for n in range(len(ids) + 1)]
            # Half a character decodes to a mark of its own, which the other half takes back.
            ends = list(accumulate(ends, max))
            spans = list(pairwise(ends))
        return UserText(text, tuple((first + index, *span) for index, span in enumerate(spans)))


def _shape(rounds: int, system: bool) -> Shape:
    """A conversation whose messages are one text each; images are found in the texts."""
    user, assistant = ("user", ("text",)), ("assistant", ("text",))
    opening: Shape = (("system", ("text",)),) if system else ()
    return opening + (user, assistant) * (rounds - 1) + (user,)


def _escaped(literal: str) -> str:
    """A pattern for what the template writes; several images in a row are as good as one."""
    return re.sub(f"{_IMAGE}+", f"{_IMAGE}+", re.escape(literal))
