"""The shipped model, answered by the engine and by transformers' own generate."""

import json
from collections import Counter
from functools import cache

import pytest
import torch
from harness import open_stream

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.diagnostics.sink_dims import default_layers, default_tau, find_sink_dims
from sinkbench.engine.generate import Engine
from sinkbench.engine.probe import first_token_states
from sinkbench.methods import get_method
from sinkbench.methods.base import Method
from sinkbench.paths import asset
from sinkbench.request import Generation, ImageRef, Message, Request

N = 200


@cache
def adapter() -> Adapter:
    return load_adapter(resolve_model("tiny-llava"), "cpu", "float32")


@cache
def questions() -> list[Request]:
    """Every 45th row of the shipped split: 200 questions about 200 images, all three splits."""
    folder = asset("scenes/val")
    rows = [json.loads(line) for line in (folder / "pope.jsonl").read_text().splitlines()]
    settings = Generation(max_new_tokens=10)
    return [
        Request(
            str(row["id"]),
            (Message("user", f"<image>\n{row['question']}"),),
            (ImageRef(str(folder / "images" / row["image"])),),
            settings,
        )
        for row in rows[:: len(rows) // N]
    ]


def answers(batch_size: int) -> dict[str, str]:
    engine = Engine(adapter(), get_method("greedy"), batch_size=batch_size)
    return {r.id: r.text for batch in engine.answer(questions()) for r in batch}


@cache
def in_batches() -> dict[str, str]:
    return answers(32)


@torch.inference_mode()
def generate(request: Request) -> str:
    a = adapter()
    conversation = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.messages[0].text[8:]}]}
    ]
    prompt = a.processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = a.processor(images=request.images[0].load(), text=prompt, return_tensors="pt")
    out = a.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    return a.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_answers_are_those_of_generate_one_by_one():
    ours = in_batches()
    assert len(ours) == N
    assert {request.id: generate(request) for request in questions()} == ours
    # Answers that are all alike would agree whatever the engine did.
    assert min(Counter(ours.values())[word] for word in ("yes", "no")) > N // 5


def test_batches_of_one_and_of_thirty_two_agree():
    assert answers(1) == in_batches()


@pytest.mark.parametrize("word", ["dog", "traffic light", "scissors"])
def test_the_tokenizer_knows_the_world(word):
    a = adapter()
    ids = a.tokenizer(f"Is there a {word} in the image?", add_special_tokens=False).input_ids
    assert a.tokenizer.unk_token_id not in ids
    assert a.decode(ids) == f"Is there a {word} in the image?"


def test_the_presets_sink_dimensions_are_what_the_detector_finds():
    a = adapter()
    layers = default_layers(a.info.n_layers)
    asked = [Request("0", (Message("user", "How many dogs are there?"),))]
    found = find_sink_dims(first_token_states(a, asked, layers), layers, default_tau(a.info.hidden_size))
    assert found.dims == a.preset.sink_dims == (210,)
    assert found.runner_up < found.tau < min(found.ratios[210])


def test_var_acts_where_image_tokens_count_as_sinks_and_only_there():
    """At the detector's tau only text tokens are sinks, and VAR leaves such layers alone (spec §2, step 4)."""
    a, asked = adapter(), questions()[:8]
    plain = first_logits(get_method("greedy"), asked)
    assert torch.equal(first_logits(get_method("var", {"tau": 8.0}), asked), plain)
    moved = (first_logits(get_method("var", model="tiny-llava"), asked) - plain).abs().amax(-1)
    assert get_method("var", model="tiny-llava").params()["tau"] == 2.0
    assert (moved > 1e-3).any()
    assert a.language_model.config._attn_implementation == "sdpa"


@torch.inference_mode()
def first_logits(method: Method, asked: list[Request]) -> torch.Tensor:
    """(B, V) logits of the first answer token."""
    a = adapter()
    images = {ref.key: ref for request in asked for ref in request.images}
    features = dict(zip(images, a.encode_images([a.preprocess(ref) for ref in images.values()]), strict=True))
    prompts = [a.encode(request) for request in asked]
    return open_stream(a, method.bind(a.info), prompts, features, 0).prefill()
