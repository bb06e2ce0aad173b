"""The decode loop where passes are captured: one more is under way while the host reads the tokens of the last."""

from dataclasses import replace

import pytest
import torch
from harness import ACTIVE, adapter, answers, method, request, requests

from sinkbench.engine import decode
from sinkbench.engine.generate import Engine
from sinkbench.request import Generation

LONG = 24


class Replayed:
    """Stands in for a captured pass on a machine that cannot capture one; as there, the state's tensors stay."""

    made = 0

    def __init__(self, run, name):
        Replayed.made += 1
        self.run, self.stream = run, run.__self__

    def replay(self):
        before = {name: values.data_ptr() for name, values in self.stream.state.items()}
        logits = self.run()
        assert {name: values.data_ptr() for name, values in self.stream.state.items()} == before
        # The context is the one of the capture, whatever the step.
        self.stream.context.step = 1
        return logits


def asked():
    """Answers of many lengths: random models end some of them early."""
    long = [replace(r, generation=replace(r.generation, max_new_tokens=LONG)) for r in requests()]
    return [*long, request("stops", "what do you see ?", max_new_tokens=LONG, stop=("dog", "see"))]


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
@pytest.mark.parametrize("name", ACTIVE)
def test_replayed_passes_give_the_same_answers(family, name, monkeypatch):
    a = adapter(family)
    expected = answers(a, method(name), asked())
    assert len({len(text.split()) for text in expected.values()}) > 2, "answers should end at different steps"
    monkeypatch.setattr(decode, "CapturedPass", Replayed)
    Replayed.made = 0
    engine = Engine(a, method(name))
    engine.static = engine.graphs = True
    got = {r.id: r for batch in engine.answer(asked()) for r in batch}
    assert {key: r.text for key, r in got.items()} == expected
    (lane,) = engine.lanes.values()
    searches = lane.generation(Generation()).num_beams > 1
    assert (Replayed.made > 0) == (lane.method.capturable and not searches)
    assert all(r.new_tokens <= LONG for r in got.values())


def test_a_method_that_is_not_capturable_is_not_captured(monkeypatch):
    a = adapter("llava")
    monkeypatch.setattr(decode, "CapturedPass", Replayed)
    Replayed.made = 0
    engine = Engine(a, method("greedy"))
    engine.static = engine.graphs = True
    monkeypatch.setattr(type(engine.lanes["greedy"].method), "capturable", False)
    list(engine.answer(asked()))
    assert Replayed.made == 0


def test_short_answers_are_never_captured(monkeypatch):
    a = adapter("llava")
    monkeypatch.setattr(decode, "CapturedPass", Replayed)
    Replayed.made = 0
    engine = Engine(a, method("greedy"))
    engine.static = engine.graphs = True
    list(engine.answer([request(str(i), "one ?", max_new_tokens=8) for i in range(3)]))
    assert Replayed.made == 0


def test_greedy_tokens_are_read_in_order():
    assert decode._reader(torch.tensor([3, 1, 2]))() == [3, 1, 2]


def test_what_the_first_use_of_a_gpu_costs_is_not_timed():
    a = adapter("llava")
    engine = Engine(a, {"greedy": method("greedy"), "pai": method("pai")}, batch_size=4)
    engine.cold = True
    asked, batches = requests(), []
    answer_batch = engine._answer_batch

    def recorded(prompts, *rest):
        batches.append([prompt.request.id for prompt in prompts])
        return answer_batch(prompts, *rest)

    engine._answer_batch = recorded
    got = [(name, r.id) for name, batch in engine.sweep(asked, lambda name, r: name == "pai") for r in batch]
    assert sorted(got) == sorted(("pai", r.id) for r in asked), "samples of the warm-up come once"
    assert batches[0] == batches[1], "the first batch is answered twice"
    assert engine.lanes["pai"].timings.answers == len(asked)
    assert engine.lanes["greedy"].timings.answers == 0
    assert not engine.cold
