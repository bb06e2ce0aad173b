"""The trainer of smol-llava, around a tiny random base."""

import json
import random
from dataclasses import replace

import pytest
import random_smol
import torch
import train_tiny
from smol.self_distil import answers
from tiny import smol
from tiny.families import FAMILIES
from tiny.packing import IGNORED, TextTurn, TurnEncoder, attention_bias
from tiny.recipe import Data, Lora, Recipe, load_recipe
from tiny.smol import CHAT, SmolForward, build_model, build_processor, build_tokenizer, dialogue, start_from, trained
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from sinkbench.downloads import cache_path
from sinkbench.errors import UsageError
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import sample_scene
from sinkbench.smol_llava import build_processor as processor_of

RECIPE = """
name: micro-smol
family: smol
lora: {rank: 2, alpha: 4, vision_rank: 2, vision_alpha: 4, layers: [0, 3]}
optimisation: {learning_rate: 1.0e-2, warmup_steps: 2, weight_decay: 0.0, batch_size: 2, projector_factor: 0.5}
data: {turn_tokens: 700, text_share: 0.5}
evaluation: {scenes: 2, batch_size: 16, sink_images: 2, short: true}
"""
RECIPE_ALIGN = """
name: micro-align
family: smol
lora: {rank: 0, vision_rank: 0}
optimisation: {learning_rate: 1.0e-2, warmup_steps: 2, weight_decay: 0.0, batch_size: 2}
data: {turn_tokens: 400, stage: align}
evaluation: {scenes: 2, batch_size: 16, sink_images: 2, short: true}
"""
DIALOGUE = [("Is there a dog?", "No"), TextTurn("What is your name?", "I am a model."), ("What color is it?", "Red")]


