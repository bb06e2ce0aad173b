"""Which prompts are answered together."""

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from sinkbench.adapters.base import Adapter
from sinkbench.engine.cache import kv_bytes_per_token
from sinkbench.engine.prompt import Prompt

_SAMPLES = {"cpu": 54, "cuda": 576}
"""Most samples in an automatic batch by device type; POPE asks 18 questions about an image."""

_PASS_TOKENS = {"cpu": 4096, "cuda": 20480}
"""Most tokens in one pass over prompts: more make a large GPU no faster, and their activations cost memory."""

_OBSERVED_TOKENS = 1 << 17
"""The same where everything is looked at: every pass costs thousands of small operations, however short it is."""

_ACTIVATION_SHARE = 0.15
"""Share of the free memory that the inner activations of such a pass may take; keys and values get less for it."""

_MEMORY_SHARE = 0.7
"""Share of the free memory that keys and values may take; activations and logits need the rest."""

_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Budget:
    """What a batch may take.

    Attributes:
        samples: Most samples.
        slots: Most slots of the KV cache, those of shared prefixes counted once.
        pass_tokens: Most tokens in one pass over prompts. One sample alone may take more.
        branches: Rows of each sample in decode passes: two where a method contrasts two branches, and these for each
            row of a search that a method asks for. Rows that a prompt's own settings ask for come on top.
    """

    samples: int
    slots: int = _UNLIMITED
    pass_tokens: int = _UNLIMITED
    branches: int = 1

    def capped(self, samples: int) -> "Budget":
        """The same with at most so many samples."""
        return replace(self, samples=min(self.samples, samples))

    @classmethod
    def of(cls, adapter: Adapter, batch_size: int | Literal["auto"]) -> "Budget":
        """A fixed number of samples, or what the device's free memory holds, each with one row in decode passes."""
        kind = _kind(adapter)
        if batch_size != "auto":
            return cls(batch_size, pass_tokens=max(_PASS_TOKENS[kind], batch_size))
        per_token = kv_bytes_per_token(adapter.language_model.config, adapter.dtype)
        return cls(_SAMPLES[kind], int(_MEMORY_SHARE * _free_bytes(adapter) / per_token), _PASS_TOKENS[kind])

    def under(self, branches: int, searched: int) -> "Budget":
        """The same where each sample has more rows.

        Args:
            branches: Rows of each sample in decode passes.
            searched: Rows of each sample that a search compares: their logits are all held at once, so that samples
                whose number is not given are fewer.
        """
        samples = self.samples if self.slots == _UNLIMITED else max(1, self.samples // searched)
        return replace(self, samples=samples, branches=branches)


def observed_budget(adapter: Adapter, batch_size: int | Literal["auto"]) -> Budget:
    """What a batch may take that is looked at: passes are as long as a GPU's free memory has room for."""
    budget, kind = Budget.of(adapter, batch_size), _kind(adapter)
    if kind == "cpu":
        return budget
    config = adapter.language_model.config
    # The MLP's gate, up and product, and as much again for what is made of them.
    per_token = 6 * config.intermediate_size * adapter.dtype.itemsize
    room = int(_ACTIVATION_SHARE * _free_bytes(adapter) / per_token)
    slots = int(budget.slots * (1 - 2 * _ACTIVATION_SHARE / _MEMORY_SHARE))
    return replace(budget, slots=slots, pass_tokens=max(_PASS_TOKENS[kind], min(_OBSERVED_TOKENS, room)))


def _kind(adapter: Adapter) -> str:
    return adapter.device.type if adapter.device.type in _SAMPLES else "cpu"


def _free_bytes(adapter: Adapter) -> int:
    if _kind(adapter) == "cpu":
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    free = torch.cuda.mem_get_info(adapter.device)[0]
    return int(free + torch.cuda.memory_reserved(adapter.device) - torch.cuda.memory_allocated(adapter.device))


@dataclass
class _Draft:
    """A batch while it is filled, and what it takes with every sample as long as the longest."""

    prompts: list[Prompt]
    prefixes: int = 0
    prefix: int = 0
    suffix: int = 0

    def fits(self, group: Sequence[Prompt], budget: Budget) -> bool:
        """Whether the questions of one prefix can join."""
        samples = len(self.prompts) + len(group)
        prefix = max(self.prefix, group[0].prefix_length)
        suffix = max(self.suffix, *(len(p) - p.prefix_length for p in group))
        settings = group[0].request.generation
        rows = budget.branches * settings.rows * samples
        slots = (self.prefixes + 1) * prefix + rows * (suffix + settings.max_new_tokens)
        within = samples * suffix <= budget.pass_tokens or samples == 1
        return samples <= budget.samples and slots <= budget.slots and within

    def add(self, group: Sequence[Prompt]) -> None:
        """Let the questions of one prefix join."""
        self.prompts.extend(group)
        self.prefixes += 1
        self.prefix = max(self.prefix, group[0].prefix_length)
        self.suffix = max(self.suffix, *(len(p) - p.prefix_length for p in group))


def plan_batches(prompts: Sequence[Prompt], budget: Budget) -> list[list[Prompt]]:
    """Group prompts into batches: equal generation settings, questions about one image together, longest first.

    The longest batch comes first, so that memory runs out at once or not at all and the ETA is pessimistic. Questions
    about one image are split over two batches only where they do not fit into one: each part costs the prefix again.

    Args:
        prompts: Prompts to answer.
        budget: What a batch may take.
    """
    batches: list[list[Prompt]] = []
    for same_settings in _grouped(prompts, lambda prompt: prompt.request.generation):
        groups = _grouped(same_settings, lambda prompt: prompt.prefix_key)
        groups.sort(key=lambda group: -max(len(p) for p in group))
        draft = _Draft([])
        for group in groups:
            for part in _parts(group, budget):
                if draft.prompts and not draft.fits(part, budget):
                    batches.append(draft.prompts)
                    draft = _Draft([])
                draft.add(part)
        batches.append(draft.prompts)
    return batches


def whole_batches(prompts: Sequence[Prompt], budget: Budget) -> list[list[Prompt]]:
    """Prompts whose every token fits into one pass, longest first; for those that are run whole."""
    waiting = sorted(prompts, key=lambda prompt: -len(prompt))
    batches = []
    while waiting:
        size = max(1, min(budget.samples, budget.pass_tokens // len(waiting[0])))
        batches.append(waiting[:size])
        waiting = waiting[size:]
    return batches


def _parts(group: Sequence[Prompt], budget: Budget) -> list[list[Prompt]]:
    """The questions of one prefix in parts that each fit into a batch, as far as one question does."""
    group = sorted(group, key=len, reverse=True)
    parts: list[list[Prompt]] = []
    start = 0
    while start < len(group):
        size = min(len(group) - start, budget.samples)
        while size > 1 and not _Draft([]).fits(group[start : start + size], budget):
            size = -(-size // 2)
        parts.append(group[start : start + size])
        start += size
    return parts


def _grouped(prompts: Sequence[Prompt], key: Callable[[Prompt], Hashable]) -> list[list[Prompt]]:
    groups: dict[Hashable, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(key(prompt), []).append(prompt)
    return list(groups.values())
