"""Text-only models: the answers of plain generate, batches that equal singles, prompts with and without a template."""

from functools import cache

import pytest
import random_models
import torch
from harness import answers, close, folder, forced_tokens, image, logits, method, request
from random_models import TEXT_KINDS, save_text, text_tokenizer
from transformers import MistralConfig, Qwen2Config

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.adapters.families import ADAPTERS
from sinkbench.engine.context import Role
from sinkbench.engine.generate import Engine
from sinkbench.errors import SampleError, SinkbenchError, UsageError
from sinkbench.methods import get_method
from sinkbench.request import Message, Request

kinds = pytest.mark.parametrize("kind", TEXT_KINDS)


def load(path) -> Adapter:
    return load_adapter(resolve_model(str(path)), "cpu", "float32")


@cache
def adapter(kind: str) -> Adapter:
    config, settings = TEXT_KINDS[kind]
    return load(save_text(folder() / f"text-{kind}", config, **settings))


def asked() -> list[Request]:
    texts = ("how many are there ?", "is there a dog in the image ? yes no", "what do you see", "one")
    return [request(text, text) for text in texts]


@torch.inference_mode()
def plain_generate(a, asked):
    """New ids and the scores (T, V) of every step of transformers' own generate, sdpa, batch 1."""
    inputs = a.tokenizer(a._render(asked)[0], return_tensors="pt", add_special_tokens=False)
    out = a.model.generate(
        **inputs,
        max_new_tokens=asked.generation.max_new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, inputs["input_ids"].shape[1] :], torch.cat(out.logits)


def test_every_text_only_type_is_tested():
    assert set(TEXT_KINDS) == {kind for kind, entry in ADAPTERS.items() if entry.startswith("text:")}


@kinds
def test_greedy_is_plain_generate(kind):
    a = adapter(kind)
    greedy = get_method("greedy", {})
    ours = answers(a, greedy, asked())
    for one in asked():
        ids, scores = plain_generate(a, one)
        assert ours[one.id] == a.decode(ids.tolist())
        close(logits(a, greedy, [one], ids[None, :-1])[0], scores)


@kinds
@pytest.mark.parametrize("name", ["greedy", "pai"])
def test_a_batch_equals_singles(kind, name):
    a, prompts = adapter(kind), asked()
    forced = forced_tokens(len(prompts))
    together = logits(a, method(name), prompts, forced)
    for index, one in enumerate(prompts):
        close(together[index], logits(a, method(name), [one], forced[index : index + 1])[0])


@kinds
def test_layers_read_the_config_that_the_engine_switches(kind):
    a = adapter(kind)
    assert all(layer.self_attn.config is a.language_model.config for layer in a.layers)
    assert a.info.n_layers == len(a.layers) == random_models.LAYERS
    assert a.info.n_kv_heads == (4 if kind == "llama" else 2)


def test_a_folder_is_of_the_text_family():
    assert adapter("qwen2").preset.family == "text"


def test_query_is_the_users_words_and_nothing_else():
    a = adapter("llama")
    turns = (Message("system", "a dog"), Message("user", "is there a cat ?"), Message("assistant", "no"))
    prompt = a.encode(Request("turns", (*turns, Message("user", "how many ?"))))
    expected = "<s> <unk> a dog USER: is there a cat ? ASSISTANT: no USER: how many ? ASSISTANT:"
    assert a.tokenizer.decode(prompt.ids) == expected
    words = prompt.ids[prompt.roles == Role.QUERY]
    assert a.tokenizer.decode(words) == "is there a cat ? how many ?"
    assert prompt.prefix_length == 0
    assert prompt.images == ()


def test_without_a_template_the_bare_text_is_the_prompt(tmp_path):
    a = load(save_text(tmp_path / "bare", tok=text_tokenizer(None)))
    prompt = a.encode(request("r", "is there a dog ?"))
    assert a.tokenizer.decode(prompt.ids) == "<s> is there a dog ?"
    assert prompt.roles.tolist() == [Role.TEMPLATE] + [Role.QUERY] * 5


def test_an_image_is_a_failure_of_its_sample_only():
    a = adapter("llama")
    with pytest.raises(SampleError, match="text-llama reads text only; the request has an image"):
        a.encode(request("r", "<image> what ?", image(0)))
    with pytest.raises(SampleError, match="placeholder <image>"):
        a.encode(request("r", "what is <image> ?"))
    mixed = [request("good", "what ?"), request("bad", "<image> what ?", image(0))]
    engine = Engine(a, get_method("greedy", {}))
    done = {response.id: response for batch in engine.answer(mixed) for response in batch}
    assert "reads text only" in done["bad"].error
    assert done["good"].text
    assert not done["good"].error


def test_a_preset_of_the_family_has_no_vision():
    a = adapter("llama")
    with pytest.raises(UsageError, match="has no vision layer 0"):
        a.vision_attention([], 0)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (MistralConfig, {"sliding_window": 8}),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ],
)
def test_refuses_sliding_windows(config, settings, tmp_path):
    path = save_text(tmp_path / "sliding", config, **settings)
    with pytest.raises(UsageError, match=r"layers \[0, 1, 2, 3, 4, 5\] of its language model attend within a sliding"):
        load(path)


def test_an_architecture_that_nobody_tested_is_refused(tmp_path):
    from transformers import GemmaConfig

    path = save_text(tmp_path / "gemma", GemmaConfig, head_dim=16)
    with pytest.raises(UsageError, match="no adapter for model_type 'gemma'") as raised:
        resolve_model(str(path))
    assert "llama" in raised.value.hint


def test_a_stale_path_fails_at_load(monkeypatch):
    from sinkbench.adapters.text import TextAdapter

    monkeypatch.setattr(TextAdapter, "paths", {**TextAdapter.paths, "embed": "model.wte"})
    with pytest.raises(SinkbenchError, match=r"no module 'model\.wte'"):
        load(folder() / "text-llama")
