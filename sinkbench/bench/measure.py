"""Times of a workload under a method: medians over repeats, prefill and decode apart, peak memory."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.bench.workloads import Workload, with_new_tokens
from sinkbench.engine.generate import Engine
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SinkbenchError
from sinkbench.request import Request, Response

_WORKERS = 8
_WARM_UP_TOKENS = 24
"""Enough for the engine to capture its decode pass, so that kernels are compiled before anything is timed."""

_NO_LIMIT = 1 << 30

Batches = Sequence[Sequence[Prompt]]

Clock = Callable[[Callable[[], Any]], float]
"""Seconds that some work takes: a `Timer`."""


class Timer:
    """Measures seconds of work on a device: CUDA events there, the host's clock on a CPU.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` takes."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        with torch.cuda.device(self.device):
            return self._on_gpu(work)

    def _on_gpu(self, work: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize(self.device)
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1e3


@dataclass(frozen=True)
class Effort:
    """How often something is measured.

    Attributes:
        repeats: At most.
        seconds: No further repeat is begun that would not end within so many; the first always runs.
    """

    repeats: int = 3
    seconds: float = 10.0

    def repeat(self, clock: Clock, work: Callable[[], Any]) -> list[float]:
        """Seconds of each repeat."""
        taken = [clock(work)]
        while len(taken) < self.repeats and sum(taken) + taken[-1] <= self.seconds:
            taken.append(clock(work))
        return taken


@dataclass(frozen=True, eq=False)
class Prepared:
    """A workload with everything done that the CPU does ahead.

    Attributes:
        workload: What it is.
        batches: Its prompts, in the batches that every method gets.
        inputs: Preprocessed images by `ImageRef.key`.
    """

    workload: Workload
    batches: Batches
    inputs: Mapping[str, ImageInputs]

    @property
    def prompts(self) -> list[Prompt]:
        """All prompts, batch after batch."""
        return [prompt for batch in self.batches for prompt in batch]


def prepare(adapter: Adapter, workload: Workload, plan: Callable[[Sequence[Prompt]], Batches]) -> Prepared:
    """Encode a workload's prompts, preprocess its images and plan its batches."""
    prompts = [adapter.encode(request) for request in workload.requests]
    images = {image.key: image for prompt in prompts for image in prompt.images}
    with ThreadPoolExecutor(_WORKERS) as pool:
        inputs = dict(zip(images, pool.map(adapter.preprocess, images.values()), strict=True))
    return Prepared(workload, plan(prompts), inputs)


def measure(engine: Engine, prepared: Prepared, clock: Clock, effort: Effort) -> dict[str, Any]:
    """Numbers of one workload under the engine's method.

    Returns:
        Times and rates (see `rates`), and "peak_bytes" (None on a CPU).

    Raises:
        torch.OutOfMemoryError: A batch does not fit as it is.
    """
    decodes = any(_new_tokens(prompt) > 1 for prompt in prepared.prompts)

    def run(most: int) -> None:
        for batch in _cut(prepared.batches, most):
            generate(engine, batch, prepared.inputs)

    with peak_memory(engine.adapter.device) as peak:
        run(_WARM_UP_TOKENS)
        first = effort.repeat(clock, lambda: run(1))
        whole = effort.repeat(clock, lambda: run(_NO_LIMIT)) if decodes else first
    return {**rates(prepared.batches, first, whole), "peak_bytes": peak.get("bytes")}


def rates(batches: Batches, first: Sequence[float], whole: Sequence[float]) -> dict[str, Any]:
    """What the times of a workload come to.

    Args:
        batches: Its prompts.
        first: Seconds of each repeat with answers of one token.
        whole: Seconds of each repeat with whole answers; the same list where they have one token.

    Returns:
        "seconds" {median, min, max, repeats} of the whole answers, "answers_per_s", "prefill_ms" an answer (vision,
        prompt and first token), and, of the decode passes alone, "tokens_per_s" and "decode_ms_per_token" (of a pass
        over a batch); these two are None where there is no decode pass.
    """
    prompts = [prompt for batch in batches for prompt in batch]
    seconds, prefill = statistics.median(whole), statistics.median(first)
    tokens = sum(_new_tokens(prompt) - 1 for prompt in prompts)
    passes = sum(max(map(_new_tokens, batch)) - 1 for batch in batches)
    decode = seconds - prefill
    decodes = tokens > 0 and decode > 0
    return {
        "seconds": {"median": seconds, "min": min(whole), "max": max(whole), "repeats": len(whole)},
        "answers_per_s": len(prompts) / seconds,
        "prefill_ms": 1e3 * prefill / len(prompts),
        "tokens_per_s": tokens / decode if decodes else None,
        "decode_ms_per_token": 1e3 * decode / passes if decodes else None,
    }


def describe(prepared: Prepared) -> dict[str, Any]:
    """The workload in numbers: its batches, and the lengths of its prompts."""
    prompts = prepared.prompts
    lengths = [len(prompt) for prompt in prompts]
    return {
        "answers": len(prompts),
        "batches": len(prepared.batches),
        "image_tokens": statistics.median(prompt.visual_tokens for prompt in prompts),
        "prompt_tokens": {"min": min(lengths), "median": statistics.median(lengths), "max": max(lengths)},
    }


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Bytes allocated on a GPU at the most while the block runs, its weights included, as "bytes" of what it gives."""
    peak: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak["bytes"] = torch.cuda.max_memory_allocated(device)


def generate(engine: Engine, batch: Sequence[Prompt], inputs: Mapping[str, ImageInputs]) -> None:
    """Answer a batch as it is.

    Raises:
        torch.OutOfMemoryError: It does not fit; the engine's own way out, smaller batches, is another measurement.
        SinkbenchError: A request has no answer.
    """
    budget = engine.budget
    responses = engine.generate(batch, inputs)
    # The engine halves a batch that does not fit, and fails a sample that does not fit alone.
    if engine.budget != budget or any(r.error.startswith(torch.OutOfMemoryError.__name__) for r in responses):
        raise torch.OutOfMemoryError(f"a batch of {len(batch)} does not fit")
    _refuse_failures(responses)


def answer_all(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """Answer requests from their files on.

    Raises:
        SinkbenchError: One of them has no answer.
    """
    responses = [response for batch in engine.answer(requests) for response in batch]
    _refuse_failures(responses)
    if len(responses) != len(requests):
        raise SinkbenchError(f"{len(responses)} responses to {len(requests)} requests")
    return responses


def _refuse_failures(responses: Sequence[Response]) -> None:
    failed = [response for response in responses if response.error]
    if failed:
        raise SinkbenchError(f"{len(failed)} requests failed; for example {failed[0].id}: {failed[0].error}")


def _new_tokens(prompt: Prompt) -> int:
    return prompt.request.generation.max_new_tokens


def _cut(batches: Batches, most: int) -> Batches:
    """The same batches with answers of at most so many tokens."""
    return [[replace(p, request=with_new_tokens(p.request, min(most, _new_tokens(p)))) for p in b] for b in batches]
