"""Times and what they come to, with a clock that says what it is told to."""

import dataclasses

import pytest
import torch

from sinkbench.bench.measure import Effort, answer_all, describe, generate, measure, prepare, rates
from sinkbench.bench.variants import variant
from sinkbench.bench.workloads import caption, mixed, pope
from sinkbench.engine.generate import Engine
from sinkbench.errors import SinkbenchError
from sinkbench.request import ImageRef, Response


@pytest.fixture
def engine(tiny):
    return Engine(tiny, variant("greedy", tiny.info, {}), 4)


def test_rates_follow_from_the_times(tiny, engine, images):
    prepared = prepare(tiny, caption(images[:4], 6, 2), Engine(tiny, variant("greedy", tiny.info, {}), 2).plan)
    found = rates(prepared.batches, first=[2.0, 1.0, 3.0], whole=[10.0, 12.0, 14.0])
    assert found["seconds"] == {"median": 12.0, "min": 10.0, "max": 14.0, "repeats": 3}
    assert found["answers_per_s"] == pytest.approx(4 / 12)
    assert found["prefill_ms"] == pytest.approx(2000 / 4)
    assert found["tokens_per_s"] == pytest.approx(4 * 5 / 10)  # The first token belongs to the prefill.
    assert found["decode_ms_per_token"] == pytest.approx(1e4 / (2 * 5))  # Two batches of five passes.


def test_answers_of_a_token_have_no_decode_rate(tiny, engine, images):
    prepared = prepare(tiny, pope(images[:2], 2), engine.plan)
    found = rates(prepared.batches, [2.0], [2.0])
    assert found["tokens_per_s"] is None
    assert found["decode_ms_per_token"] is None
    assert found["prefill_ms"] == pytest.approx(1e3 / found["answers_per_s"])


def test_measure_takes_medians_of_what_the_clock_says(tiny, engine, images, clock):
    prepared = prepare(tiny, caption(images[:4], 5, 4), engine.plan)
    found = measure(engine, prepared, clock, Effort(repeats=2, seconds=1e9))
    assert clock.given == [1.0, 2.0, 4.0, 8.0]
    assert found["seconds"]["median"] == 6.0
    assert found["prefill_ms"] == pytest.approx(1e3 * 1.5 / 4)
    assert found["tokens_per_s"] == pytest.approx(4 * 4 / (6.0 - 1.5))


def test_every_sample_is_generated_in_full(tiny, engine, images, clock):
    prepared = prepare(tiny, mixed(images), engine.plan)
    measure(engine, prepared, clock, Effort(1))
    expected = sum(p.request.generation.max_new_tokens for p in prepared.prompts)
    warm_up = sum(min(24, p.request.generation.max_new_tokens) for p in prepared.prompts)
    timings = engine.lanes["greedy"].timings
    assert timings.new_tokens == warm_up + len(prepared.prompts) + expected


@pytest.mark.parametrize(("seconds", "repeats"), [(0, 1), (4.9, 2), (5, 3), (1e9, 5)])
def test_no_repeat_begins_that_would_end_too_late(clock, seconds, repeats):
    assert len(Effort(5, seconds).repeat(clock, lambda: None)) == repeats


def test_the_description_gives_the_real_lengths(tiny, engine, images):
    prepared = prepare(tiny, pope(images[:2], 3), engine.plan)
    about = describe(prepared)
    lengths = [len(tiny.encode(request)) for request in prepared.workload.requests]
    assert (about["answers"], about["batches"], about["image_tokens"]) == (6, 2, 16)
    assert (about["prompt_tokens"]["min"], about["prompt_tokens"]["max"]) == (min(lengths), max(lengths))


@pytest.mark.parametrize(("questions", "fits"), [(4, 2), (1, 0)])
def test_a_batch_that_the_engine_cannot_hold_is_out_of_memory(tiny, engine, images, monkeypatch, questions, fits):
    prepared = prepare(tiny, pope(images[:1], questions), engine.plan)
    whole = engine._answer_whole

    def too_small(asked, *rest):
        if sum(map(len, asked.values())) > fits:
            raise torch.OutOfMemoryError
        return whole(asked, *rest)

    monkeypatch.setattr(engine, "_answer_whole", too_small)
    with pytest.raises(torch.OutOfMemoryError, match=f"a batch of {questions}"):
        generate(engine, prepared.batches[0], prepared.inputs)


def test_a_failed_answer_is_no_measurement(tiny, engine, images, monkeypatch):
    prepared = prepare(tiny, pope(images[:1], 1), engine.plan)
    monkeypatch.setattr(engine, "generate", lambda *_: [Response("pope/0/0", finish="error", error="lost")])
    with pytest.raises(SinkbenchError, match="pope/0/0: lost"):
        generate(engine, prepared.batches[0], prepared.inputs)


def test_a_missing_file_is_no_measurement(engine, images):
    (request,) = pope(images[:1], 1).requests
    with pytest.raises(SinkbenchError, match=r"absent\.jpg"):
        answer_all(engine, [dataclasses.replace(request, images=(ImageRef("absent.jpg"),))])
