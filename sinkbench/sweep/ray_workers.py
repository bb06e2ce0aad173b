"""Workers as Ray actors, one for each GPU of a machine or a cluster. Ray starts, places and restarts them."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.sweep.engines import Done
from sinkbench.sweep.shards import Shard
from sinkbench.sweep.worker import Worker

if TYPE_CHECKING:
    from sinkbench.sweep.engines import Mail

ATTEMPTS = 3
"""How often a shard is tried whose worker died."""

_RESTART_S = 120.0
"""How long a worker may take to come back."""


class WorkerLostError(SinkbenchError):
    """A shard's worker died every time."""


class RayWorkers:
    """Actors that answer shards.

    Args:
        count: How many; 0 for one on each GPU, or one on each four CPUs where there is no GPU.
        address: Of a running cluster, or "auto"; None starts Ray on this machine.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or it is too small.
    """

    def __init__(self, count: int = 0, address: str | None = None) -> None:
        self._ray = _started(address)
        resources = self._ray.cluster_resources()
        n_gpus, n_cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self.count = count or n_gpus or max(1, n_cpus // 4)
        if self.count > (n_gpus or n_cpus):
            self.close()
            raise UsageError(
                f"{self.count} workers were asked for, and Ray has {n_gpus or n_cpus} {'GPUs' if n_gpus else 'CPUs'}",
                f"Give --workers {n_gpus or n_cpus} or less, or leave it out.",
            )
        cpus = max(1, n_cpus // self.count) if not n_gpus else 1
        actor = self._ray.remote(num_cpus=cpus, num_gpus=1 if n_gpus else 0, max_restarts=-1)(_Actor)
        self._actors = [actor.remote() for _ in range(self.count)]
        self._machine: tuple[bool, dict[str, Any]] = self._ray.get(self._actors[0].machine.remote())
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        # One thread waits for each actor; shards wait in the order in which they were submitted.
        free: SimpleQueue[Any] = SimpleQueue()
        for handle in self._actors:
            free.put(handle)
        self._mine = threading.local()
        self._threads = ThreadPoolExecutor(self.count, "sinkbench-ray", initializer=self._claim, initargs=(free,))

    def _claim(self, free: "SimpleQueue[Any]") -> None:
        self._mine.actor = free.get()

    def submit(self, shard: Shard, mail: "SimpleQueue[Mail]") -> None:
        """See `Workers`."""
        self._threads.submit(self._answer, shard, mail)

    def submitting(self) -> AbstractContextManager[Any]:
        """See `Workers`."""
        return self._turn

    def check_going(self) -> None:
        """See `Workers`."""
        if self._stopping.is_set():
            raise KeyboardInterrupt

    def machine(self) -> tuple[bool, dict[str, Any]]:
        """See `Workers`."""
        return self._machine

    def stop(self) -> None:
        """Have everybody who waits for answers give up."""
        self._stopping.set()

    def close(self) -> None:
        """Give the actors back."""
        if hasattr(self, "_threads"):
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._ray.shutdown()

    def _answer(self, shard: Shard, mail: "SimpleQueue[Mail]") -> None:
        try:
            for result in self._results(shard):
                if self._stopping.is_set():
                    return
                mail.put(result)
        except BaseException as error:
            mail.put(Done(error))
        else:
            mail.put(Done())

    def _results(self, shard: Shard) -> "Iterator[Mail]":
        """What the thread's actor makes of a shard; where it dies, what is left is tried again."""
        answered: set[tuple[str, str]] = set()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for reference in self._mine.actor.answer.remote(shard.without(answered)):
                    lane, result = self._ray.get(reference)
                    yield lane, result
                    if isinstance(result, list):
                        answered |= {(lane, response.id) for response in result}
                return
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except self._ray.exceptions.RayActorError as error:
                if attempt == ATTEMPTS:
                    raise WorkerLostError(
                        f"a worker died {ATTEMPTS} times over the same questions: {_first_line(error)}",
                        "Often memory ran out: give a smaller --batch-size, or fewer --workers.",
                    ) from error
                self._await_actor()

    def _await_actor(self) -> None:
        """Wait until Ray has started the thread's actor again."""
        give_up = time.monotonic() + _RESTART_S
        while True:
            try:
                self._ray.get(self._mine.actor.machine.remote(), timeout=_RESTART_S)
                return
            except self._ray.exceptions.RayError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)


class _Actor:
    """A `Worker` in a process of its own."""

    def __init__(self) -> None:
        self._worker = Worker()

    def answer(self, shard: Shard) -> Iterator[Any]:
        """See `Worker.answer`."""
        yield from self._worker.answer(shard)

    def machine(self) -> tuple[bool, dict[str, Any]]:
        """See `Workers.machine`."""
        import torch

        from sinkbench.environment import environment

        return torch.cuda.is_available(), environment()


@contextmanager
def ray_workers(count: int = 0, address: str | None = None) -> Iterator[RayWorkers]:
    """Actors for the time of a sweep; see `RayWorkers`."""
    workers = RayWorkers(count, address)
    try:
        yield workers
    finally:
        workers.close()


def _started(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--executor ray needs Ray", "Install it: pip install 'sinkbench[ray]'.") from error
    # As Ray will have it; it warns of the change otherwise.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster at {address or 'this machine'}: {_first_line(error)}",
            "Start one (ray start --head), correct --address, or leave it out to use this machine.",
        ) from error
    return ray


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
