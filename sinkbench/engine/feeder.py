"""What happens on the CPU ahead of the model: encode prompts, plan batches, decode and preprocess images."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sinkbench.adapters.base import Adapter, ImageInputs
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef, Request, Response

T = TypeVar("T")

WINDOW = 4096
"""Requests that are encoded and sorted by length together; the rest waits as it came."""

_FIRST_WINDOW = 512
"""The model waits for the first window; the next ones are each twice as long."""

_AHEAD = 2
"""Batches that are made ready while another one runs."""

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode and preprocess images; both leave Python's lock to others most of the time."""

_SWITCH_SECONDS = 1e-4
"""How long a thread keeps Python's lock while another one wants it. Every launch of a kernel gives the lock away; at
Python's 5 ms the model would wait for the thread that encodes prompts."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A batch that waits for the model.

    Attributes:
        prompts: Its prompts; empty where all that is left of a batch are failures.
        inputs: Preprocessed images by `ImageRef.key`.
        failures: Requests that cannot be answered, with the response that says why.
    """

    prompts: list[Prompt]
    inputs: Mapping[str, ImageInputs]
    failures: list[tuple[Request, Response]]


def feed(
    adapter: Adapter,
    requests: Iterable[Request],
    plan: Callable[[Sequence[Prompt]], list[list[Prompt]]],
    window: int = 0,
) -> Iterator[Ready]:
    """Make batches ready in threads while the caller runs the one before.

    Only a window of requests and a few batches of images are in memory at a time, however many requests there are.

    Args:
        adapter: Encodes prompts and preprocesses images.
        requests: What to answer; read as needed, in another thread.
        plan: Groups prompts into batches.
        window: Plan so many requests at a time, so that batches do not depend on where a task is cut at multiples of
            it; 0 for windows that grow from 512 to 4096.
    """
    return _fed(lambda pool: _batches(adapter, iter(requests), plan, pool, window))


def feed_batches(
    adapter: Adapter, batches: Iterable[list[Prompt]], known: Mapping[str, ImageInputs] | None = None
) -> Iterator[Ready]:
    """The same for prompts that are encoded and grouped already; `known` images are preprocessed."""
    return _fed(lambda pool: (preprocess(adapter, batch, pool, known) for batch in batches))


def _fed(make: Callable[[ThreadPoolExecutor], Iterator[Ready]]) -> Iterator[Ready]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_SECONDS))
    try:
        with ThreadPoolExecutor(WORKERS, "sinkbench-images") as pool:
            yield from _ahead(make(pool))
    finally:
        sys.setswitchinterval(before)


def _batches(
    adapter: Adapter,
    requests: Iterator[Request],
    plan: Callable[[Sequence[Prompt]], list[list[Prompt]]],
    pool: ThreadPoolExecutor,
    fixed: int,
) -> Iterator[Ready]:
    size = fixed or _FIRST_WINDOW
    while window := list(islice(requests, size)):
        size = fixed or min(2 * size, WINDOW)
        prompts: list[Prompt] = []
        failures: list[tuple[Request, Response]] = []
        for request in window:
            try:
                if request.fault:
                    raise SampleError(request.fault)
                prompts.append(adapter.encode(request))
            except SampleError as error:
                failures.append((request, failed(request, error)))
        del window
        if failures:
            yield Ready([], {}, failures)
        for batch in plan(prompts):
            yield preprocess(adapter, batch, pool)


def preprocess(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    pool: ThreadPoolExecutor,
    known: Mapping[str, ImageInputs] | None = None,
) -> Ready:
    """Decode and preprocess a batch's images; a prompt whose image cannot be read becomes a failure.

    Args:
        adapter: Preprocesses.
        prompts: The batch.
        pool: Its threads do the work.
        known: Images that are preprocessed already, by `ImageRef.key`.
    """
    images = {image.key: image for prompt in prompts for image in prompt.images}
    known = known or {}

    def one(image: ImageRef) -> ImageInputs | SampleError:
        try:
            if image.key in known:
                return known[image.key]
            return adapter.preprocess(image)
        except SampleError as error:
            return error

    done = dict(zip(images, pool.map(one, images.values()), strict=True))
    whole: list[Prompt] = []
    failures: list[tuple[Request, Response]] = []
    for prompt in prompts:
        faults = [fault for image in prompt.images if isinstance(fault := done[image.key], SampleError)]
        if faults:
            failures.append((prompt.request, failed(prompt.request, faults[0])))
        else:
            whole.append(prompt)
    return Ready(whole, {key: value for key, value in done.items() if isinstance(value, ImageInputs)}, failures)


def failed(request: Request, error: Exception) -> Response:
    """The response to a request that has no answer, with the reason."""
    reason = str(error) if isinstance(error, SampleError) else f"{type(error).__name__}: {error}"
    return Response(id=request.id, finish="error", error=reason)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an iterator, worked out a few ahead in a thread of its own."""
    end = object()
    with ThreadPoolExecutor(1, "sinkbench-feeder") as thread:
        pending: list[Future[T | object]] = [thread.submit(next, items, end) for _ in range(_AHEAD)]
        try:
            while (item := pending.pop(0).result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()
