"""From requests to answers: encode, batch, see, prefill, decode."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.engine.batching import AUTO_BATCH, plan_batches
from sinkbench.engine.prompt import Prompt
from sinkbench.engine.stream import Stream
from sinkbench.errors import SampleError
from sinkbench.methods.base import Intervention, Method
from sinkbench.request import Generation, ImageRef, Request, Response

_COMPACT_BELOW = 0.5
"""Finished samples are dropped from the cache once fewer than this share of its rows is alive."""

_STOP_TAIL = 32
"""Tokens at an answer's end in which a stop string is looked for after each step."""


@dataclass
class Timings:
    """Sums over the batches of a run.

    Attributes:
        answers: Samples answered.
        prompt_tokens: Prompt tokens of these, image tokens included.
        new_tokens: Generated tokens, padding left out.
        visual_tokens: Image tokens in the prompts.
        decode_steps: Decode passes.
        vision_s: Seconds in preprocessing and the vision encoder.
        prefill_s: Seconds in prefix and suffix.
        decode_s: Seconds in decode passes.
        kv_bytes_per_token: Cache bytes of one token over all layers.
    """

    answers: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    visual_tokens: int = 0
    decode_steps: int = 0
    vision_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    kv_bytes_per_token: int = 0


class Engine:
    """Answers requests with a model under a method.

    Args:
        adapter: The model.
        method: The method; it is bound to the model here.
        batch_size: Most samples in a batch, or "auto".
        seed: Added to each request's own seed when sampling.
        share_prefix: Prefill the part that questions about one image have in common once.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Method,
        batch_size: int | Literal["auto"] = "auto",
        seed: int = 0,
        share_prefix: bool = True,
    ) -> None:
        self.adapter = adapter
        self.method: Intervention = method.bind(adapter.info)
        self.batch_size = AUTO_BATCH.get(adapter.device.type, AUTO_BATCH["cpu"]) if batch_size == "auto" else batch_size
        self.seed = seed
        self.share_prefix = share_prefix
        self.timings = Timings()

    def answer(self, requests: Iterable[Request]) -> Iterator[list[Response]]:
        """Answer requests; batches come back as they finish, in any order.

        A sample that cannot be answered comes back with its error; nothing else is lost.
        """
        prompts, failures = [], []
        for request in requests:
            try:
                prompts.append(self.adapter.encode(request))
            except SampleError as error:
                failures.append(_failed(request, error))
        if failures:
            yield failures
        for batch in plan_batches(prompts, self.batch_size):
            yield self._answer_batch(batch)

    def stats(self) -> dict[str, Any]:
        """Efficiency of everything answered so far; times in seconds or milliseconds as named."""
        t = self.timings
        seconds = t.vision_s + t.prefill_s + t.decode_s
        on_gpu = self.adapter.device.type == "cuda"
        return {
            "answers_per_s": t.answers / seconds if seconds else 0.0,
            "tokens_per_s": t.new_tokens / seconds if seconds else 0.0,
            "vision_ms": 1e3 * t.vision_s / max(t.answers, 1),
            "prefill_ms": 1e3 * t.prefill_s / max(t.answers, 1),
            "decode_ms_per_token": 1e3 * t.decode_s / max(t.decode_steps, 1),
            "peak_bytes": torch.cuda.max_memory_allocated(self.adapter.device) if on_gpu else None,
            "kv_bytes_per_token": t.kv_bytes_per_token,
            "visual_tokens_in": t.visual_tokens / max(t.answers, 1),
            "visual_tokens_kept": t.visual_tokens / max(t.answers, 1),
        }

    def _answer_batch(self, prompts: list[Prompt]) -> list[Response]:
        start = time.perf_counter()
        inputs, broken = self._preprocess({image.key: image for p in prompts for image in p.images})
        responses, whole = [], []
        for prompt in prompts:
            faults = [broken[image.key] for image in prompt.images if image.key in broken]
            if faults:
                responses.append(_failed(prompt.request, faults[0]))
            else:
                whole.append(prompt)
        return responses + (self._generate_or_halve(whole, inputs, start) if whole else [])

    def _preprocess(self, images: dict[str, ImageRef]) -> tuple[dict[str, ImageInputs], dict[str, SampleError]]:
        """Inputs of the vision encoder by image key, and the images that cannot be read."""

        def one(image: ImageRef) -> ImageInputs | SampleError:
            try:
                return self.adapter.preprocess(image)
            except SampleError as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            done = dict(zip(images, pool.map(one, images.values()), strict=True))
        return (
            {key: value for key, value in done.items() if isinstance(value, ImageInputs)},
            {key: value for key, value in done.items() if isinstance(value, SampleError)},
        )

    def _generate_or_halve(self, prompts: list[Prompt], inputs: dict[str, ImageInputs], start: float) -> list[Response]:
        """Generate; where memory runs out, in two halves."""
        try:
            with torch.inference_mode():
                return self._generate(prompts, inputs, start)
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                return [_failed(prompts[0].request, error)]
        torch.cuda.empty_cache()
        self.batch_size = half = max(1, len(prompts) // 2)
        halves = (prompts[:half], prompts[half:])
        return [r for part in halves for r in self._generate_or_halve(part, inputs, time.perf_counter())]

    def _generate(self, prompts: list[Prompt], inputs: dict[str, ImageInputs], start: float) -> list[Response]:
        keys = list(dict.fromkeys(image.key for prompt in prompts for image in prompt.images))
        features = (
            dict(zip(keys, self.adapter.encode_images([inputs[key] for key in keys]), strict=True)) if keys else {}
        )
        self._synchronise()
        seen = time.perf_counter()
        decoder = Decoder(self.adapter, self.method, prompts, features, self.seed, self.share_prefix)
        decoder.prefill()
        self._synchronise()
        prefilled = time.perf_counter()
        responses = decoder.run()
        t = self.timings
        t.vision_s += seen - start
        t.prefill_s += prefilled - seen
        t.decode_s += time.perf_counter() - prefilled
        t.answers += len(responses)
        t.prompt_tokens += sum(r.prompt_tokens for r in responses)
        t.new_tokens += sum(r.new_tokens for r in responses)
        t.visual_tokens += sum(r.visual_tokens for r in responses)
        t.decode_steps += decoder.steps
        t.kv_bytes_per_token = decoder.main.cache.bytes_per_token()
        return responses

    def _synchronise(self) -> None:
        if self.adapter.device.type == "cuda":
            torch.cuda.synchronize(self.adapter.device)


class Decoder:
    """The decode loop of one batch.

    Args:
        adapter: The model.
        method: The bound method.
        prompts: B prompts with equal generation settings.
        features: (N, d) of each image by key.
        seed: Added to each request's own seed when sampling.
        share_prefix: See `Stream`.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Intervention,
        prompts: Sequence[Prompt],
        features: dict[str, Tensor],
        seed: int = 0,
        share_prefix: bool = True,
    ) -> None:
        self.adapter = adapter
        self.method = method
        self.prompts = prompts
        self.settings: Generation = prompts[0].request.generation
        self.steps = 0
        room = self.settings.max_new_tokens
        self.main = Stream(adapter, method, prompts, features, room, share_prefix)
        contrast = [branch for prompt in prompts if (branch := method.contrast(prompt)) is not None]
        self.branch = Stream(adapter, Intervention(), contrast, features, room, share_prefix) if contrast else None
        self.generators = [_generator(prompt.request, seed, adapter.device) for prompt in prompts]
        self.eos = torch.tensor(adapter.eos, device=adapter.device)

    def prefill(self) -> None:
        """Run the prompts of the main branch and of the contrast branch."""
        self.logits = self.main.prefill()
        self.branch_logits = self.branch.prefill() if self.branch else None

    def run(self) -> list[Response]:
        """Generate until every sample has finished."""
        alive = set(range(len(self.prompts)))
        rows = list(range(len(self.prompts)))  # Which sample each row of the cache belongs to.
        answers: list[list[int]] = [[] for _ in self.prompts]
        finish: list[Literal["stop", "length"]] = ["length" for _ in self.prompts]
        while True:
            chosen = self._choose(rows)
            ended = torch.isin(chosen, self.eos).tolist()
            for row, token in enumerate(chosen.tolist()):
                sample = rows[row]
                if sample not in alive:
                    continue
                answers[sample].append(token)
                if (ended[row] and not self.settings.ignore_eos) or self._has_stop_string(answers[sample]):
                    finish[sample] = "stop"
                    alive.remove(sample)
                elif len(answers[sample]) == self.settings.max_new_tokens:
                    alive.remove(sample)
            if not alive:
                break
            if len(alive) <= _COMPACT_BELOW * len(rows):
                kept = torch.tensor([row for row, sample in enumerate(rows) if sample in alive], device=chosen.device)
                rows = [rows[row] for row in kept.tolist()]
                chosen = chosen[kept]
                self.main.keep(kept)
                if self.branch:
                    self.branch.keep(kept)
            self.logits = self.main.step(chosen)
            self.branch_logits = self.branch.step(chosen) if self.branch else None
            self.steps += 1
        return [self._response(i, answers[i], finish[i]) for i in range(len(self.prompts))]

    def _choose(self, rows: list[int]) -> Tensor:
        """The next token (R,) of each row."""
        ctx = self.main.context
        ctx.contrast_logits = self.branch_logits
        scores = self.method.edit_logits(self.logits, ctx)
        if not self.settings.do_sample:
            return scores.argmax(-1)
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        ids = torch.empty(len(rows), 0, dtype=torch.int64, device=scores.device)
        scores = TemperatureLogitsWarper(self.settings.temperature)(ids, scores)
        if self.settings.top_p < 1:
            scores = TopPLogitsWarper(self.settings.top_p)(ids, scores)
        probabilities = scores.softmax(-1)
        draws = [
            torch.multinomial(probabilities[row], 1, generator=self.generators[sample])
            for row, sample in enumerate(rows)
        ]
        return torch.cat(draws)

    def _has_stop_string(self, tokens: list[int]) -> bool:
        if not self.settings.stop:
            return False
        tail = self.adapter.decode(tokens[-_STOP_TAIL:])
        return any(stop in tail for stop in self.settings.stop)

    def _response(self, sample: int, tokens: list[int], finish: Literal["stop", "length"]) -> Response:
        prompt = self.prompts[sample]
        text = self.adapter.decode(tokens)
        for stop in self.settings.stop:
            text = text.partition(stop)[0]
        return Response(
            id=prompt.request.id,
            text=text.strip(),
            prompt_tokens=len(prompt),
            new_tokens=len(tokens),
            visual_tokens=prompt.visual_tokens,
            visual_tokens_kept=prompt.visual_tokens,
            finish=finish,
        )


def _generator(request: Request, seed: int, device: torch.device) -> torch.Generator | None:
    """A sample's own random numbers, whatever batch it is in."""
    if not request.generation.do_sample:
        return None
    digest = hashlib.sha256(f"{seed}/{request.generation.seed}/{request.id}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def _failed(request: Request, error: Exception) -> Response:
    reason = str(error) if isinstance(error, SampleError) else f"{type(error).__name__}: {error}"
    return Response(id=request.id, finish="error", error=reason)
