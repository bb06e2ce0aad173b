"""The packed training forward against the model's own forward on separate questions."""

import pytest
import torch
from tiny.data import TrainingSteps, batches
from tiny.llava import PackedForward, build_model
from tiny.packing import IGNORED, TurnEncoder, attention_bias
from tiny.recipe import load_recipe
from tiny.text import IMAGE, PROMPT_PREFIX

DIALOGUES = [
    [
        ("Is there a dog in the image?", "no"),
        ("Describe this image.", "A street with a car."),
        ("What color is it?", "red"),
    ],
    [("How many cars are there in the image?", "two")],
]


@pytest.fixture(scope="module")
def forward(micro, processor, tokenizer):
    model = build_model(load_recipe(micro), tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return PackedForward(model, processor)


@torch.no_grad()
def test_packed_logits_equal_separate_forwards(forward, processor, tokenizer):
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    turns = TurnEncoder(tokenizer).pack(DIALOGUES, 64)
    packed = forward(images, turns)
    prefix = processor.tokenizer(PROMPT_PREFIX.replace(IMAGE, IMAGE * 196)).input_ids
    pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    for image, dialogue in enumerate(DIALOGUES):
        for number in range(1, len(dialogue) + 1):
            here = turns.turn[image] == number
            ids = torch.tensor([prefix + turns.ids[image, here].tolist()])
            alone = forward.model(input_ids=ids, pixel_values=pixels[image : image + 1]).logits[0, len(prefix) :]
            torch.testing.assert_close(packed[image, here], alone, atol=2e-5, rtol=1e-4)
            assert alone.std() > 0.1


def test_loss_falls_on_answers_and_end_of_sequence_alone(tokenizer):
    turns = TurnEncoder(tokenizer).pack(DIALOGUES, 64)
    answered = turns.targets[0][turns.targets[0] != IGNORED]
    # The longest answer goes first; the others keep their order.
    text = tokenizer.decode(answered.tolist(), skip_special_tokens=False)
    assert text == "A street with a car. </s> no </s> red </s>"
    at = (turns.targets[0] != IGNORED).nonzero()[:, 0]
    inside = at[turns.targets[0][at] != tokenizer.token_to_id("</s>")]
    assert torch.equal(turns.ids[0][inside + 1], turns.targets[0][inside])


def test_turn_that_does_not_fit_is_left_out_and_the_next_may_fit(tokenizer):
    encoder = TurnEncoder(tokenizer)
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
    again = TrainingSteps(recipe, tokenizer)[2]
    assert torch.equal(again.turns.targets, third.turns.targets)
