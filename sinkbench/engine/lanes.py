"""A method on its way through the engine: what it touches, and how long it took."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from sinkbench.adapters.base import Adapter
from sinkbench.engine.batching import Budget
from sinkbench.engine.context import Stage
from sinkbench.engine.flops import LayerShape
from sinkbench.engine.prefix import share_nothing
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import UsageError
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.facts import ModelInfo
from sinkbench.request import Generation, Response

_WEIGHTS_AT_ONCE = 1 << 28
"""Attention weights of whole prompts that are written down at once, in numbers."""


@dataclass
class Timings:
    """Sums over what was answered under one method. The passes of its looks count as seconds and steps, not as tokens.

    Attributes:
        answers: Samples answered.
        prompt_tokens: Prompt tokens of these, image tokens included.
        new_tokens: Generated tokens, padding left out.
        visual_tokens: Image tokens in the prompts.
        decode_steps: Decode passes.
        vision_s: Seconds in the vision encoder, where other methods of the engine may share them; and in making new
            images of what was looked at.
        prefix_s: Seconds in prefixes; likewise.
        suffix_s: Seconds in suffixes.
        decode_s: Seconds in decode passes.
        kv_bytes_per_token: Cache bytes of one token over all layers.
        prompts: How many samples had so many tokens that are no image tokens, and so many image tokens in each layer.
    """

    answers: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    visual_tokens: int = 0
    decode_steps: int = 0
    vision_s: float = 0.0
    prefix_s: float = 0.0
    suffix_s: float = 0.0
    decode_s: float = 0.0
    kv_bytes_per_token: int = 0
    prompts: Counter[tuple[int, tuple[int, ...]]] = field(default_factory=Counter)

    def count(self, responses: Sequence[Response], steps: int, kv_bytes_per_token: int) -> None:
        """Add answers and the decode passes that they took."""
        self.answers += len(responses)
        self.prompt_tokens += sum(r.prompt_tokens for r in responses)
        self.new_tokens += sum(r.new_tokens for r in responses)
        self.visual_tokens += sum(r.visual_tokens for r in responses)
        self.decode_steps += steps
        self.kv_bytes_per_token = kv_bytes_per_token
        for r in responses:
            by_layer = r.tokens_by_layer or (r.visual_tokens_kept,)
            self.prompts[r.prompt_tokens - by_layer[0], by_layer] += 1

    def __add__(self, other: "Timings") -> "Timings":
        sums = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        return Timings(**sums | {"kv_bytes_per_token": max(self.kv_bytes_per_token, other.kv_bytes_per_token)})

    def figures(self, peak_bytes: int | None, shape: LayerShape) -> dict[str, Any]:
        """Rates and means over the answers; times in seconds or milliseconds as named."""
        prefill = self.prefix_s + self.suffix_s
        seconds = self.vision_s + prefill + self.decode_s
        answers = max(self.answers, 1)
        return {
            "answers_per_s": self.answers / seconds if seconds else 0.0,
            "tokens_per_s": self.new_tokens / seconds if seconds else 0.0,
            "prompt_tokens": self.prompt_tokens / answers,
            "vision_ms": 1e3 * self.vision_s / answers,
            "prefill_ms": 1e3 * prefill / answers,
            "decode_ms_per_token": 1e3 * self.decode_s / max(self.decode_steps, 1),
            "peak_bytes": peak_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "visual_tokens_in": self.visual_tokens / answers,
            **self._budget(shape, answers),
        }

    def _budget(self, shape: LayerShape, answers: int) -> dict[str, Any]:
        """Means over the answers of what the layers held: image tokens, multiply-adds of the prefill, cache bytes."""
        by_layer, image_macs, macs, kv_bytes = [0.0] * shape.n_layers, 0.0, 0.0, 0.0
        for (text, image), count in self.prompts.items():
            tokens = image * shape.n_layers if len(image) == 1 else image
            whole = [text + n for n in tokens]
            by_layer = [total + count * n for total, n in zip(by_layer, tokens, strict=True)]
            image_macs += count * shape.macs(tokens)
            macs += count * shape.macs(whole)
            kv_bytes += count * shape.kv_bytes(whole)
        means = [total / answers for total in by_layer]
        return {
            "visual_tokens_kept": means[-1],
            "visual_tokens_mean": sum(means) / len(means),
            "visual_tokens_by_layer": means,
            "prefill_macs": macs / answers,
            "prefill_macs_image": image_macs / answers,
            "macs_formula": "f3",
            "prompt_kv_bytes": kv_bytes / answers,
        }


@dataclass(frozen=True)
class Cost:
    """What answers cost, and on what; what several workers say adds up.

    Attributes:
        timings: Sums over the answers.
        peak_bytes: Most GPU memory in use since the process began; None on a CPU.
        shape: Of the language model's layers.
    """

    timings: Timings
    peak_bytes: int | None
    shape: LayerShape

    @classmethod
    def of(cls, adapter: Adapter, timings: Timings) -> "Cost":
        """Of answers that a model gave."""
        on_gpu = adapter.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(adapter.device) if on_gpu else None
        return cls(timings, peak, LayerShape.of(adapter.language_model.config, adapter.dtype.itemsize))

    def __add__(self, other: "Cost") -> "Cost":
        peaks = [peak for peak in (self.peak_bytes, other.peak_bytes) if peak is not None]
        return Cost(self.timings + other.timings, max(peaks, default=None), self.shape)

    def figures(self) -> dict[str, Any]:
        """See `Timings.figures`."""
        return self.timings.figures(self.peak_bytes, self.shape)


@dataclass
class Lane:
    """A method in the engine.

    Attributes:
        method: Bound to the model.
        edits_prefix: Whether it edits how images are read or what comes before their end.
        reads_prefix: Whether it looks at what comes before their end.
        passive: Whether it leaves the language model alone: it acts before or behind it, if at all.
        generation: From the settings that a prompt asks for to those under which the method answers.
        refocuses: Whether it looks first, and answers another request than was asked.
        budget: What a batch may take under it.
        timings: How long it took.
    """

    method: Intervention
    edits_prefix: bool
    reads_prefix: bool
    passive: bool
    generation: Callable[[Generation], Generation]
    refocuses: bool
    budget: Budget
    timings: Timings = field(default_factory=Timings)

    @property
    def alone(self) -> bool:
        """Whether its prompts differ from those of other methods, or are run in another way."""
        return self.edits_prefix or self.method.whole_prompt or self.method.selects

    @property
    def encodes(self) -> bool:
        """Whether images are encoded for it alone, since it selects by what it sees of the encoder."""
        return self.method.selects and bool(self.method.selects_by or self.method.vision_layers)

    def in_one_pass(self, prompts: Sequence[Prompt], branches: Sequence[Prompt], budget: Budget) -> bool:
        """Whether to run prompts whole: its method asks for it, or they have nothing to share and it does not matter.

        Args:
            prompts: Prompts of a batch.
            branches: Of the second branch, if there is one.
            budget: What a pass may take; parts would be decoded apart.
        """
        if self.method.whole_prompt:
            return True
        fits = len(prompts) * max(map(len, prompts)) <= budget.pass_tokens
        return self.passive and not branches and fits and share_nothing(prompts)

    def whole_at_once(self, longest: int, budget: Budget, n_heads: int) -> int:
        """How many prompts of at most so many tokens are run whole at once."""
        step = max(1, budget.pass_tokens // longest)
        if self.method.edits_mask and not self.method.is_grouped:
            step = min(step, max(1, _WEIGHTS_AT_ONCE // (n_heads * longest**2)))
        return step

    @classmethod
    def of(cls, method: Method, model: ModelInfo, budget: Budget) -> "Lane":
        """The lane of a method, bound to a model.

        Args:
            method: The method.
            model: What it is bound to.
            budget: What a batch of plain samples may take.

        Raises:
            UsageError: The model lacks something that the method needs, or it is nothing by itself.
        """
        if method.weighs:
            raise UsageError(
                f"{method.name} weighs the scores of a method that ranks image tokens, and does nothing by itself",
                f"Compose it: --method fastv+{method.name}.",
            )
        edits = bool(method.edits & (Stage.VISION | Stage.PREFIX))
        reads = bool(method.observes & Stage.PREFIX)
        passive = not (method.edits | method.observes) & ~Stage.VISION
        searched = method.generation(Generation()).rows
        own = budget.under(searched * (2 if method.contrasts else 1), searched)
        return cls(method.bind(model), edits, reads, passive, method.generation, method.refocuses, own)