@pytest.fixture(autouse=True)
def base(tmp_path_factory, monkeypatch):
    """A random base in the cache, where `sinkbench assets fetch smollm2` would put the real one."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("SINKBENCH_CACHE", str(cache))
    folder = cache_path("smollm2")
    return folder if folder.exists() else random_smol.save_base(folder)


def recipe_of(**lora):
    return Recipe("r", family="smol", lora=Lora(**{"rank": 2, "vision_rank": 2, "layers": (0, 3), **lora}))


def forward_of(recipe):
    """The packed forward of a model whose changes change something."""
    tokenizer = build_tokenizer(recipe)
    forward = SmolForward(build_model(recipe, tokenizer), build_processor(tokenizer, recipe), CHAT).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in trained(forward.model).values():
            value.normal_(0, 0.1, generator=generator)
    return forward, tokenizer


@pytest.mark.parametrize("image_first", [False, True])
@torch.no_grad()
def test_packed_turns_equal_forwards_of_their_own(image_first):
    forward, tokenizer = forward_of(recipe_of(image_first=image_first))
    images = Renderer(torch.device("cpu")).render([sample_scene("val", 3, 0)])
    turns = TurnEncoder(tokenizer, CHAT, len(forward.prefix_ids)).pack([DIALOGUE], 400)
    packed = forward(images, turns)[0]
    processor = processor_of(smol.base_folder(), image_first)
    # The longest answer goes first: the turn without an image.
    for number, turn in enumerate((DIALOGUE[1], DIALOGUE[0], DIALOGUE[2]), start=1):
        alone = isinstance(turn, TextTurn)
        content = [{"type": "image"}] * (not alone) + [{"type": "text", "text": turn[0]}]
        messages = [{"role": "user", "content": content}]
        if alone:
            messages.insert(0, {"role": "system", "content": smol.SYSTEM})
        text = processor.apply_chat_template(messages, add_generation_prompt=True) + turn[1] + CHAT.eos
        inputs = processor(text=[text], images=None if alone else [images[0]], return_tensors="pt")
        here = turns.turn[0] == (-number if alone else number)
        size = int(here.sum())
        assert size == inputs["input_ids"].shape[1] or not alone
        assert torch.equal(inputs["input_ids"][0, -size:], turns.ids[0, here])
        own = forward.model(**inputs).logits[0, -size:]
        torch.testing.assert_close(packed[here], own, atol=1e-3, rtol=1e-3)
    places = forward._position_ids(turns.offset)[0, len(forward.prefix_ids) :]
    assert places[turns.turn[0] == -1].tolist() == list(range(int((turns.turn[0] == -1).sum())))


def test_loss_is_that_of_all_logits():
    forward, tokenizer = forward_of(recipe_of())
    images = Renderer(torch.device("cpu")).render([sample_scene("val", 3, 0)])
    turns = TurnEncoder(tokenizer, CHAT, len(forward.prefix_ids)).pack([DIALOGUE], 400)
    logits = forward(images, turns)[0]
    expected = torch.nn.functional.cross_entropy(logits, turns.targets[0], ignore_index=IGNORED)
    torch.testing.assert_close(forward.loss(images, turns), expected)


def test_a_turn_without_an_image_sees_neither_prefix_nor_others():
    bias = attention_bias(torch.tensor([[1, -2, -2, 0]]), prefix=2, dtype=torch.float32)
    assert (bias[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_only_what_the_recipe_names_is_trained():
    def names(**lora):
        recipe = recipe_of(**lora)
        return set(trained(build_model(recipe, build_tokenizer(recipe))))

    parts = [{name.partition(".")[0] for name in names(**lora)} for lora in ({}, {"rank": 0}, {"vision_rank": 0})]
    assert parts == [
        {"language_model", "vision_tower", "multi_modal_projector"},
        {"vision_tower", "multi_modal_projector"},
        {"language_model", "multi_modal_projector"},
    ]
    changed = {name.split(".")[2] for name in names(layers=(1, 3)) if name.startswith("language_model")}
    assert changed == {"1", "2"}


def test_the_projector_has_a_rate_of_its_own_and_nothing_decays(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml")
    forward, _ = forward_of(recipe)
    groups = forward.parameter_groups(recipe.optimisation)
    assert [(group.get("factor"), group["weight_decay"]) for group in groups] == [(0.5, 0.0), (None, 0.0)]
    assert sum(len(group["params"]) for group in groups) == len(trained(forward.model))


@pytest.fixture
def train(tmp_path):
    def run(text, name, *options):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(text)
        flags = ["--config", str(recipe), "--out", str(tmp_path / name), "--device", "cpu", "--workers", "0"]
        assert train_tiny.main([*flags, "--no-compile", *options]) == 0
        return tmp_path / name

    return run


def test_both_stages_train_and_evaluate_as_one_command_each(train, base):
    align = train(RECIPE_ALIGN, "align", "--steps", "3", "--only", "train")
    folder = train(RECIPE, "instruct", "--steps", "3", "--start", str(align))
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(base, dtype=model.dtype).model.layers[0].mlp.up_proj.weight
    assert not torch.equal(model.model.language_model.layers[0].mlp.up_proj.weight, before)
    assert json.loads((folder / "deltas.json").read_text())["scale"] == {"language_model": 2.0, "vision_tower": 2.0}
    assert json.loads((folder / "eval.json").read_text())["scores"]["pope/adversarial/n"] == 12
    card = (folder / "README.md").read_text()
    assert "from scratch" not in card
    assert "around\nSmolLM2-135M-Instruct as dequantised" in card


def test_a_stage_starts_from_another_only_where_it_trains_the_same(tmp_path):
    recipe = recipe_of()
    model = build_model(recipe, build_tokenizer(recipe))
    with pytest.raises(UsageError, match=r"holds no deltas\.safetensors"):
        start_from(model, tmp_path)
    smol.save(model, build_processor(None, recipe), tmp_path, recipe)
    projector = recipe_of(rank=0, vision_rank=0)
    with pytest.raises(UsageError, match="changes what this recipe leaves alone"):
        start_from(build_model(projector, None), tmp_path)


def test_text_turns_come_as_often_as_the_recipe_says():
    recipe = replace(recipe_of(), data=Data(text_share=0.5))
    rng = random.Random(0)
    scenes = [sample_scene("train", 0, index) for index in range(60)]
    alone = [sum(isinstance(turn, TextTurn) for turn in dialogue(recipe)(scene, rng)) for scene in scenes]
    assert set(alone) == {0, 1}
    assert 18 < sum(alone) < 42


def test_an_unknown_stage_is_a_usage_error():
    with pytest.raises(UsageError, match=r"data\.stage is 'aline'"):
        dialogue(replace(recipe_of(), data=Data(stage="aline")))


@pytest.mark.parametrize(
    ("line", "message"),
    [("lora: {image_first: 1}", "must be true or false"), ("lora: {rank: true}", "must be a number")],
)
def test_booleans_are_booleans_and_numbers_numbers(tmp_path, line, message):
    (tmp_path / "r.yaml").write_text(f"name: r\n{line}\n")
    with pytest.raises(UsageError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_without_the_base_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path))
    with pytest.raises(UsageError) as raised:
        FAMILIES["smol"].tokenizer(recipe_of())
    assert raised.value.hint == "sinkbench assets fetch smollm2"


def test_only_answers_that_end_are_kept(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompts = ["What is your name?", "Name a fruit."]
    assert answers(model, processor_of(base), prompts, 3) == []
    # A model that can say nothing but the end of sequence.
    model.lm_head = torch.nn.Linear(64, len(model.lm_head.weight))
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data.zero_()[2] = 1.0
    assert answers(model, processor_of(base), prompts, 3) == [{"question": p, "answer": ""} for p in prompts]
