"""The part of prompts that several questions have in common, prefilled once for all of them and for all methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.engine.attention import Pass, attached
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Context, Stage, State
from sinkbench.engine.marks import ImageMarks, all_marks
from sinkbench.engine.prompt import EditedImage, Prompt, Segment, flush
from sinkbench.methods.base import Intervention


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Prefilled prefixes: everything up to a prompt's last image token.

    Attributes:
        cache: Keys and values of G prefixes in P slots; None where no prompt has an image.
        roles: (G, P) uint8, PAD behind the shorter ones.
        states: What each method kept of its observations, (G, …).
        group_of: Prefix of each prompt, by the prompt's `id()`; -1 for none.
        image_marks: What each method marked in the prompts' images, by the method's name.
    """

    cache: SlotCache | None
    roles: Tensor
    states: Mapping[str, State]
    group_of: Mapping[int, int]
    image_marks: Mapping[str, ImageMarks]

    @classmethod
    def none(cls, methods: Iterable[str], device: torch.device, image_marks: Mapping[str, ImageMarks]) -> "Prefixes":
        """No prefixes: prompts have no images, or are run whole."""
        nothing = torch.zeros(1, 0, dtype=torch.uint8, device=device)
        return cls(None, nothing, {name: State() for name in methods}, {}, image_marks)

    def groups(self, prompts: Sequence[Prompt]) -> list[int]:
        """The prefix of each prompt, -1 for none."""
        return [self.group_of.get(id(prompt), -1) for prompt in prompts]

    def roles_of(self, groups: Sequence[int]) -> Tensor:
        """(B, P) uint8 roles of the prefix slots of samples that continue `groups`."""
        index = torch.tensor(groups, device=self.roles.device)
        return _rows(self.roles, index)

    def state_of(self, method: str, groups: Sequence[int]) -> State:
        """A method's state for samples that continue `groups`; zero where there is no prefix."""
        if list(groups) == list(range(len(self.roles))):
            # A prefix for every sample, in order: what was observed is not copied.
            return State(self.states[method])
        index = torch.tensor(groups, device=self.roles.device)
        return State({name: _rows(values, index) for name, values in self.states[method].items()})


