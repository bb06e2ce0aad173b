"""What a worker process does: it keeps a model and its methods from one shard to the next."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from sinkbench.sweep.shards import Job, Shard

if TYPE_CHECKING:
    from sinkbench.engine import Engine
    from sinkbench.engine.lanes import Cost
    from sinkbench.request import Response

    Result: TypeAlias = list[Response] | Cost  # What a worker sends about a lane.


class Worker:
    """Answers shards one after the other."""

    def __init__(self) -> None:
        self._model_key: tuple[str, ...] = ()
        self._job: Job | None = None
        self._adapter: Any = None
        self._engine: Any = None

    def answer(self, shard: Shard) -> "Iterator[tuple[str, Result]]":
        """Batches of responses as they finish, each with its lane, and what they cost at the end."""
        from sinkbench.engine.lanes import Cost, Timings

        engine = self._engine_for(shard.job)
        wanted = {(lane, request.id) for request, lanes in shard.wanted for lane in lanes}
        requests = [request for request, _ in shard.wanted]
        yield from engine.sweep(requests, lambda lane, request: (lane, request.id) in wanted)
        for name, lane in engine.lanes.items():
            yield name, Cost.of(engine.adapter, lane.timings)
            lane.timings = Timings()

    def _engine_for(self, job: Job) -> "Engine":
        from sinkbench.adapters import load_adapter
        from sinkbench.engine import Engine

        if job != self._job:
            self._engine = None
            key = (job.preset.name, job.preset.path, job.device, job.dtype)
            if key != self._model_key:
                self._adapter, self._model_key = None, ()  # Two models may not fit in memory.
                self._adapter, self._model_key = load_adapter(job.preset, job.device, job.dtype), key
            self._engine = Engine(
                self._adapter, job.methods, job.batch_size, job.seed, job.share_prefix, window=job.window
            )
            self._job = job
        engine: Engine = self._engine
        return engine
