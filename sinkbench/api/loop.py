"""A method inside transformers' own loop: `model(...)` and `model.generate(...)` of a model that somebody else holds.

Transformers keeps what it does best: images are encoded, prompts put together, positions counted, tokens chosen. Only
the decoder stack is another one for the time being: what is to be read goes through the engine's `Stream`, in its
passes (prefix, suffix, decode) and with its cache.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from sinkbench.adapters.base import Adapter, ImageFeatures
from sinkbench.adapters.transcript import Transcript
from sinkbench.engine.cache import SlotCache
from sinkbench.engine.context import Role, Stage
from sinkbench.engine.prefix import Prefixes, prefill_prefixes
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.errors import SampleError, UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import ImageRef, Message, Request

_ROOM = 64
"""Generated tokens for which a cache has room at first; it doubles when it is full."""

_OTHERWISE = "Take attached.generate(prompts, images), or sinkbench.evaluate, which answer in sinkbench's own loop."


class AnswerCache(Cache):
    """Stands for the answers under way where transformers expects keys and values.

    Args:
        stream: The batch.
        length: Tokens of each row so far, padding included.
    """

    def __init__(self, stream: Stream, length: int) -> None:
        self.stream = stream
        self.length = length
        self.layers: list[Any] = []  # transformers looks here for layers of its own.

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Tokens of each row so far."""
        return self.length

    def get_mask_sizes(self, query_length: int, *_: Any, **__: Any) -> tuple[int, int]:
        """Key length of the coming pass and its offset; transformers asks before it writes."""
        return self.length + query_length, 0

    def get_max_cache_shape(self, *_: Any, **__: Any) -> int:
        """No bound."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on as another one of the same prompt, as a beam search wants it."""
        self.stream.reorder(beam_idx.to(self.stream.adapter.device))

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Refuses: the model that fills this cache is no longer attached."""
        raise UsageError(
            "a cache that was filled under sinkbench.attach is read by the plain model",
            "Go on inside the `with` block, or give the model the whole prompt again.",
        )

    def crop(self, *_: Any) -> None:
        """Refuses: nothing can be taken back."""
        raise _unsupported("taking tokens back (assisted and prompt-lookup decoding)")

    def batch_repeat_interleave(self, *_: Any) -> None:
        """Refuses."""
        raise _unsupported("repeating the rows of a cache")

    def batch_select_indices(self, *_: Any) -> None:
        """Refuses."""
        raise _unsupported("choosing rows of a cache (contrastive search)")


@dataclass(frozen=True, eq=False)
class _Call:
    """What the caller gave the model.

    Attributes:
        ids: (B, Q) int64.
        valid: (B, K) bool on the CPU, false at padding; None where the caller gave no mask.
    """

    ids: Tensor
    valid: Tensor | None


class Loop:
    """Transformers' loop with a method in it.

    Args:
        adapter: The model.
        method: The method.
        bound: The same, bound to the model.
    """

    def __init__(self, adapter: Adapter, method: Method, bound: Intervention) -> None:
        self._adapter = adapter
        self._name = method.name
        self._edits_prefix = bool(method.edits & Stage.PREFIX)
        self._bound = bound
        self._transcript = Transcript(adapter)
        self._parameters = list(inspect.signature(adapter.model.forward).parameters)
        self._plain: Any = adapter.language_model.forward
        self._call: _Call | None = None
        self._scores: Tensor | None = None
        self._seen: list[Tensor] | None = None
        self._answers: WeakKeyDictionary[Cache, AnswerCache] = WeakKeyDictionary()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it, the model runs with the method."""
        model, stack = self._adapter.model, self._adapter.language_model
        before = vars(stack).get("forward")
        hooks = [
            model.register_forward_pre_hook(self._take, with_kwargs=True),
            model.register_forward_hook(self._give, with_kwargs=True, always_call=True),
        ]
        stack.forward = self._run
        try:
            yield
        finally:
            if before is None:
                del stack.forward
            else:
                stack.forward = before
            for hook in hooks:
                hook.remove()

    def _take(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See what the model is given, before its images are encoded."""
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        _check(given)
        mask = given.get("attention_mask")
        self._call = _Call(given["input_ids"], None if mask is None else mask.bool().cpu())

    def _give(self, _module: Any, _args: Any, _kwargs: Any, output: Any) -> Any:
        """Put the method's last word on the next token in the place of the last row's logits."""
        scores, self._scores, self._call = self._scores, None, None
        if scores is None or output is None:  # It failed.
            return None
        logits = output.logits.float()
        logits[:, -1] = scores
        output.logits = logits
        return output

    def _run(self, **given: Any) -> Any:
        """Stands for the decoder stack's `forward`."""
        cache = given.get("past_key_values")
        if isinstance(cache, SlotCache):  # The engine's own passes.
            output = self._plain(**given)
            if self._seen is not None:
                self._seen.append(output.last_hidden_state)
            return output
        call, self._call = self._call, None
        if call is None:
            raise UsageError(
                f"the inside of an attached {type(self._adapter.model).__name__} was called by itself",
                "Call the model itself, model(**inputs) or model.generate(**inputs), or leave the `with` block first.",
            )
        answer = cache if isinstance(cache, AnswerCache) else self._answers.get(cache) if cache is not None else None
        with torch.no_grad():
            if answer is None:
                hidden, answer = self._begin(call, given)
                if cache is not None:
                    self._answers[cache] = answer
            else:
                hidden = self._go_on(call, answer)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=answer)

    def _begin(self, call: _Call, given: Mapping[str, Any]) -> tuple[Tensor, AnswerCache]:
        """Read prompts: the hidden states (B, L, d), zero at padding, and what stands for the answers."""
        batch, length = call.ids.shape
        cache = given.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            raise UsageError(
                "past_key_values were filled outside this `with` block",
                "Give the model the whole prompt, without them.",
            )
        valid = torch.ones(batch, length, dtype=torch.bool) if call.valid is None else call.valid
        if valid.shape != call.ids.shape or not valid[:, -1].all() or (valid[:, :-1] & ~valid[:, 1:]).any():
            raise UsageError(
                f"an attention_mask of shape {tuple(valid.shape)} does not say that input_ids of shape "
                f"{(batch, length)} are padded on the left",
                'Set processor.tokenizer.padding_side = "left" and pass the attention_mask that the processor returns.',
            )
        prompts = self._prompts(call, valid, given)
        features = self._features(prompts, valid, given)
        whole = self._bound.whole_prompt
        with self._watched() as seen:
            if whole:
                prefixes = Prefixes.none([self._name], self._adapter.device, {})
            else:
                prefixes = prefill_prefixes(
                    self._adapter,
                    {self._name: self._bound},
                    prompts,
                    features,
                    edits=self._edits_prefix,
                    share=False,
                )
            stream = Stream(
                self._adapter, self._bound, self._name, prompts, prefixes, _ROOM, features=features if whole else None
            )
            self._scores = stream.prefill()
        return _spread(seen, stream, prefixes, prompts, valid), AnswerCache(stream, length)

    def _go_on(self, call: _Call, answer: AnswerCache) -> Tensor:
        """Read one more token of each row: the hidden states (B, 1, d)."""
        stream = answer.stream
        if stream.method is not self._bound:
            raise UsageError(
                "past_key_values were filled under another `with` block", "Give the model the whole prompt again."
            )
        expected = (stream.n, 1)
        if call.ids.shape != expected:
            raise UsageError(
                f"input_ids of shape {tuple(call.ids.shape)} continue {stream.n} answers under way; one token of each "
                "is expected",
                "Start a new turn with the whole conversation and no past_key_values; leave out prefill_chunk_size.",
            )
        if call.valid is not None and call.valid.shape != (stream.n, answer.length + 1):
            raise UsageError(
                f"attention_mask has the shape {tuple(call.valid.shape)}, and {answer.length} tokens were read before",
                "Append a 1 to each row of it for every token, as generate does, or leave it out.",
            )
        if stream.filled == stream.cache.capacity:
            stream.make_room(stream.cache.capacity)
        with self._watched() as seen:
            self._scores = stream.step(call.ids[:, 0])
        answer.length += 1
        return seen[-1][: stream.n]

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Within it, the list receives the hidden states of every pass of the decoder stack."""
        seen: list[Tensor] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    def _prompts(self, call: _Call, valid: Tensor, given: Mapping[str, Any]) -> list[Prompt]:
        """The rows without their padding, with what each token is for."""
        adapter, prompts = self._adapter, []
        positions = self._positions(valid, given.get("position_ids"))
        for row, ids in enumerate(call.ids.cpu()):
            own = ids[valid[row]]
            places = own == adapter.image_token
            try:
                read = self._transcript.read(own.tolist())
            except SampleError as error:
                raise UsageError(
                    f"row {row} of input_ids: {error}",
                    "Make prompts with processor.apply_chat_template(messages, add_generation_prompt=True). "
                    + _OTHERWISE,
                ) from error
            if adapter.separator is not None and places.any():
                # How many rows an image has is not said by its tokens; what stands in their places says it.
                features = given["inputs_embeds"][row][valid[row]]
                between = (features == adapter.separator.to(features)).all(-1).cpu()
                read.roles[places & between] = int(Role.TEMPLATE)
            words = "\n".join(text.text for text in read.user_texts)
            request = Request(f"row {row}", (Message("user", words),))
            images = (ImageRef(request.id),) if places.any() else ()
            own_positions = positions[:, row, valid[row]]
            prompts.append(
                Prompt(
                    request,
                    own,
                    read.roles,
                    own_positions,
                    images,
                    adapter.image_token,
                    read.user_texts,
                    adapter.image_markup,
                )
            )
        return prompts

    def _positions(self, valid: Tensor, given: Tensor | None) -> Tensor:
        """(P, B, L) rotary positions on the CPU."""
        axes = len(self._adapter.positions(torch.zeros(1, dtype=torch.int64), ()))
        if given is None:
            given = (valid.cumsum(1) - 1).clamp_min(0)
        by_axis = given.cpu() if given.ndim == 3 else given.cpu()[None]
        # Qwen's models put what the mask is made from before the three axes.
        return by_axis[-axes:].expand(axes, len(valid), -1)

    def _features(self, prompts: list[Prompt], valid: Tensor, given: Mapping[str, Any]) -> dict[str, ImageFeatures]:
        """What stands in the places of the images, all images of a prompt as one."""
        features, done = {}, 0
        for row, prompt in enumerate(prompts):
            for image in prompt.images:
                places = prompt.ids == prompt.image_token
                count = int(places.sum())
                own = given["inputs_embeds"][row][valid[row]][places]
                layers = given.get("deepstack_visual_embeds")
                deeper = None if layers is None else torch.stack([layer[done : done + count] for layer in layers])
                features[image.key] = ImageFeatures(own, deeper)
                done += count
        return features


def _spread(seen: list[Tensor], stream: Stream, prefixes: Prefixes, prompts: list[Prompt], valid: Tensor) -> Tensor:
    """The hidden states of passes over prefixes and suffixes as the caller laid out the prompts.

    Args:
        seen: Those of all passes, in order: prefixes, if there are any; suffixes, in parts; a second branch.
        stream: The batch.
        prefixes: Its prefixes.
        prompts: B prompts.
        valid: (B, L) bool.

    Returns:
        (B, L, d), zero at padding.
    """
    passes = iter(seen)
    before = next(passes) if prefixes.cache is not None else None
    width = stream.suffix.ids.shape[1]
    parts = [next(passes)]
    while sum(part.shape[1] for part in parts) < width:
        parts.append(next(passes))
    after = torch.cat(parts, dim=1)
    hidden = after.new_zeros(*valid.shape, after.shape[-1])
    for row, (prompt, group) in enumerate(zip(prompts, prefixes.groups(prompts), strict=True)):
        start = prompt.prefix_length if group >= 0 else 0
        suffix = after[row, width - (len(prompt) - start) :]
        own = suffix if before is None or group < 0 else torch.cat((before[group, :start], suffix))
        hidden[row, valid[row]] = own
    return hidden


def _check(given: Mapping[str, Any]) -> None:
    """Refuse what cannot be had under a method, before anything is computed.

    Raises:
        UsageError: The call asks for it.
    """
    if given.get("input_ids") is None:
        raise UsageError("without input_ids nobody knows what each token is for", "Pass input_ids, not inputs_embeds.")
    if given.get("use_cache") is False:
        raise _unsupported("use_cache=False")
    for name in ("output_attentions", "output_hidden_states", "pixel_values_videos"):
        if given.get(name) is not None and given[name] is not False:
            raise _unsupported(name)
    if given.get("return_dict") is False:
        raise _unsupported("return_dict=False")
    if isinstance(given.get("logits_to_keep"), Tensor):
        raise _unsupported("logits_to_keep as a tensor")
    mask = given.get("attention_mask")
    if isinstance(given.get("past_key_values"), StaticCache) or (mask is not None and mask.ndim != 2):
        raise _unsupported("a static cache or an attention mask made by hand")


def _unsupported(what: str) -> UsageError:
    return UsageError(f"{what}: an attached model does not offer it", f"Leave it out. {_OTHERWISE}")
