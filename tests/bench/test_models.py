"""Models with random weights: every family, as the real ones behave."""

import pytest
import torch
from harness import FAMILIES, image, model_folder

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.bench.models import describe, random_adapter, real_adapter
from sinkbench.bench.shapes import resolve_shape
from sinkbench.bench.workloads import TEXTS, pope
from sinkbench.errors import SinkbenchError, UsageError


def made(family, dtype="float32", seed=0):
    return random_adapter(resolve_shape(str(model_folder(family))), TEXTS, "cpu", dtype, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_the_classes_and_the_image_tokens_of_the_real_one(family):
    real, random = load_adapter(resolve_model(str(model_folder(family))), "cpu", "float32"), made(family)
    assert type(random) is type(real)
    assert type(random.model) is type(real.model)
    assert type(random.processor) is type(real.processor)
    assert type(random.processor.image_processor) is type(real.processor.image_processor)
    shown = image(0, 60, 30)
    request = pope([shown], 1).requests[0]
    prompts = [a.encode(request) for a in (real, random)]
    assert prompts[0].visual_tokens == prompts[1].visual_tokens > 0
    for name, value in real.preprocess(shown).tensors.items():
        torch.testing.assert_close(random.preprocess(shown).tensors[name], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_buffers_are_those_of_a_loaded_model(family):
    real = load_adapter(resolve_model(str(model_folder(family))), "cpu", "bfloat16").model
    random = made(family, "bfloat16").model
    expected, actual = dict(real.named_buffers()), dict(random.named_buffers())
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=name)
    assert {p.dtype for p in random.parameters()} == {torch.bfloat16}


def test_the_prompt_knows_the_words_of_the_workload(tiny, images):
    prompt = tiny.encode(pope(images[:1], 1).requests[0])
    assert tiny.tokenizer.unk_token_id not in prompt.ids.tolist()
    assert 25 <= len(prompt) - prompt.visual_tokens <= 40


def test_ids_beyond_the_tokenizer_decode_to_nothing(tiny):
    vocabulary = tiny.model.config.text_config.vocab_size
    assert tiny.decode([vocabulary - 1, vocabulary - 2]) == ""


def test_the_seed_decides_the_weights():
    first, again, other = (made("llava", seed=seed).embed.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_description_counts_parameters_and_bytes(tiny):
    about = describe(tiny)
    assert about["parameters"] == sum(p.numel() for p in tiny.model.parameters())
    assert about["weight_bytes"] == 4 * about["parameters"]


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="sees no GPU"):
        random_adapter(resolve_shape("tiny"), TEXTS, "cuda", "auto")


def test_a_model_that_reads_no_images_is_refused():
    with pytest.raises(UsageError, match="smollm2-135m reads text only"):
        real_adapter("smollm2-135m", "cpu", "auto")


def test_logits_that_are_not_finite_are_refused():
    shape = resolve_shape("tiny")
    shape.config["text_config"]["rms_norm_eps"] = float("nan")
    with pytest.raises(SinkbenchError, match="not finite"):
        random_adapter(shape, TEXTS, "cpu", "float32")
