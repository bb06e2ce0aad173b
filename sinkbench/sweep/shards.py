"""A shard: some requests of one task, and which methods answer each."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from sinkbench.request import Request

if TYPE_CHECKING:
    from sinkbench.adapters.presets import ModelPreset
    from sinkbench.methods.base import Method

WINDOW = 128
"""Requests that a sweep batches together, however many workers there are: batches are the same, and so are answers.
Far more would leave workers idle where a task has a few hundred questions; far fewer would waste a GPU."""


@dataclass(frozen=True)
class Job:
    """What answers the shards of one group of runs.

    Attributes:
        preset: The model.
        device: Where it runs on the worker.
        dtype: Type of its weights.
        methods: By lane, which is what the runs call them.
        batch_size: Most samples in a batch, or "auto".
        seed: Seeds sampling.
        share_prefix: Whether questions and methods share prefixes.
        window: Requests that are batched together.
    """

    preset: "ModelPreset"
    device: str
    dtype: str
    methods: "Mapping[str, Method]"
    batch_size: int | Literal["auto"]
    seed: int
    share_prefix: bool
    window: int = WINDOW


@dataclass(frozen=True)
class Shard:
    """Requests that one worker answers.

    Attributes:
        job: The model and the methods.
        wanted: Each request with the lanes that are to answer it.
    """

    job: Job
    wanted: tuple[tuple[Request, tuple[str, ...]], ...]

    def without(self, answered: Collection[tuple[str, str]]) -> "Shard":
        """What is left of it.

        Args:
            answered: Pairs of a lane and a request's id.
        """
        left = (
            (request, tuple(lane for lane in lanes if (lane, request.id) not in answered))
            for request, lanes in self.wanted
        )
        return replace(self, wanted=tuple((request, lanes) for request, lanes in left if lanes))


def cut(requests: Iterable[Request], wanted: Callable[[str, Request], bool], job: Job) -> Iterator[Shard]:
    """Shards of a window of requests in their order, made as they are asked for."""
    rest = iter(requests)
    while some := list(islice(rest, job.window)):
        pairs = ((request, tuple(lane for lane in job.methods if wanted(lane, request))) for request in some)
        yield Shard(job, tuple(pairs))
