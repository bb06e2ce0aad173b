"""A prompt as tensors: ids, roles and positions of one sample, and how several are laid out as a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sinkbench.engine.context import Role
from sinkbench.request import ImageRef, Request


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
    """

    request: Request
    ids: Tensor
    roles: Tensor
    positions: Tensor
    images: tuple[ImageRef, ...]
    image_token: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix_length(self) -> int:
        """Tokens up to and including the last image feature; 0 without images."""
        places = (self.ids == self.image_token).nonzero()
        return int(places[-1]) + 1 if len(places) else 0

    @property
    def prefix_key(self) -> tuple[bytes, tuple[str, ...]]:
        """Equal for prompts whose prefix is the same computation."""
        return self.ids[: self.prefix_length].numpy().tobytes(), tuple(image.key for image in self.images)

    @property
    def visual_tokens(self) -> int:
        """Image tokens, separators excluded."""
        return int((self.roles == Role.IMAGE).sum())

    @property
    def next_position(self) -> int:
        """The position of the first generated token."""
        return int(self.positions.max()) + 1

    def without_images(self) -> "Prompt":
        """The same prompt with every image feature removed and the rest numbered as plain text."""
        keep = self.ids != self.image_token
        positions = torch.arange(int(keep.sum())).expand(self.positions.shape[0], -1)
        return replace(self, ids=self.ids[keep], roles=self.roles[keep], positions=positions, images=())


@dataclass(frozen=True, eq=False)
class Segment:
    """A left-padded stretch of several prompts.

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
    def stack(cls, prompts: Sequence[Prompt], spans: Sequence[tuple[int, int]], device: torch.device) -> "Segment":
        """Lay out the tokens [start, end) of each prompt, flush right.

        Args:
            prompts: B prompts.
            spans: Start and end for each.
            device: Where the tensors go.
        """
        longest = max(end - start for start, end in spans)
        size = (len(prompts), longest)
        ids = torch.zeros(size, dtype=torch.int64)
        roles = torch.full(size, int(Role.PAD), dtype=torch.uint8)
        positions = torch.zeros(prompts[0].positions.shape[0], *size, dtype=torch.int64)
        for row, (prompt, (start, end)) in enumerate(zip(prompts, spans, strict=True)):
            if end > start:
                ids[row, start - end :] = prompt.ids[start:end]
                roles[row, start - end :] = prompt.roles[start:end]
                positions[:, row, start - end :] = prompt.positions[:, start:end]
        padded = any(end - start < longest for start, end in spans)
        return cls(ids.to(device), roles.to(device), positions.to(device), padded)
