"""The packed training forward against the model's own forward on separate questions, for every family."""

from dataclasses import replace

import pytest
import torch
from tiny.data import TrainingSteps, batches
from tiny.families import family_of
from tiny.internvl import InternVLForward
from tiny.llava import CHAT
from tiny.packing import IGNORED, TurnEncoder, attention_bias
from tiny.recipe import load_recipe
from tiny.text import build_tokenizer

from sinkbench.errors import UsageError
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import sample_scene

TOLERANCE = {"llava": 1e-4, "qwen": 1e-4, "internvl": 5e-3}
"""On logits and features; InternVL's thumbnails differ from the processor's by one level in a few pixels."""
DIALOGUES = [
    [
        ("Is there a dog in the image?", "no"),
        ("Describe this image.", "A street with a car."),
        ("What color is it?", "red"),
    ],
    [("How many cars are there in the image?", "two")],
]


@pytest.fixture(scope="module")
def images():
    return Renderer(torch.device("cpu")).render([sample_scene("val", 3, index) for index in range(2)])


@torch.no_grad()
def test_packed_logits_equal_separate_forwards(forward, images):
    turns = TurnEncoder(forward.words, forward.family.chat).pack(DIALOGUES, 96)
    packed = forward(images, turns)
    for image, dialogue in enumerate(DIALOGUES):
        # The longest answer goes first; the others keep their order.
        ordered = sorted(dialogue, key=lambda turn: turn != DIALOGUES[0][1])
        for number, (question, answer) in enumerate(ordered, start=1):
            user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
            text = forward.processor.apply_chat_template([user], add_generation_prompt=True)
            text += answer + forward.family.chat.eos
            inputs = forward.processor(images=[images[image]], text=[text], return_tensors="pt")
            here = turns.turn[image] == number
            assert torch.equal(inputs["input_ids"][0, -here.sum() :], turns.ids[image, here])
            alone = forward.model(**inputs).logits[0, -here.sum() :]
            torch.testing.assert_close(packed[image, here], alone, atol=TOLERANCE[forward.name], rtol=0)
            assert alone.std() > 100 * TOLERANCE[forward.name]


@torch.no_grad()
def test_image_features_equal_the_models_own(forward, images):
    inputs = forward.processor(images=list(images), text=[forward.family.chat.prefix] * 2, return_tensors="pt")
    vision = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}
    own = forward.model.model.get_image_features(**vision, return_dict=True).pooler_output
    own = torch.cat(list(own))
    found = forward.image_features(images)
    assert found.shape[1] == forward.image_stop - forward.image_start
    torch.testing.assert_close(found, own.reshape(found.shape), atol=TOLERANCE[forward.name], rtol=0)
    assert own.std() > 20 * TOLERANCE[forward.name]


@torch.no_grad()
def test_tiles_are_the_processors(forward, images):
    if not isinstance(forward, InternVLForward):
        pytest.skip("the family cuts no tiles")
    own = forward.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    found = forward.tiles(images).flatten(0, 1)
    levels = (found - own).abs() * forward.std * 255
    assert levels.max() < 1.01
    assert levels.mean() < 0.01


def test_grid_that_does_not_tile_a_scene_is_a_usage_error(micro_of, tmp_path):
    recipe = load_recipe(micro_of)
    if recipe.family == "llava":
        pytest.skip("the family cuts nothing")
    broken = {key: 96 if value == 112 else value for key, value in recipe.vision.items()}
    family = family_of(recipe)
    with pytest.raises(UsageError, match="96"):
        family.build_model(replace(recipe, vision=broken), build_tokenizer([], family.chat))


def test_unknown_family_is_a_usage_error(micro):
    with pytest.raises(UsageError, match="qwem") as caught:
        family_of(replace(load_recipe(micro), family="qwem"))
    assert "qwen" in caught.value.hint


def test_loss_falls_on_answers_and_end_of_sequence_alone(tokenizer):
    turns = TurnEncoder(tokenizer, CHAT).pack(DIALOGUES, 64)
    answered = turns.targets[0][turns.targets[0] != IGNORED]
    # The longest answer goes first; the others keep their order.
    text = tokenizer.decode(answered.tolist(), skip_special_tokens=False)
    assert text == "A street with a car. </s> no </s> red </s>"
    at = (turns.targets[0] != IGNORED).nonzero()[:, 0]
    inside = at[turns.targets[0][at] != tokenizer.token_to_id("</s>")]
    assert torch.equal(turns.ids[0][inside + 1], turns.targets[0][inside])


def test_turn_that_does_not_fit_is_left_out_and_the_next_may_fit(tokenizer):
    encoder = TurnEncoder(tokenizer, CHAT)
    sizes = [len(encoder.question(q)) + len(encoder.answer(a)) for q, a in DIALOGUES[0]]
    turns = encoder.pack(DIALOGUES[:1], sizes[1] + sizes[2])
    assert sizes[0] > sizes[2]
    assert turns.turn[0].tolist() == [1] * sizes[1] + [3] * sizes[2]
    assert turns.offset[0].tolist() == [*range(sizes[1]), *range(sizes[2])]


def test_attention_bias_spells_out_who_sees_whom():
    bias = attention_bias(torch.tensor([[1, 1, 2, 0]]), prefix=2, dtype=torch.float32)
    seen = (bias[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_stream_is_the_same_for_any_number_of_workers_and_any_start(micro, tokenizer):
    recipe = load_recipe(micro)
    cpu = torch.device("cpu")
    alone = batches(recipe, tokenizer, 0, 0, cpu)
    first, second, third = (next(alone) for _ in range(3))
    assert not torch.equal(first.images, second.images)
    late = batches(recipe, tokenizer, 1, 2, cpu)
    for expected in (second, third):
        found = next(late)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.turns.ids, expected.turns.ids)
    again = TrainingSteps(recipe, tokenizer, prefix=0)[2]
    assert torch.equal(again.turns.targets, third.turns.targets)
