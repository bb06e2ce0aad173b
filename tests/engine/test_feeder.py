"""What is in memory while a run goes on, and what becomes of samples that cannot be answered."""

import threading
import tracemalloc
from types import SimpleNamespace

import pytest
import torch
from harness import adapter, image, method, request

from sinkbench.engine import feeder
from sinkbench.engine.batching import Budget, plan_batches
from sinkbench.engine.feeder import WINDOW, feed
from sinkbench.engine.generate import Engine
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SampleError
from sinkbench.request import Generation, ImageRef, Message, Request

BUDGET = Budget(samples=64)


class Encodes:
    """An adapter that encodes cheaply and reads no files."""

    def encode(self, asked: Request) -> Prompt:
        if asked.id.endswith("13"):
            raise SampleError("thirteen")
        ids = torch.full((12,), 7)
        return Prompt(asked, ids, torch.ones(12, dtype=torch.uint8), torch.arange(12)[None], asked.images, 7)

    def preprocess(self, ref: ImageRef):
        if ref.path == "broken":
            raise SampleError("broken file")
        return SimpleNamespace(tensors={}, roles=torch.ones(4))


def many(count: int):
    settings = Generation(4)
    for index in range(count):
        yield Request(
            str(index), (Message("user", f"<image>question {index}"),), (ImageRef(f"i{index // 18}"),), settings
        )


def consume(count: int) -> tuple[int, int, int]:
    """Samples made ready and lost, and the peak of allocated bytes."""
    ready = lost = 0
    tracemalloc.start()
    for batch in feed(Encodes(), many(count), lambda prompts: plan_batches(prompts, BUDGET)):
        ready += len(batch.prompts)
        lost += len(batch.failures)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return ready, lost, peak


def test_a_hundred_thousand_rows_hold_constant_memory(monkeypatch):
    monkeypatch.setattr(feeder, "WINDOW", 512)
    ready, lost, small = consume(10_000)
    assert (ready, lost) == (9_900, 100)
    ready, lost, large = consume(100_000)
    assert (ready, lost) == (99_000, 1_000)
    assert large < 1.2 * small
    assert large < 100_000 * 100, "a hundred bytes a row would be more"


def test_requests_are_read_as_they_are_needed():
    read = []

    def watched():
        for asked in many(5 * WINDOW):
            read.append(asked.id)
            yield asked

    batches = feed(Encodes(), watched(), lambda prompts: plan_batches(prompts, BUDGET))
    next(batches)
    assert len(read) <= 2 * WINDOW
    batches.close()
    assert not any(thread.name.startswith("sinkbench") for thread in threading.enumerate())


def test_a_broken_image_costs_only_its_questions():
    asked = [*many(3), Request("x", (Message("user", "<image>?"),), (ImageRef("broken"),), Generation(4))]
    (batch,) = feed(Encodes(), asked, lambda prompts: plan_batches(prompts, BUDGET))
    assert [prompt.request.id for prompt in batch.prompts] == ["0", "1", "2"]
    (lost, response), *rest = batch.failures
    assert (lost.id, response.finish, response.error, rest) == ("x", "error", "broken file", [])


def test_an_error_while_reading_requests_reaches_the_caller():
    def fails():
        yield from many(2)
        raise RuntimeError("the file ends in the middle of a line")

    with pytest.raises(RuntimeError, match="middle of a line"):
        list(feed(Encodes(), fails(), lambda prompts: plan_batches(prompts, BUDGET)))


def test_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch):
    """A sample that does not fit even alone is an error with a reason; the others are answered, and once each."""
    a = adapter("llava")
    asked = [request(f"{i}", f"<image>\nis there a {'dog ' * (i % 3 + 1)}?", image(i // 3)) for i in range(9)]
    asked.append(request("huge", "<image>\nis there a " + "dog " * 40, image(9)))
    plain = Engine(a, method("greedy"))
    expected = {r.id: r.text for batch in plain.answer(asked) for r in batch if r.id != "huge"}
    sizes = []
    run = Engine._run

    def small_gpu(self, name, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 3 or max(map(len, prompts)) > 60:
            raise torch.OutOfMemoryError("too much")
        return run(self, name, prompts, *rest)

    monkeypatch.setattr(Engine, "_run", small_gpu)
    engine = Engine(a, {"one": method("greedy"), "two": method("pai")})
    got: dict[str, dict[str, str]] = {"one": {}, "two": {}}
    for name, responses in engine.sweep(asked, lambda *_: True):
        for response in responses:
            assert response.id not in got[name]
            got[name][response.id] = response.error or response.text
    assert "OutOfMemoryError: too much" in got["one"].pop("huge")
    assert "OutOfMemoryError: too much" in got["two"].pop("huge")
    assert got["one"] == expected
    assert set(got["two"]) == set(expected)
    assert engine.budget.samples <= 3
    assert max(sizes) > 3
