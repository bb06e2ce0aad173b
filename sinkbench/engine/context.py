"""What a method may know about the batch in flight: stages, roles of tokens, rows, and its own state.

Keys live in *slots*: a batch is laid out as [prefix, right-padded][suffix, left-padded][generated], so a key is visible
to a query iff its slot is not later and not padding. Slots are storage; positions (what RoPE sees) are kept apart.
Prefix slots of questions about one image are the same memory; the rest is each sample's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Flag, IntEnum, auto
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


class Stage(Flag):
    """Where in the computation of an answer the model is."""

    NONE = 0
    VISION = auto()
    """Vision encoder and projector."""
    PREFIX = auto()
    """The prompt up to and including its last image token; shared by all questions about an image."""
    SUFFIX = auto()
    """The rest of the prompt (all of it when there is no image)."""
    DECODE = auto()
    """One generated token at a time."""


class Role(IntEnum):
    """What a token is for."""

    PAD = 0
    TEMPLATE = 1
    """System prompt, chat markup, image row separators."""
    IMAGE = 2
    QUERY = 3
    """The user's own words."""
    GENERATED = 4


class State(dict[str, Tensor]):
    """Tensors that a method keeps for a batch, batch dimension first; the engine re-indexes them with the cache."""

    def select(self, index: Tensor) -> "State":
        """The state of the samples `index` (N,), in that order; an index may repeat."""
        return State({name: value.index_select(0, index) for name, value in self.items()})

    @classmethod
    def cat(cls, parts: Sequence["State"]) -> "State":
        """The states of several sets of samples as one."""
        if len(parts) == 1:
            return cls(parts[0])
        return cls({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


@dataclass(frozen=True, eq=False)
class ReadOut:
    """How the model turns hidden states into logits, for methods that read them early.

    Attributes:
        norm: The final norm: (…, d) to (…, d).
        head: (…, d) to (…, V) float32 logits.
    """

    norm: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) float32 logits of a hidden state (…, d) of any layer (logit lens)."""
        return self.head(self.norm(hidden))


@dataclass(eq=False)
class Context:
    """One forward pass of the language model, as a method sees it.

    Attributes:
        stage: PREFIX, SUFFIX or DECODE.
        roles: (B, K) uint8, the role of every key slot. Decode passes may show slots that are still empty, as PAD.
        n_queries: Q; in a pass over the prompt the queries are the last Q slots of `roles`.
        step: 0 for the prompt, then 1, 2, … for each decode pass. A captured decode pass is replayed without Python:
            a method that reads it there, but in `edit_logits`, must not declare itself `capturable`.
        state: The method's tensors for this batch; kept from pass to pass.
        padded: Whether any slot is padding; saves a device synchronisation to find out.
        emits: Whether the last row's output becomes the next token: true for decode passes and for the pass that ends
            the prompt.
        contrast_logits: (B, V) logits of the method's second branch at this step, if it has one.
        untouched: (B,) bool, samples that no edit may reach: the second branch runs in the same pass.
        paired: Whether the second half of the batch are the branches of the first (`Intervention.paired_branch`).
        read_out: The model's own way from hidden states to logits; None in passes over prefixes.
        bias: (B, 1, Q, K) float32 that a method put in the place of the mask in the layer at hand, added to scores.
        scratch: What a method keeps from layer to layer and up to the logits of this pass, and no longer. Unlike the
            state's, its names may get new tensors in captured passes.
    """

    stage: Stage
    roles: Tensor
    n_queries: int
    step: int = 0
    state: State = field(default_factory=State)
    padded: bool = True
    emits: bool = True
    contrast_logits: Tensor | None = None
    untouched: Tensor | None = None
    paired: bool = False
    read_out: ReadOut | None = None
    bias: Tensor | None = None
    scratch: dict[str, Tensor] = field(default_factory=dict)

    @property
    def n_keys(self) -> int:
        """K, the number of key slots."""
        return self.roles.shape[1]

    @property
    def start(self) -> int:
        """The slot of the first query row."""
        return self.n_keys - self.n_queries

    @property
    def last_row(self) -> slice:
        """The last query row: where the pass `emits`, the one whose output becomes the next token.

        Prompts are left-padded, so it is the last row of every sample.
        """
        return slice(self.n_queries - 1, self.n_queries)

    @property
    def all_rows(self) -> slice:
        """Every query row of this pass."""
        return slice(0, self.n_queries)

    def extend(self, values: Tensor, fill: float = 0) -> Tensor:
        """Values (…, K') of the first K' keys, filled up to all keys: (…, K)."""
        return F.pad(values, (0, self.n_keys - values.shape[-1]), value=fill)

    def append(self, before: Tensor | None, values: Tensor) -> Tensor:
        """Values (B, …, Q) of this pass's tokens behind those of earlier passes (B, …, K'): (B, …, K).

        Zero in between, where there are slots of neither. Not for decode passes that show slots that are still empty.
        """
        if not self.start:
            return values
        known = values[..., :0] if before is None else before
        return torch.cat((F.pad(known, (0, self.start - known.shape[-1])), values), dim=-1)

    @cached_property
    def is_valid(self) -> Tensor:
        """(B, K) bool: not padding."""
        return self.roles != Role.PAD

    @cached_property
    def is_image(self) -> Tensor:
        """(B, K) bool: image tokens, row separators excluded."""
        return self.roles == Role.IMAGE

    @cached_property
    def is_query(self) -> Tensor:
        """(B, K) bool: the user's own words."""
        return self.roles == Role.QUERY

    @cached_property
    def is_prompt(self) -> Tensor:
        """(B, K) bool: valid tokens that were given, not generated."""
        return self.is_valid & (self.roles != Role.GENERATED)

    @cached_property
    def valid_rows(self) -> Tensor:
        """(B, Q) bool: query rows that are no padding; generated tokens never are."""
        if self.stage is Stage.DECODE:
            return torch.ones(self.roles.shape[0], self.n_queries, dtype=torch.bool, device=self.roles.device)
        return self.is_valid[:, self.start :]

    @cached_property
    def keys_seen(self) -> Tensor:
        """(B, Q) int64: keys that a query row may look at, itself included; without meaning in padding rows."""
        return self.is_valid.cumsum(1)[:, -self.n_queries :]

    @cached_property
    def first_slot(self) -> Tensor:
        """(B,) int64: the slot of each sample's first token."""
        return self.is_valid.int().argmax(1)

    @cached_property
    def codes(self) -> Tensor:
        """(B, K) uint8: 0 for a key and 255 for padding, as kernels want it."""
        return torch.where(self.is_valid, 0, 255).to(torch.uint8)

    @cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, Q, K) bool, True where a query may look; None where every query sees every key.

        A padding row sees itself, so that no softmax is taken over nothing; it is never a key to others.
        """
        if self.n_queries == 1:
            return self.is_valid[:, None, None, :] if self.padded else None
        slots = torch.arange(self.n_keys, device=self.roles.device)
        queries = slots[self.start :, None]
        causal = slots[None, :] <= queries
        if not self.padded:
            return causal[None, None]
        visible = (causal & self.is_valid[:, None, :]) | (slots[None, :] == queries)
        return visible[:, None]

    @cached_property
    def additive_mask(self) -> Tensor:
        """(B, 1, Q, K) float32: 0 where a query may look, the lowest number where it may not."""
        mask = self.mask
        if mask is None:
            return torch.zeros(self.roles.shape[0], 1, self.n_queries, self.n_keys, device=self.roles.device)
        lowest = torch.finfo(torch.float32).min
        hidden = torch.where(mask, 0.0, lowest)
        return hidden.expand(self.roles.shape[0], -1, -1, -1)

    @property
    def is_plain_causal(self) -> bool:
        """Whether the square lower triangle serves as mask, which fused kernels know by name.

        A prefix is padded behind its tokens, where causality hides the padding.
        """
        hidden = not self.padded or self.stage is Stage.PREFIX
        return self.bias is None and hidden and self.n_queries == self.n_keys and self.n_queries > 1
