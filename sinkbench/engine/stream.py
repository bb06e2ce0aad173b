"""One batch on its way through the model: prefix, suffix, then token by token."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.attention import attached
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, Role, Stage, State
from sinkbench.engine.prompt import Prompt, Segment, flush_right
from sinkbench.methods.base import Intervention


class Stream:
    """A batch of prompts with its KV cache, and the method that acts on it.

    Prompts with the same prefix (system prompt and images) share one prefill of it.

    Args:
        adapter: The model.
        method: The bound method.
        prompts: B prompts.
        features: (N, d) of each image by `ImageRef.key`.
        max_new_tokens: Room in the cache for the answer.
        share_prefix: Prefill equal prefixes once.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Intervention,
        prompts: Sequence[Prompt],
        features: Mapping[str, Tensor],
        max_new_tokens: int,
        share_prefix: bool = True,
    ) -> None:
        self.adapter = adapter
        self.method = method
        self.prompts = prompts
        self.features = features
        self.max_new_tokens = max_new_tokens
        self.share_prefix = share_prefix
        self.marks = [method.token_marks(prompt) for prompt in prompts]
        self.next_positions = torch.tensor([p.next_position for p in prompts], device=adapter.device)
        self.context: Context
        self.cache: SlotCache

    def prefill(self) -> Tensor:
        """Run the prompts; returns the next-token logits (B, V) float32."""
        device = self.adapter.device
        spans = [(prompt.prefix_length, len(prompt)) for prompt in self.prompts]
        suffix = Segment.stack(self.prompts, spans, device)
        total = max(start for start, _ in spans) + suffix.ids.shape[1] + self.max_new_tokens
        roles, padded, state = self._prefill_prefixes(total)
        marks = self._lay_out_marks(range(len(spans)), spans)
        length = suffix.ids.shape[1]
        cuts = (0, length - 1, length) if self.method.last_token_alone and length > 1 else (0, length)
        for start, end in pairwise(cuts):
            roles = torch.cat((roles, suffix.roles[:, start:end]), dim=1)
            for name, values in marks.items():
                part = values[:, start:end]
                state[name] = torch.cat((state[name], part), dim=1) if name in state else part
            self.context = Context(
                stage=Stage.SUFFIX,
                roles=roles,
                n_queries=end - start,
                state=state,
                padded=padded or suffix.padded,
                emits=end == length,
            )
            hidden = self._forward(self.adapter.embed(suffix.ids[:, start:end]), suffix.positions[:, :, start:end])
        return self.adapter.logits(hidden[:, -1])

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) int64 to each sample; returns the next-token logits (B, V) float32."""
        before = self.context
        generated = before.roles.new_full((len(tokens), 1), int(Role.GENERATED))
        self.context = Context(
            stage=Stage.DECODE,
            roles=torch.cat((before.roles, generated), dim=1),
            n_queries=1,
            step=before.step + 1,
            state=before.state,
            padded=before.padded,
        )
        axes = self.prompts[0].positions.shape[0]
        positions = (self.next_positions + before.step)[None, :, None].expand(axes, -1, 1)
        hidden = self._forward(self.adapter.embed(tokens[:, None]), positions)
        return self.adapter.logits(hidden[:, -1])

    def keep(self, index: Tensor) -> None:
        """Go on with the samples `index` (N,) only."""
        self.cache = self.cache.select(index)
        self.next_positions = self.next_positions[index]
        before = self.context
        self.context = Context(
            stage=before.stage,
            roles=before.roles[index],
            n_queries=before.n_queries,
            step=before.step,
            state=before.state.select(index),
            padded=before.padded,
        )

    def _prefill_prefixes(self, total: int) -> tuple[Tensor, bool, State]:
        """Run each distinct prefix once; leaves a cache of `total` slots a sample.

        Returns:
            Roles (B, P) of the prefixes, whether they are padded, and the method's state (B, …).
        """
        device = self.adapter.device
        distinct: dict[object, int] = {}
        first: list[int] = []
        index = []
        for number, prompt in enumerate(self.prompts):
            marks = (values[: prompt.prefix_length].numpy().tobytes() for values in self.marks[number].values())
            key = (prompt.prefix_key, *marks) if self.share_prefix else number
            if key not in distinct:
                distinct[key] = len(first)
                first.append(number)
            index.append(distinct[key])
        owners = [self.prompts[number] for number in first]
        spans = [(0, prompt.prefix_length) for prompt in owners]
        shared = len(owners) < len(self.prompts)
        longest = max(end for _, end in spans)
        self.cache = SlotCache(longest if shared and longest else total)
        if longest == 0:
            return torch.empty(len(self.prompts), 0, dtype=torch.uint8, device=device), False, State()
        prefix = Segment.stack(owners, spans, device)
        state = State(self._lay_out_marks(first, spans))
        self.context = Context(Stage.PREFIX, prefix.roles, longest, state=state, padded=prefix.padded, emits=False)
        self._forward(self._embed_prefixes(owners, prefix.ids), prefix.positions)
        roles = prefix.roles
        if shared:
            rows = torch.tensor(index, device=device)
            self.cache = self.cache.select(rows, capacity=total)
            roles, state = roles[rows], state.select(rows)
        return roles, prefix.padded, state

    def _lay_out_marks(self, samples: Sequence[int], spans: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The method's marks (N, S) of the tokens [start, end) of each of N samples."""
        return {
            name: flush_right([self.marks[sample][name] for sample in samples], spans, self.adapter.device)
            for name in self.marks[0]
        }

    def _embed_prefixes(self, prompts: Sequence[Prompt], ids: Tensor) -> Tensor:
        """Token embeddings with the images' features in their places: (B, P, d)."""
        places = ids == self.adapter.image_token
        embeds: Tensor = self.adapter.embed(ids.masked_fill(places, 0))
        features = torch.cat([self.features[image.key] for prompt in prompts for image in prompt.images])
        embeds[places] = features.to(embeds.dtype)
        return embeds

    def _forward(self, embeds: Tensor, positions: Tensor) -> Tensor:
        adapter = self.adapter
        with attached(adapter.language_model, adapter.layers, self.context, self.method):
            return adapter.forward(embeds, positions, self.cache)
