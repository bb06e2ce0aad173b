"""Plain transformers answers the same prompts with as many tokens: the same ones, in float32."""

import pytest
import torch
from harness import FAMILIES, image, model_folder

from sinkbench.bench.baselines import generate, measure_plain, packed
from sinkbench.bench.measure import Effort, prepare
from sinkbench.bench.models import random_adapter
from sinkbench.bench.shapes import resolve_shape
from sinkbench.bench.variants import variant
from sinkbench.bench.workloads import TEXTS, caption, mixed
from sinkbench.engine.generate import Engine
from sinkbench.errors import SinkbenchError


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_gives_the_tokens_of_greedy(family):
    adapter = random_adapter(resolve_shape(str(model_folder(family))), TEXTS, "cpu", "float32")
    engine = Engine(adapter, variant("greedy", adapter.info, {}), 4)
    images = [image(0, 60, 30), image(0, 60, 30), image(1, 30, 60)]
    prepared = prepare(adapter, caption(images, 5), engine.plan)
    (batch,) = prepared.batches
    tokens = generate(adapter, packed(adapter, batch, prepared.inputs), 5)
    assert tokens.shape == (3, 5)
    ours = [response.text for response in engine.generate(batch, prepared.inputs)]
    assert [adapter.decode(row.tolist()) for row in tokens] == ours


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_asked_for_is_what_runs(tiny, images, monkeypatch, clock, attention):
    prepared = prepare(tiny, caption(images[:2], 3), lambda prompts: [[p] for p in prompts])
    seen = set()
    real = tiny.model.generate

    def watched(**given):
        seen.update({tiny.language_model.config._attn_implementation, tiny.vision.config._attn_implementation})
        return real(**given)

    monkeypatch.setattr(tiny.model, "generate", watched)
    found = measure_plain(tiny, prepared, attention, clock, Effort(1))
    assert seen == {attention}
    assert tiny.language_model.config._attn_implementation == "sdpa"
    assert found["tokens_per_s"] == pytest.approx(2 * 2 / (clock.given[1] - clock.given[0]))


def test_answers_of_several_lengths_are_refused(tiny, images, clock):
    prepared = prepare(tiny, mixed(images), lambda prompts: [prompts])
    with pytest.raises(SinkbenchError, match="one length"):
        measure_plain(tiny, prepared, "sdpa", clock, Effort(1))


def test_a_generation_that_stops_early_is_no_measurement(tiny, images, monkeypatch):
    prepared = prepare(tiny, caption(images[:1], 3), lambda prompts: [prompts])
    inputs = packed(tiny, prepared.prompts, prepared.inputs)
    monkeypatch.setattr(tiny.model, "generate", lambda **_: torch.cat((inputs["input_ids"], torch.ones(1, 2)), dim=1))
    with pytest.raises(SinkbenchError, match=r"\(1, 2\) tokens, not \(1, 3\)"):
        generate(tiny, inputs, 3)
