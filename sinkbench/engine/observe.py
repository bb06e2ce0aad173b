"""Prompts through a model for what an observing method sees of them; answers are a by-product."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.batching import observed_budget, plan_batches
from sinkbench.engine.context import Role, State
from sinkbench.engine.feeder import Ready, feed_batches
from sinkbench.engine.marks import mark_images
from sinkbench.engine.prefix import Prefixes, encode_images, prefill_prefixes, share_nothing
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.errors import SampleError
from sinkbench.methods.base import Intervention

NO_TOKEN = -1
"""Stands in `Observed.tokens` behind an answer's end."""

_NAME = "probe"


@dataclass(frozen=True, eq=False)
class Observed:
    """A batch after its last pass.

    Attributes:
        prompts: B prompts.
        roles: (B, K) uint8 role of each key slot: [prefix, padded behind][rest of the prompt, padded before][answer].
        state: What the probe kept, (B, …). A sample that ended early has zeros in the slots that only others reached.
        tokens: (B, T) int64, the generated tokens that went through the model; `NO_TOKEN` behind them.
    """

    prompts: Sequence[Prompt]
    roles: Tensor
    state: State
    tokens: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, K) bool: slots that hold a token."""
        return self.roles != Role.PAD

    def slots(self, sample: int) -> Tensor:
        """(n,) int64: the slots of a sample's n prompt tokens, in their order."""
        return self._is_prompt[sample].nonzero()[:, 0]

    def cut(self, values: Tensor, sample: int) -> Tensor:
        """A sample's values (…, n) by prompt token, from values (B, …, K) by key slot."""
        return values[sample].index_select(-1, self.slots(sample))

    @cached_property
    def _is_prompt(self) -> Tensor:
        return self.valid & (self.roles != Role.GENERATED)


@torch.inference_mode()
def observe(
    adapter: Adapter,
    probe: Intervention,
    prompts: Sequence[Prompt],
    *,
    new_tokens: int = 0,
    share: bool = True,
    batch_size: int | Literal["auto"] = "auto",
    pass_tokens: int | None = None,
) -> Iterator[Observed]:
    """Run prompts through a model and yield what the probe kept in `ctx.state`, batch by batch, longest first.

    Args:
        adapter: The model.
        probe: Looks at every pass. What it keeps has the batch first: the prefixes in passes over these, then the
            samples. Its edits, if it has any, take effect after the prefix.
        prompts: Encoded prompts.
        new_tokens: Most tokens of each answer that go through the model after the prompt, chosen greedily. A token that
            ends an answer is not one of them.
        share: Run a prefix that prompts share once. In a batch where none is shared each prompt is one pass. Without it
            each prompt's prefix is a pass of its own.
        batch_size: Most samples in a batch, or "auto" for what the free memory holds.
        pass_tokens: Most tokens in one pass over prompts; None is what the free memory holds (`observed_budget`).

    Raises:
        SampleError: An image cannot be read.
    """
    budget = observed_budget(adapter, batch_size)
    if pass_tokens is not None:
        budget = replace(budget, pass_tokens=pass_tokens)
    for ready in feed_batches(adapter, plan_batches(prompts, budget)):
        yield from _observe_batch(adapter, probe, ready, new_tokens, share, budget.pass_tokens)


def _observe_batch(
    adapter: Adapter, probe: Intervention, ready: Ready, new_tokens: int, share: bool, pass_tokens: int
) -> Iterator[Observed]:
    for request, response in ready.failures:
        raise SampleError(f"{request.id}: {response.error}")
    features = encode_images(adapter, ready.prompts, ready.inputs, pass_tokens)
    marks = {_NAME: mark_images(adapter, probe, ready.prompts, ready.inputs)}
    ends = () if ready.prompts[0].request.generation.ignore_eos else adapter.eos
    whole = probe.whole_prompt or (share and share_nothing(ready.prompts))
    step = max(1, pass_tokens // max(map(len, ready.prompts))) if whole else len(ready.prompts)
    for start in range(0, len(ready.prompts), step):
        prompts = ready.prompts[start : start + step]
        if whole:
            nothing = Prefixes.none([_NAME], adapter.device, marks)
            stream = Stream(adapter, probe, _NAME, prompts, nothing, new_tokens, features=features)
        else:
            prefixes = prefill_prefixes(
                adapter, {_NAME: probe}, prompts, features, share=share, pass_tokens=pass_tokens, image_marks=marks
            )
            stream = Stream(adapter, probe, _NAME, prompts, prefixes, new_tokens)
        tokens, parts = _decode(stream, stream.prefill(), new_tokens, ends)
        yield _joined(prompts, tokens, parts)


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples that ended together: their numbers (n,), roles (n, K') and state."""

    samples: Tensor
    roles: Tensor
    state: State

    @classmethod
    def of(cls, stream: Stream, samples: Tensor, rows: Tensor | slice) -> "_Part":
        """The rows of the batch in flight, whose samples have the numbers `samples`."""
        roles = stream.roles[:, : stream.n_prefix + stream.filled]
        return cls(samples[rows], roles[rows], State({name: values[rows] for name, values in stream.state.items()}))


def _decode(stream: Stream, scores: Tensor, new_tokens: int, ends: Sequence[int]) -> tuple[Tensor, list[_Part]]:
    """Greedy decode passes; a sample leaves the batch when its answer ends, with what was kept of it."""
    samples = torch.arange(stream.n, device=scores.device)
    tokens = torch.full((stream.n, new_tokens), NO_TOKEN, device=scores.device)
    stops = torch.tensor(ends, dtype=torch.int64, device=scores.device)
    parts: list[_Part] = []
    for step in range(new_tokens):
        chosen = scores.argmax(-1)
        ended = torch.isin(chosen, stops)
        if ended.any():
            parts.append(_Part.of(stream, samples, ended.nonzero()[:, 0]))
            kept = (~ended).nonzero()[:, 0]
            samples, chosen = samples[kept], chosen[kept]
            if not len(kept):
                return tokens, parts
            stream.keep(kept)
        tokens[samples, step] = chosen
        scores = stream.step(chosen)
    return tokens, [*parts, _Part.of(stream, samples, slice(0, stream.n))]


def _joined(prompts: Sequence[Prompt], tokens: Tensor, parts: Sequence[_Part]) -> Observed:
    """The parts as one batch in the order of the prompts."""
    if len(parts) == 1:
        return Observed(prompts, parts[0].roles, parts[0].state, tokens)
    order = torch.cat([part.samples for part in parts]).argsort()
    names = dict.fromkeys(name for part in parts for name in part.state)
    sizes = [len(part.samples) for part in parts]
    state = {name: _stacked([part.state.get(name) for part in parts], sizes)[order] for name in names}
    return Observed(prompts, _stacked([part.roles for part in parts], sizes)[order], State(state), tokens)


def _stacked(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    """Parts (n_i, …) below each other, filled up with zeros to the widest; None is zeros alone."""
    known = [part for part in parts if part is not None]
    shape = [max(lengths) for lengths in zip(*(part.shape[1:] for part in known), strict=True)]
    stacked = known[0].new_zeros(sum(sizes), *shape)
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        if part is not None:
            stacked[(slice(start, start + size), *(slice(length) for length in part.shape[1:]))] = part
        start += size
    return stacked
