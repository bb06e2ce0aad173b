"""Shards that workers answer: who gets what, in which order, and what happens when one dies."""

from contextlib import nullcontext
from queue import SimpleQueue

import pytest

from sinkbench.engine.flops import LayerShape
from sinkbench.engine.lanes import Cost, Timings
from sinkbench.request import Generation, Message, Request, Response
from sinkbench.sweep.engines import Done, SharedEngine
from sinkbench.sweep.shards import Job, cut

SHARD = 8
SHAPE = LayerShape(2, 8, 16, 4)


def requests(n):
    return [Request(str(i), (Message("user", "?"),), (), Generation()) for i in range(n)]


@pytest.fixture
def job():
    return Job(None, "cpu", "float32", {"greedy": None, "var": None}, "auto", 0, True, window=SHARD)


class Sequential:
    """Answers a shard when mail is looked for, so that how many wait can be counted."""

    count = 2

    def __init__(self, error=None):
        self.waiting, self.most, self.error, self.stopped = [], 0, error, False

    def submit(self, shard, mail):
        self.waiting.append((shard, mail))
        self.most = max(self.most, len(self.waiting))

    def submitting(self):
        return nullcontext()

    def check_going(self):
        if self.stopped:
            raise KeyboardInterrupt
        if self.waiting:
            self._answer(*self.waiting.pop(0))

    def _answer(self, shard, mail: SimpleQueue):
        for lane in shard.job.methods:
            mine = [request for request, lanes in shard.wanted if lane in lanes]
            mail.put((lane, [Response(request.id, lane) for request in mine]))
            timings = Timings(answers=len(mine), new_tokens=2 * len(mine), decode_s=1.0, kv_bytes_per_token=7)
            mail.put((lane, Cost(timings, len(mine), SHAPE)))
        mail.put(Done(self.error))


def test_every_request_comes_back_once_for_each_method_that_wants_it(job):
    n = 2 * SHARD + 3
    workers = Sequential()
    engine = SharedEngine(job, workers)
    asked = requests(n)
    came = list(engine.sweep(asked, lambda lane, request: lane == "greedy" or int(request.id) % 2 == 0))
    by_lane = {lane: [r.id for name, rs in came if name == lane for r in rs] for lane in job.methods}
    assert by_lane == {"greedy": [r.id for r in asked], "var": [r.id for r in asked if int(r.id) % 2 == 0]}
    assert workers.most <= 2 * workers.count


def test_what_workers_measured_adds_up(job):
    engine = SharedEngine(job, Sequential())
    list(engine.sweep(requests(SHARD + 2), lambda lane, request: True))
    figures = engine.stats("var")
    assert figures["answers_per_s"] == (SHARD + 2) / 2.0
    assert figures["tokens_per_s"] == 2 * (SHARD + 2) / 2.0
    assert figures["peak_bytes"] == SHARD
    assert figures["kv_bytes_per_token"] == 7


def test_what_a_worker_raises_is_raised_and_a_stop_is_an_interrupt(job):
    with pytest.raises(RuntimeError, match="device lost"):
        list(SharedEngine(job, Sequential(RuntimeError("device lost"))).sweep(requests(3), lambda *_: True))
    stopped = Sequential()
    stopped.stopped = True
    with pytest.raises(KeyboardInterrupt):
        list(SharedEngine(job, stopped).sweep(requests(3), lambda *_: True))


def test_shards_are_cut_in_order_and_shrink_by_what_is_answered(job):
    shards = list(cut(requests(SHARD + 1), lambda *_: True, job))
    assert [len(shard.wanted) for shard in shards] == [SHARD, 1]
    assert shards[1].wanted[0][0].id == str(SHARD)
    first = shards[0].without({("greedy", "0"), ("var", "0"), ("var", "1")})
    assert [(request.id, lanes) for request, lanes in first.wanted[:2]] == [
        ("1", ("greedy",)),
        ("2", ("greedy", "var")),
    ]
