"""One batch on its way through the model under one method: suffix, then token by token."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures
from sinkbench.engine.attention import Pass, attached
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, ReadOut, Role, Stage, State
from sinkbench.engine.grouped import GroupedDecode, has_kernels
from sinkbench.engine.marks import ImageMarks, all_marks
from sinkbench.engine.prefix import Prefixes, embed
from sinkbench.engine.prompt import Prompt, Segment, flush
from sinkbench.engine.pruning import Pruning
from sinkbench.engine.rope import is_steady
from sinkbench.methods.base import Intervention
from sinkbench.request import Response


class Stream:
    """A batch of prompts with its KV cache, and the method that acts on it.

    If the method contrasts with a second branch, the branch's prompts are prefilled apart, equal ones once, and decoded
    as further samples of the same passes, out of the method's reach.

    Args:
        adapter: The model.
        method: The bound method.
        name: Under which the method observed the prefixes.
        prompts: B prompts.
        prefixes: Their prefilled prefixes.
        max_new_tokens: Room in the cache for the answer.
        static: Whether decode passes have fixed shapes and count on the device, as capturing them takes.
        branches: The prompts of the second branch, one for each of `prompts`, or none; None asks the method. Those
            about images must be among the prompts of `prefixes`.
        features: Encoded images by `ImageRef.key` where prompts are run whole: they have no prefixes then.
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
        branches: Sequence[Prompt] | None = None,
        features: Mapping[str, ImageFeatures] | None = None,
    ) -> None:
        self.adapter = adapter
        self.method = method
        self.static = static
        device = adapter.device
        branches = contrast_prompts(adapter, method, prompts) if branches is None else branches
        self.paired = method.paired_branch and len(branches) > 0
        if self.paired:
            prompts, branches = [*prompts, *branches], []
        self.n = len(prompts)
        self.prompts, self.features = list(prompts), features or {}
        groups = prefixes.groups(prompts)
        branch, self.fork = _distinct(branches, device)
        branch_groups = prefixes.groups(branch)
        starts = [prompt.prefix_length if group >= 0 else 0 for prompt, group in zip(prompts, groups, strict=True)]
        self.suffix = _flushed(prompts, starts, device)
        branch_starts = [
            other.prefix_length if group >= 0 else 0 for other, group in zip(branch, branch_groups, strict=True)
        ]
        self.branch = _flushed(branch, branch_starts, device) if branch else None
        self.branch_prefix = any(group >= 0 for group in branch_groups)
        self.marks = self._lay_out_marks(prompts, starts, prefixes.image_marks.get(name, {}))
        self.state: State = prefixes.state_of(name, groups) if prefixes.cache is not None else State()
        next_positions = [prompt.next_position for prompt in (*prompts, *branch)]
        self.next_positions = torch.tensor(next_positions, device=device)
        self.longest = max(next_positions) + max_new_tokens
        self.untouched = torch.arange(self.n + len(branch), device=device) >= self.n if branch else None
        self.filled = max(segment.ids.shape[1] for segment in (self.suffix, self.branch) if segment)
        self.first_own = self.filled
        capacity = self.filled + max_new_tokens
        all_groups = [*groups, *branch_groups]
        self.cache = SlotCache(len(all_groups), capacity, prefixes.cache, all_groups)
        prefix_roles = prefixes.roles_of(all_groups)
        self.n_prefix = prefix_roles.shape[1]
        self.roles = torch.nn.functional.pad(prefix_roles, (0, capacity))
        self.padded = self.suffix.padded or bool((prefix_roles[: self.n] == Role.PAD).any())
        self.step_number = 0
        self.read_out = ReadOut(adapter.language_model.norm, adapter.logits)
        self.context: Context
        self.decode: GroupedDecode | None = None
        self.pruning = Pruning(adapter, method, self.cache, max_new_tokens) if method.prunes_at else None

    def prefill(self) -> Tensor:
        """Run the suffixes; returns the edited next-token scores (B, V) float32."""
        length = self.suffix.ids.shape[1]
        # Both branches end at the same slot, so that decode passes can go on with them together.
        offset = self.filled - length
        self.cache.start_rows(slice(0, self.n), offset)
        cuts = (0, length - 1, length) if self.method.last_token_alone and length > 1 else (0, length)
        shown = self.prompts if self.features else []
        all_embeds, deepstack = embed(self.adapter, shown, self.suffix.ids, self.features)
        for start, end in pairwise(cuts):
            slots = slice(self.n_prefix + offset + start, self.n_prefix + offset + end)
            self.roles[: self.n, slots] = self.suffix.roles[:, start:end]
            self._extend_marks(start, end, offset)
            self.context = Context(
                stage=Stage.SUFFIX,
                roles=self.roles[: self.n, : slots.stop],
                n_queries=end - start,
                state=self.state,
                padded=self.padded or offset > 0,
                emits=end == length,
                paired=self.paired,
                read_out=self.read_out,
            )
            positions = self.suffix.positions[:, :, start:end]
            # No prompt ends with an image: all features lie in the first part.
            deeper = (deepstack[0][:, start:end], deepstack[1]) if deepstack and start == 0 else None
            hidden = self._forward(all_embeds[:, start:end], positions, self.method, self.context, deeper)
        if self.paired:
            hidden = hidden[: self.n // 2]
            self._part()
        logits = self.adapter.logits(hidden[:, -1])
        if self.branch is None:
            return self.method.edit_logits(logits, self.context)
        ctx = replace(self.context, contrast_logits=self._prefill_branch(self.branch))
        return self.method.edit_logits(logits, ctx)

    def _part(self) -> None:
        """Go on without the branches that ran beside the samples."""
        half = self.n // 2
        self._select(torch.arange(half, device=self.adapter.device), half)
        roles = self.context.roles[:half]
        self.context = replace(self.context, roles=roles, state=self.state, paired=False)

    def _prefill_branch(self, branch: Segment) -> Tensor:
        """Run the second branch's prompts without the method; returns each sample's logits (B, V) float32."""
        offset = self.filled - branch.ids.shape[1]
        self.cache.start_rows(slice(self.n, self.cache.samples), offset, self.branch_prefix)
        self.roles[self.n :, self.n_prefix + offset : self.n_prefix + self.filled] = branch.roles
        first = 0 if self.branch_prefix else self.n_prefix
        roles = self.roles[self.n :, first : self.n_prefix + self.filled]
        padded = branch.padded or offset > 0 or self.branch_prefix
        ctx = Context(Stage.SUFFIX, roles, branch.ids.shape[1], padded=padded)
        hidden = self._forward(self.adapter.embed(branch.ids), branch.positions, Intervention(), ctx)
        self.cache.start_rows(slice(0, self.cache.samples), self.filled)
        blank = len(branch.ids)
        self.state = State({name: _with_blank(values, blank) for name, values in self.state.items()})
        logits = self.adapter.logits(hidden[:, -1])
        return logits if self.fork is None else logits[self.fork[self.n :] - self.n]

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
        self._fork_branch()
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
        if self.pruning is not None:
            self.pruning.mark_generated(self.slot if self.static else self.filled - 1)
        self.context = Context(
            stage=Stage.DECODE,
            roles=roles,
            n_queries=1,
            step=self.step_number,
            state=self.state,
            padded=self.padded or self.static or self.branch is not None,
            untouched=self.untouched,
            read_out=self.read_out,
        )
        axes = self.suffix.positions.shape[0]
        positions = (self.next_positions + ago)[None, :, None].expand(axes, -1, 1)
        embeds = self.adapter.embed(self.tokens[:, None])
        hidden = self._forward(embeds, positions, self.method, self.context)
        if self.static:
            self.slot += 1
        return self.adapter.logits(hidden[:, -1])

    def end_step(self, logits: Tensor) -> Tensor:
        """The method's last word on the next token: edited scores (B, V) from what `run_step` returned."""
        ctx = self.context
        ctx.step = self.step_number  # A replayed pass keeps the one that it was captured with.
        if self.untouched is not None:
            kept = State({name: values[: self.n] for name, values in ctx.state.items()})
            ctx = replace(ctx, roles=ctx.roles[: self.n], state=kept, untouched=None, contrast_logits=logits[self.n :])
        return self.method.edit_logits(logits[: self.n], ctx)

    def make_room(self, slots: int) -> None:
        """Let so many more tokens follow, where nobody knew beforehand how many; not in passes of fixed shapes."""
        self.cache.grow(slots)
        self.roles = torch.nn.functional.pad(self.roles, (0, slots))
        self.longest += slots

    def counted(self, responses: Sequence[Response]) -> list[Response]:
        """The responses to the prompts, in their order, with how many image tokens each layer had."""
        if self.pruning is None:
            return list(responses)
        by_layer = map(tuple, self.pruning.tokens_by_layer().tolist())
        return [
            replace(response, tokens_by_layer=tokens, visual_tokens_kept=tokens[-1])
            for response, tokens in zip(responses, by_layer, strict=True)
        ]

    def rate(self) -> tuple[Tensor, Tensor]:
        """What the method says of the tokens of the last step: (B,) costs and (B,) int64 trusted tokens."""
        costs, trusted = self.method.rate_tokens(self.context)
        return costs[: self.n], trusted[: self.n]

    def keep(self, index: Tensor) -> None:
        """Go on with the samples `index` (N,) only; an index may repeat."""
        self._fork_branch()
        self._select(self._with_branch(index), len(index))

    def reorder(self, index: Tensor) -> None:
        """Let each sample go on as another one of the same prompt: `keep` for `index` (B,) where no prompt moves.

        Only what was generated is copied.
        """
        self._fork_branch()
        rows = self._with_branch(index)
        self.cache.reorder(rows, slice(self.first_own, self.filled))
        self.state = self.state.select(rows)

    def _with_branch(self, index: Tensor) -> Tensor:
        """The samples and their branches."""
        return index if self.untouched is None else torch.cat((index, index + self.n))

    def _select(self, index: Tensor, n: int) -> None:
        """Keep the samples and branch samples `index`, of which the first n are samples."""
        self.cache.select(index)
        self.next_positions = self.next_positions[index]
        self.roles = self.roles[index]
        self.state = self.state.select(index)
        self.n = n
        if self.pruning is not None:
            self.pruning.select(index)
        if self.untouched is not None:
            self.untouched = self.untouched[index]
        if self.decode is not None:
            self._start_static(self.filled)

    def _fork_branch(self) -> None:
        """Before the first decode pass, give every sample a branch of its own where equal ones were prefilled once."""
        if self.fork is not None:
            index, self.fork = self.fork, None
            self._select(index, self.n)

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
        if self.pruning is not None:
            self.pruning.start_static(slot, self.state)

    def _lay_out_marks(self, prompts: Sequence[Prompt], starts: Sequence[int], images: ImageMarks) -> dict[str, Tensor]:
        """The method's marks (B, S) of the suffixes."""
        marks = all_marks(self.method, prompts, images)
        spans = [(start, len(prompt)) for start, prompt in zip(starts, prompts, strict=True)]
        device = self.adapter.device
        return {name: flush([own[name] for own in marks], spans, device, "right") for name in marks[0]}

    def _extend_marks(self, start: int, end: int, offset: int) -> None:
        """Let the method's state hold its marks of all slots up to suffix token `end`."""
        for name, values in self.marks.items():
            known = self.state.get(name, values[:, :0])
            skipped = offset if start == 0 else 0
            self.state[name] = torch.cat((torch.nn.functional.pad(known, (0, skipped)), values[:, start:end]), dim=1)

    def _forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        method: Intervention,
        ctx: Context,
        deepstack: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        adapter = self.adapter
        kernels = self.decode if has_kernels(embeds) else None
        active = Pass(((method, ctx),), self.cache, decode=kernels, longest=self.longest)
        with self._shortening(active, positions), attached(adapter.language_model, adapter.layers, active):
            return adapter.forward(embeds, positions, self.cache, deepstack)

    def _shortening(self, active: Pass, positions: Tensor) -> AbstractContextManager[None]:
        """Within it, layers see the tokens that the method has left there."""
        if self.pruning is None:
            return nullcontext()
        decodes = active.context.stage is Stage.DECODE
        return self.pruning.going_on(active, positions) if decodes else self.pruning.dropping(active, positions)


def contrast_prompts(adapter: Adapter, method: Intervention, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of the method's second branch, one for each prompt; none where it has no branch.

    Raises:
        RuntimeError: The method gives a branch to some prompts only.
        SampleError: What it asks in the second branch cannot be encoded.
    """
    branches = [other for prompt in prompts if (other := _contrast(adapter, method, prompt)) is not None]
    if 0 < len(branches) < len(prompts):
        raise RuntimeError(f"{type(method).__name__}.contrast must give every prompt a branch, or none")
    return branches


def _contrast(adapter: Adapter, method: Intervention, prompt: Prompt) -> Prompt | None:
    if (other := method.contrast(prompt)) is not None:
        return other
    asked = method.contrast_request(prompt.request)
    return None if asked is None else adapter.encode(asked)


def _distinct(branches: Sequence[Prompt], device: torch.device) -> tuple[list[Prompt], Tensor | None]:
    """The distinct prompts among B branches.

    Returns:
        The prompts; and, where samples share one, the rows (2B,) of samples and branches from which each sample and its
        branch come.
    """
    keys = [(other.ids.numpy().tobytes(), *(image.key for image in other.images)) for other in branches]
    unique = dict(zip(keys, branches, strict=True))
    if len(unique) == len(branches):
        return list(branches), None
    place = {key: len(branches) + number for number, key in enumerate(unique)}
    rows = [*range(len(branches)), *(place[key] for key in keys)]
    return list(unique.values()), torch.tensor(rows, device=device)


def _flushed(prompts: Sequence[Prompt], starts: Sequence[int], device: torch.device) -> Segment:
    """The prompts from `starts` on, the last tokens below each other."""
    spans = [(start, len(prompt)) for start, prompt in zip(starts, prompts, strict=True)]
    return Segment.stack(prompts, spans, device, "right")


def _with_blank(values: Tensor, rows: int) -> Tensor:
    """Values (B, …) with rows of zeros below."""
    return torch.cat((values, values.new_zeros(rows, *values.shape[1:])))
