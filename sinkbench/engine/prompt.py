"""A prompt as tensors: ids, roles and positions of one sample, and how several are laid out as a batch."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sinkbench.engine.context import Role
from sinkbench.request import ImageRef, Request

Side = Literal["left", "right"]


@dataclass(frozen=True)
class EditedImage(ImageRef):
    """An image as a method's second branch sees it.

    Attributes:
        original: The unedited image's key.
        edit: Names the change; images with equal originals and equal names are one image.
    """

    original: str = ""
    edit: str = ""

    @property
    def key(self) -> str:
        """Differs from the unedited image's."""
        return f"{self.original}#{self.edit}"


@dataclass(frozen=True)
class UserText:
    """A stretch of the user's own words, and the tokens that it became.

    Attributes:
        text: The words.
        tokens: Of each token: its index in the prompt, and the characters [begin, end) of `text` that it covers.
    """

    text: str
    tokens: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded request.

    Attributes:
        request: What was asked.
        ids: (L,) int64 token ids; each image is a run of `image_token` ids.
        roles: (L,) uint8 `Role` of each token.
        positions: (P, L) int64, what rotary embedding sees; P is 1, or 3 for M-RoPE.
        images: The images, in order of their runs.
        image_token: Id that stands for an image feature.
        user_texts: The user's words, in order; empty where the prompt was made of ids.
        image_markup: Ids of the tokens that a template puts around each image; they leave with the images.
        dropped: Image tokens that a method has taken out.
    """

    request: Request
    ids: Tensor
    roles: Tensor
    positions: Tensor
    images: tuple[ImageRef, ...]
    image_token: int
    user_texts: tuple[UserText, ...] = ()
    image_markup: tuple[int, ...] = ()
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def prefix_length(self) -> int:
        """Tokens up to and including the last image feature; 0 without images."""
        places = (self.ids == self.image_token).nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    @cached_property
    def prefix_key(self) -> tuple[bytes, tuple[str, ...]]:
        """Equal for prompts whose prefix is the same computation."""
        ids = self.ids[: self.prefix_length].numpy().tobytes()
        return hashlib.blake2b(ids, digest_size=16).digest(), tuple(image.key for image in self.images)

    @cached_property
    def visual_tokens(self) -> int:
        """Image tokens, separators excluded."""
        return int((self.roles == Role.IMAGE).sum())

    @cached_property
    def next_position(self) -> int:
        """The position of the first generated token."""
        return int(self.positions.max()) + 1

    def mark(self, find: Callable[[str], Iterable[tuple[int, int]]]) -> Tensor:
        """The tokens that overlap chosen characters of the user's words.

        Args:
            find: From a text to the character spans [begin, end) that are wanted.

        Returns:
            (L,) bool.
        """
        # A list until the end: an operation of torch for every token took longer than the model's layers did.
        marks = [False] * len(self)
        for user_text in self.user_texts:
            spans = list(find(user_text.text))
            for token, begin, end in user_text.tokens:
                marks[token] |= any(begin < stop and end > start for start, stop in spans)
        return torch.tensor(marks, dtype=torch.bool)

    def with_edited_images(self, edit: str) -> "Prompt":
        """The same prompt about its images after a change that `Intervention.edit_image` makes."""
        edited = (EditedImage(image.path, image.sha256, image.key, edit) for image in self.images)
        return replace(self, images=tuple(edited))

    def without_images(self) -> "Prompt":
        """The same prompt with every image and the markup around it removed, and the rest numbered as plain text.

        Markup around nothing is a prompt that no model was trained on. What the user typed stays, even if it is markup.
        """
        markup = torch.isin(self.ids, torch.tensor(self.image_markup, dtype=torch.int64))
        keep = (self.ids != self.image_token) & ~(markup & (self.roles == Role.TEMPLATE))
        positions = torch.arange(int(keep.sum())).expand(self.positions.shape[0], -1)
        return replace(self._part(keep), positions=positions, images=(), dropped=0)

    def keeping(self, keep: Tensor) -> "Prompt":
        """The same prompt with some of its image tokens only.

        Tokens are numbered anew; with multimodal RoPE they keep their positions, which say where in the image they are.

        Args:
            keep: (L,) bool, true of all that is no image token.
        """
        part = self._part(keep)
        lost = self.visual_tokens - part.visual_tokens
        positions = part.positions if len(self.positions) > 1 else torch.arange(len(part.ids))[None]
        return replace(part, positions=positions, dropped=self.dropped + lost)

    def _part(self, keep: Tensor) -> "Prompt":
        """The tokens (L,) bool that are kept, with the positions that they had."""
        index = (keep.cumsum(0) - 1).tolist()
        user_texts = tuple(
            replace(part, tokens=tuple((index[token], *span) for token, *span in part.tokens))
            for part in self.user_texts
        )
        return replace(
            self,
            ids=self.ids[keep],
            roles=self.roles[keep],
            positions=self.positions[:, keep],
            user_texts=user_texts,
        )


@dataclass(frozen=True, eq=False)
class Segment:
    """A padded stretch of several prompts.

    Attributes:
        ids: (B, S) int64.
        roles: (B, S) uint8, PAD where there is nothing.
        positions: (P, B, S) int64.
        padded: Whether any slot is padding.
    """

    ids: Tensor
    roles: Tensor
    positions: Tensor
    padded: bool

    @classmethod
    def stack(
        cls,
        prompts: Sequence[Prompt],
        spans: Sequence[tuple[int, int]],
        device: torch.device,
        side: Side,
        length: int = 0,
    ) -> "Segment":
        """Lay out the tokens [start, end) of each prompt.

        Args:
            prompts: B prompts.
            spans: Start and end for each.
            device: Where the tensors go.
            side: Which side the tokens stand on.
            length: S, if more than the longest.
        """
        ids = flush([p.ids for p in prompts], spans, device, side, length)
        roles = flush([p.roles for p in prompts], spans, device, side, length)
        by_token = flush([p.positions.T for p in prompts], spans, device, side, length)
        positions = by_token.permute(2, 0, 1).contiguous()
        padded = any(end - start < ids.shape[1] for start, end in spans)
        return cls(ids, roles, positions, padded)


def flush(
    values: Sequence[Tensor], spans: Sequence[tuple[int, int]], device: torch.device, side: Side, length: int = 0
) -> Tensor:
    """Lay out one value a token, or several.

    Args:
        values: (L_i,) or (L_i, n) of each of B prompts.
        spans: Start and end for each.
        device: Where the result goes.
        side: Where the tokens stand: "right", so that the last of every prompt are below each other, or "left", so that
            a causal mask hides the padding behind them.
        length: S, if more than the longest.

    Returns:
        (B, S) or (B, S, n), 0 (which is `Role.PAD`) or False where there is padding.
    """
    cut = [value[start:end] for value, (start, end) in zip(values, spans, strict=True)]
    padding = "left" if side == "right" else "right"
    laid_out = pad_sequence(cut, batch_first=True, padding_side=padding).to(device, non_blocking=True)
    missing = length - laid_out.shape[1]
    if missing <= 0:
        return laid_out
    wider = laid_out.new_zeros(len(cut), length, *laid_out.shape[2:])
    (wider[:, missing:] if side == "right" else wider[:, :-missing]).copy_(laid_out)
    return wider