def encode_images(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    inputs: Mapping[str, ImageInputs],
    pass_tokens: int,
    known: Mapping[str, ImageFeatures] | None = None,
) -> dict[str, ImageFeatures]:
    """Encode each distinct image of the prompts once.

    Args:
        adapter: The model.
        prompts: Prompts of a batch.
        inputs: Preprocessed images by `ImageRef.key`.
        pass_tokens: Most image tokens in one pass.
        known: Images that are encoded already.

    Returns:
        Features by `ImageRef.key`, the known ones included.
    """
    features = dict(known or {})
    keys = [key for key in dict.fromkeys(i.key for prompt in prompts for i in prompt.images) if key not in features]
    longest = max((len(inputs[key].roles) for key in keys), default=1)
    step = max(1, pass_tokens // longest)
    for at in range(0, len(keys), step):
        chunk = keys[at : at + step]
        features |= zip(chunk, adapter.encode_images([inputs[key] for key in chunk]), strict=True)
    return features


def share_nothing(prompts: Sequence[Prompt]) -> bool:
    """Whether every prompt is about images of its own, so that it may as well be one pass."""
    return all(prompt.images for prompt in prompts) and len({p.prefix_key for p in prompts}) == len(prompts)


def add_edited(
    method: Intervention, branches: Sequence[Prompt], inputs: Mapping[str, ImageInputs]
) -> dict[str, ImageInputs]:
    """Preprocessed images with those added that only the method's second branch sees."""
    known = dict(inputs)
    for image in (image for branch in branches for image in branch.images):
        if isinstance(image, EditedImage) and image.key not in known:
            before = inputs[image.original]
            known[image.key] = replace(before, tensors=method.edit_image(before.tensors, image.edit, image.original))
    return known


def prefill_prefixes(
    adapter: Adapter,
    methods: Mapping[str, Intervention],
    prompts: Sequence[Prompt],
    features: Mapping[str, ImageFeatures],
    *,
    edits: bool = False,
    share: bool = True,
    pass_tokens: int = 1 << 30,
    image_marks: Mapping[str, ImageMarks] | None = None,
) -> Prefixes:
    """Run each distinct prefix of the prompts once.

    Args:
        adapter: The model.
        methods: Bound methods by name; each may look.
        prompts: Prompts of a batch.
        features: Encoded images by `ImageRef.key`.
        edits: Whether what the (only) method returns is used.
        share: Run equal prefixes once; otherwise each prompt's own.
        pass_tokens: Most tokens in one pass.
        image_marks: What methods marked in the images, by their names.
    """
    image_marks = image_marks or {}
    marks = {name: all_marks(method, prompts, image_marks.get(name, {})) for name, method in methods.items()}
    distinct: dict[object, int] = {}
    owners: list[int] = []
    group_of: dict[int, int] = {}
    for number, prompt in enumerate(prompts):
        length = prompt.prefix_length
        if length == 0:
            continue
        own_marks = [
            values[:length].numpy().tobytes() for by_prompt in marks.values() for values in by_prompt[number].values()
        ]
        key = (prompt.prefix_key, *own_marks) if share else number
        if key not in distinct:
            distinct[key] = len(owners)
            owners.append(number)
        group_of[id(prompt)] = distinct[key]
    device = adapter.device
    if not owners:
        return Prefixes.none(methods, device, image_marks)

    longest = max(prompts[number].prefix_length for number in owners)
    cache = SlotCache(len(owners), longest)
    roles = torch.zeros(len(owners), longest, dtype=torch.uint8, device=device)
    states: dict[str, list[State]] = {name: [] for name in methods}
    step = max(1, pass_tokens // longest)
    for start in range(0, len(owners), step):
        chunk = owners[start : start + step]
        spans = [(0, prompts[number].prefix_length) for number in chunk]
        segment = Segment.stack([prompts[number] for number in chunk], spans, device, "left", longest)
        rows = slice(start, start + len(chunk))
        roles[rows] = segment.roles
        acting = []
        for name, method in methods.items():
            laid_out = {
                mark: flush([marks[name][number][mark] for number in chunk], spans, device, "left", longest)
                for mark in marks[name][chunk[0]]
            }
            states[name].append(State(laid_out))
            acting.append((method, _context(segment, states[name][-1])))
        cache.start_rows(rows)
        embeds, deepstack = embed(adapter, [prompts[number] for number in chunk], segment.ids, features)
        longest_position = max(prompts[number].next_position for number in chunk)
        active = Pass(tuple(acting), cache, edits=edits, longest=longest_position)
        with attached(adapter.language_model, adapter.layers, active):
            adapter.forward(embeds, segment.positions, cache, deepstack)
    kept = {name: State.cat(parts) for name, parts in states.items()}
    return Prefixes(cache, roles, kept, group_of, image_marks)


def _context(segment: Segment, state: State) -> Context:
    n = segment.ids.shape[1]
    return Context(Stage.PREFIX, segment.roles, n, state=state, padded=segment.padded, emits=False)


def embed(
    adapter: Adapter, prompts: Sequence[Prompt], ids: Tensor, features: Mapping[str, ImageFeatures]
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """What the language model reads of padded prompts.

    Args:
        adapter: The model.
        prompts: B prompts.
        ids: (B, P) int64, with all image tokens of the prompts.
        features: Encoded images by `ImageRef.key`.

    Returns:
        Token embeddings (B, P, d) with the images' features in their places; and, for families with features for
        deeper layers, the places (B, P) bool and these features (D, n, d).
    """
    places = ids == adapter.image_token
    embeds: Tensor = adapter.embed(ids.masked_fill(places, 0))
    if not any(prompt.images for prompt in prompts):
        return embeds, None
    images = [features[image.key] for prompt in prompts for image in prompt.images]
    embeds[places] = torch.cat([image.tokens for image in images]).to(embeds.dtype)
    deeper = [image.deepstack for image in images if image.deepstack is not None]
    return embeds, (places, torch.cat(deeper, dim=1)) if deeper else None


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values (G, …) by index (B,); zero where the index is negative."""
    chosen = values.index_select(0, index.clamp_min(0))
    return chosen.masked_fill(index.view(-1, *[1] * (chosen.ndim - 1)) < 0, 0)
