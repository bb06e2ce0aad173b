"""What a sweep puts in the place of the runner's engine: windows of one size here, shards for workers elsewhere."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from sinkbench.backend import Engine, LocalBackend
from sinkbench.request import Request, Response
from sinkbench.sweep.shards import WINDOW, Job, Shard, cut

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset
    from sinkbench.engine.lanes import Cost
    from sinkbench.methods.base import Method
    from sinkbench.sweep.worker import Result

    Mail: TypeAlias = "tuple[str, Result] | Done"  # What comes back of a shard, `Done` last.


class WindowedBackend(LocalBackend):
    """Runs everything in this process, in the batches that workers would make.

    Args:
        window: Requests that are batched together.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window

    def engine(
        self,
        adapter: Any,
        methods: "Mapping[str, Method]",
        batch_size: int | Literal["auto"],
        seed: int,
        share_prefix: bool,
    ) -> Engine:
        """See `Backend`."""
        from sinkbench.engine import Engine as LocalEngine

        return LocalEngine(adapter, methods, batch_size, seed, share_prefix, window=self._window)


@dataclass(frozen=True)
class Done:
    """A shard has come to its end.

    Attributes:
        error: Why it broke off; None where all of it is answered.
    """

    error: BaseException | None = None


_PATIENCE = 0.5
"""Seconds after which somebody who waits for mail looks whether the sweep goes on."""


class Workers(Protocol):
    """Processes that answer shards, each one at a time."""

    count: int

    def submit(self, shard: Shard, mail: "SimpleQueue[Mail]") -> None:
        """Have a shard answered as soon as a worker is free, in the order of submitting."""

    def submitting(self) -> AbstractContextManager[Any]:
        """Held by who has more shards to submit: others come after, so that no worker changes its model twice."""

    def check_going(self) -> None:
        """See whether the sweep is to go on.

        Raises:
            KeyboardInterrupt: It is not.
        """

    def machine(self) -> tuple[bool, dict[str, Any]]:
        """Whether workers have GPUs, and the `env` entry of run.json as one of them sees it."""


@dataclass(frozen=True)
class Elsewhere:
    """A model that workers hold, in the place of the adapter.

    Attributes:
        preset: Which model.
        device: Where each worker runs it.
        dtype: Type of its weights.
        env: The workers' machine.
    """

    preset: "ModelPreset"
    device: str
    dtype: str
    env: dict[str, Any]

    def environment(self) -> dict[str, Any]:
        """The `env` entry of run.json."""
        return self.env


class SharedBackend(LocalBackend):
    """Prepares and scores here and has workers answer.

    Args:
        workers: Who answers.
        window: Requests that are batched together.
    """

    def __init__(self, workers: Workers, window: int = WINDOW) -> None:
        self._workers = workers
        self._window = window

    def adapter(self, preset: "ModelPreset", device: str, dtype: str) -> Elsewhere:
        """See `Backend`; nothing is loaded here."""
        from sinkbench.adapters import placement

        has_gpu, env = self._workers.machine()
        device, dtype = placement(preset, device, dtype, has_gpu=has_gpu)
        return Elsewhere(preset, device, dtype, env)

    def engine(
        self,
        adapter: Elsewhere,
        methods: "Mapping[str, Method]",
        batch_size: int | Literal["auto"],
        seed: int,
        share_prefix: bool,
    ) -> "SharedEngine":
        """See `Backend`."""
        job = Job(
            adapter.preset, adapter.device, adapter.dtype, dict(methods), batch_size, seed, share_prefix, self._window
        )
        return SharedEngine(job, self._workers)


class SharedEngine:
    """Cuts requests into shards and hands back what workers make of them.

    Args:
        job: The model and the methods.
        workers: Who answers.
    """

    def __init__(self, job: Job, workers: Workers) -> None:
        self._job = job
        self._workers = workers
        self._costs: dict[str, Cost] = {}

    def answer(self, requests: Iterable[Request]) -> Iterator[list[Response]]:
        """See `Engine`."""
        for _, responses in self.sweep(requests, lambda _lane, _request: True):
            yield responses

    def sweep(
        self, requests: Iterable[Request], wanted: Callable[[str, Request], bool]
    ) -> Iterator[tuple[str, list[Response]]]:
        """See `Engine`. Some shards wait at the workers, the others are not read yet.

        Raises:
            Exception: What a worker raised.
            KeyboardInterrupt: The sweep is to stop.
        """
        mail: SimpleQueue[Mail] = SimpleQueue()
        shards: Iterator[Shard] = cut(requests, wanted, self._job)
        flying, more = 0, True
        with ExitStack() as turn:
            turn.enter_context(self._workers.submitting())
            while more or flying:
                while more and flying < 2 * self._workers.count:
                    if (shard := next(shards, None)) is None:
                        more = False
                        turn.close()
                    else:
                        self._workers.submit(shard, mail)
                        flying += 1
                if not flying:
                    break
                received = self._received(mail)
                if isinstance(received, Done):
                    flying -= 1
                    if received.error:
                        raise received.error
                else:
                    lane, result = received
                    if isinstance(result, list):
                        yield lane, result
                    else:
                        self._costs[lane] = self._costs[lane] + result if lane in self._costs else result

    def stats(self, name: str | None = None) -> dict[str, Any]:
        """See `Engine`: rates are those of one worker, as a mean over their seconds."""
        cost = self._costs.get(name or next(iter(self._job.methods)))
        return cost.figures() if cost else {}

    def _received(self, mail: "SimpleQueue[Mail]") -> "Mail":
        while True:
            self._workers.check_going()
            try:
                return mail.get(timeout=_PATIENCE)
            except Empty:
                continue
