"""One batch on its way through the model under one method: suffix, then token by token."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter
from sinkbench.engine.attention import Pass, attached
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, Role, Stage, State
from sinkbench.engine.grouped import GroupedDecode
from sinkbench.engine.prefix import Prefixes
from sinkbench.engine.prompt import Prompt, Segment, flush_right
from sinkbench.engine.rope import is_steady
from sinkbench.methods.base import Intervention


class Stream:
    """A batch of prompts with its KV cache, and the method that acts on it.

    If the method contrasts with a second branch, the branch's prompts run as further samples of the same passes, out of
    the method's reach. Equal branch prompts are prefilled once.

    Args:
        adapter: The model.
        method: The bound method.
        name: Under which the method observed the prefixes.
        prompts: B prompts.
        prefixes: Their prefilled prefixes.
        max_new_tokens: Room in the cache for the answer.
        static: Whether decode passes have fixed shapes and count on the device, as capturing them takes.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Intervention,
        name: str,
        prompts: Sequence[Prompt],
        prefixes: Prefixes,
        max_new_tokens: int,
        static: bool = False,
    ) -> None:
        self.adapter = adapter
        self.method = method
        self.static = static
        self.n = len(prompts)
        branch = [other for prompt in prompts if (other := method.contrast(prompt)) is not None]
        if 0 < len(branch) < self.n:
            raise RuntimeError(f"{type(method).__name__}.contrast must give every prompt a branch, or none")
        unique = {other.ids.numpy().tobytes(): other for other in branch}
        order = list(unique)
        self.branch_of = [order.index(other.ids.numpy().tobytes()) for other in branch]
        self.prompts = [*prompts, *unique.values()]
        groups = prefixes.groups(self.prompts)
        spans = [
            (prompt.prefix_length if group >= 0 else 0, len(prompt))
            for prompt, group in zip(self.prompts, groups, strict=True)
        ]
        device = adapter.device
        self.suffix = Segment.stack(self.prompts, spans, device, flush_right)
        self.marks = self._lay_out_marks(spans)
        self.state: State = prefixes.state_of(name, groups) if prefixes.cache is not None else State()
        next_positions = [p.next_position for p in self.prompts]
        self.next_positions = torch.tensor(next_positions, device=device)
        self.longest = max(next_positions) + max_new_tokens
        self.untouched = torch.arange(len(self.prompts), device=device) >= self.n if branch else None
        capacity = self.suffix.ids.shape[1] + max_new_tokens
        self.cache = SlotCache(len(self.prompts), capacity, prefixes.cache, groups)
        prefix_roles = prefixes.roles_of(groups)
        self.n_prefix = prefix_roles.shape[1]
        self.roles = torch.nn.functional.pad(prefix_roles, (0, capacity))
        self.padded = self.suffix.padded or bool((prefix_roles == Role.PAD).any())
        self.step_number = 0
        self.filled = 0
        self.context: Context
        self.decode: GroupedDecode | None = None

    def prefill(self) -> Tensor:
        """Run the suffixes; returns the edited next-token scores (B, V) float32."""
        length = self.suffix.ids.shape[1]
        cuts = (0, length - 1, length) if self.method.last_token_alone and length > 1 else (0, length)
        for start, end in pairwise(cuts):
            self.roles[:, self.n_prefix + start : self.n_prefix + end] = self.suffix.roles[:, start:end]
            for name, values in self.marks.items():
                part = values[:, start:end]
                self.state[name] = torch.cat((self.state[name], part), dim=1) if name in self.state else part
            self.context = Context(
                stage=Stage.SUFFIX,
                roles=self.roles[:, : self.n_prefix + end],
                n_queries=end - start,
                state=self.state,
                padded=self.padded,
                emits=end == length,
                untouched=self.untouched,
            )
            embeds = self.adapter.embed(self.suffix.ids[:, start:end])
            hidden = self._forward(embeds, self.suffix.positions[:, :, start:end])
        self.filled = length
        logits = self.adapter.logits(hidden[:, -1])
        if len(set(self.branch_of)) < len(self.branch_of):
            logits = self._fork_branch(logits)
        return self._scores(logits)

    @property
    def capturable(self) -> bool:
        """Whether decode passes may be captured and replayed."""
        return self.static and self.method.capturable and is_steady(self.adapter.language_model, self.longest)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token (B,) int64 to each sample; returns the edited next-token scores (B, V) float32."""
        self.begin_step(tokens)
        return self.end_step(self.run_step())

    def begin_step(self, tokens: Tensor) -> None:
        """Take in the tokens, and count; all that a captured pass leaves to the host."""
        self.step_number += 1
        self.filled += 1
        if not self.static:
            self.tokens = tokens.repeat(len(self.next_positions) // self.n)
            return
        if self.decode is None:
            self.first_slot = self.filled - 1
            self._start_static(self.first_slot)
        self.tokens.view(-1, self.n)[:] = tokens

    def run_step(self) -> Tensor:
        """The decode pass; returns the next-token logits of all samples, the second branch's included."""
        if self.static:
            # What the device counts is one behind: it moves on within the pass, also when that is replayed.
            self.roles.index_fill_(1, self.n_prefix + self.slot, int(Role.GENERATED))
            self.length += 1
            roles = self.roles
            ago: Tensor | int = self.slot - self.first_slot
        else:
            self.roles[:, self.n_prefix + self.filled - 1] = int(Role.GENERATED)
            roles = self.roles[:, : self.n_prefix + self.filled]
            ago = self.step_number - 1
        self.context = Context(
            stage=Stage.DECODE,
            roles=roles,
            n_queries=1,
            step=self.step_number,
            state=self.state,
            padded=self.padded or self.static,
            untouched=self.untouched,
        )
        axes = self.suffix.positions.shape[0]
        positions = (self.next_positions + ago)[None, :, None].expand(axes, -1, 1)
        hidden = self._forward(self.adapter.embed(self.tokens[:, None]), positions)
        if self.static:
            self.slot += 1
        return self.adapter.logits(hidden[:, -1])

    def end_step(self, logits: Tensor) -> Tensor:
        """The method's last word on the next token: edited scores (B, V) from what `run_step` returned."""
        return self._scores(logits)

    def keep(self, index: Tensor) -> None:
        """Go on with the samples `index` (N,) only."""
        branch = [index + self.n] if self.branch_of else []
        self._select(torch.cat((index, *branch)), len(index))

    def _select(self, index: Tensor, n: int) -> None:
        """Keep the samples and branch samples `index`, of which the first n are samples."""
        self.cache.select(index)
        self.next_positions = self.next_positions[index]
        self.roles = self.roles[index]
        self.state = self.state.select(index)
        self.n = n
        if self.untouched is not None:
            self.untouched = self.untouched[index]
        if self.decode is not None:
            self._start_static(self.filled)

    def _fork_branch(self, logits: Tensor) -> Tensor:
        """Give every sample a branch of its own where equal ones were prefilled once."""
        device = self.adapter.device
        index = torch.tensor([*range(self.n), *(self.n + number for number in self.branch_of)], device=device)
        self._select(index, self.n)
        return logits[index]

    def _start_static(self, slot: int) -> None:
        """Let decode passes count on the device; the next one fills `slot`."""
        device = self.adapter.device
        self.slot = torch.tensor([slot], device=device)
        self.length = torch.tensor([slot], dtype=torch.int32, device=device)
        self.tokens = torch.zeros(len(self.next_positions), dtype=torch.int64, device=device)
        self.cache.cursor = self.slot
        final = self.roles.clone()
        final[:, self.n_prefix + slot :] = int(Role.GENERATED)
        context = Context(Stage.DECODE, final, 1, state=self.state, untouched=self.untouched)
        self.decode = GroupedDecode(self.method, context, self.length)

    def _scores(self, logits: Tensor) -> Tensor:
        ctx = self.context
        if self.branch_of:
            kept = State({name: values[: self.n] for name, values in ctx.state.items()})
            ctx = replace(ctx, roles=ctx.roles[: self.n], state=kept, untouched=None, contrast_logits=logits[self.n :])
        return self.method.edit_logits(logits[: self.n], ctx)

    def _lay_out_marks(self, spans: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The method's marks (B, S) of the suffixes; none on the second branch."""
        marks = [self.method.token_marks(prompt) for prompt in self.prompts[: self.n]]
        blank = self.prompts[self.n :]
        return {
            name: flush_right(
                [*(own[name] for own in marks), *(marks[0][name].new_zeros(len(prompt)) for prompt in blank)],
                spans,
                self.adapter.device,
            )
            for name in marks[0]
        }

    def _forward(self, embeds: Tensor, positions: Tensor) -> Tensor:
        adapter = self.adapter
        kernels = self.decode if embeds.is_cuda else None
        active = Pass(((self.method, self.context),), self.cache, decode=kernels, longest=self.longest)
        with attached(adapter.language_model, adapter.layers, active):
            return adapter.forward(embeds, positions, self.cache)
