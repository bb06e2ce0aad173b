"""Tokenizers, chat templates and processors of the tiny models."""

import pytest
import torch
from PIL import Image
from tiny.llava import CHAT
from tiny.text import build_tokenizer

from sinkbench.errors import UsageError
from sinkbench.scenes.dialogue import training_turns, vocabulary
from sinkbench.scenes.language import words
from sinkbench.scenes.scene import sample_scene, scene_rng


def turns(n):
    for index in range(n):
        yield from training_turns(sample_scene("train", 0, index), scene_rng("train", 0, index, "dialogue"))


def test_every_word_is_one_token_and_comes_back(tokenizer):
    for word in vocabulary():
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        assert len(ids) == 1
        assert tokenizer.decode(ids) == word


def test_every_text_of_the_data_set_comes_back(tokenizer):
    for question, answer in turns(40):
        for text in (question, answer):
            encoding = tokenizer.encode(text, add_special_tokens=False)
            assert "<unk>" not in encoding.tokens
            assert [token for token in encoding.tokens if token != "\n"] == words(text)
            assert tokenizer.decode(encoding.ids) == text


def test_offsets_point_at_the_words(processor):
    text = "USER: <image>\nIs there a dog, zebra nor quokka? ASSISTANT: no</s>"
    encoding = processor.tokenizer(text, return_offsets_mapping=True)
    tokens = processor.tokenizer.convert_ids_to_tokens(encoding.input_ids)
    assert tokens[0] == "<s>"
    spans = [text[start:end] for start, end in encoding.offset_mapping[1:]]
    assert [s for s, t in zip(spans, tokens[1:], strict=True) if t == "<unk>"] == ["nor", "quokka"]
    assert [s for s, t in zip(spans, tokens[1:], strict=True) if t != "<unk>"] == [
        t for t in tokens[1:] if t != "<unk>"
    ]


def test_vocabulary_entry_of_two_words_is_refused():
    with pytest.raises(UsageError, match="hot dog"):
        build_tokenizer(["dog", "hot dog"], CHAT)


def test_chat_template_is_llavas(processor):
    image = {"type": "image"}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Is there a dog?"}, image]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "Is there a cat?"}]},
    ]
    expected = "USER: <image>\nIs there a dog? ASSISTANT: yes</s>USER: Is there a cat? ASSISTANT:"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_chatml_template_writes_turns_and_images(forward):
    if forward.name == "llava":
        pytest.skip("the family does not write ChatML")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "Is there a cat?"}]},
    ]
    chat = forward.family.chat
    expected = f"{chat.prefix}Is there a dog?{chat.ask}yes<|im_end|>\n<|im_start|>user\nIs there a cat?{chat.ask}"
    assert forward.processor.apply_chat_template(messages, add_generation_prompt=True) == expected
    said = [{"role": "system", "content": "You are a dog."}, *messages]
    assert forward.processor.apply_chat_template(said).startswith("<|im_start|>system\nYou are a dog.<|im_end|>\n")
    assert "<unk>" not in forward.processor.tokenizer.convert_ids_to_tokens(
        forward.processor.tokenizer(expected).input_ids
    )


@pytest.mark.parametrize("size", [(224, 224), (640, 480), (100, 300)])
def test_images_of_any_shape_become_about_as_many_tokens(forward, size):
    inputs = forward.processor(images=[Image.new("RGB", size)], text=[forward.family.chat.prefix], return_tensors="pt")
    tokens = int((inputs["input_ids"] == forward.model.config.image_token_id).sum())
    trained = forward.image_stop - forward.image_start
    assert tokens == trained if size == (224, 224) else 0.7 * trained < tokens < 1.2 * trained


def test_image_becomes_196_tokens_and_is_not_cropped(processor):
    image = Image.new("RGB", (300, 150), "black")
    image.paste("white", (0, 0, 30, 150))
    inputs = processor(images=image, text="USER: <image>\nIs there a dog? ASSISTANT:", return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 196
    assert inputs["pixel_values"].shape == (1, 3, 224, 224)
    left, right = inputs["pixel_values"][0, 0, :, 4], inputs["pixel_values"][0, 0, :, -4]
    assert torch.all(left > 1.5)
    assert torch.all(right < -1.5)


def test_saved_processor_is_the_same(forward, tmp_path):
    from transformers import AutoProcessor

    processor, prefix = forward.processor, forward.family.chat.prefix
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    prompts = [f"{prefix}{text}{forward.family.chat.ask}" for text in ("Is there a dog in the image?", "Describe .")]
    images = [Image.new("RGB", (224, 224), "red")] * 2
    first, second = (p(images=images, text=prompts, padding=True, return_tensors="pt") for p in (processor, loaded))
    assert type(loaded) is type(processor)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["input_ids"][1, 0] == processor.tokenizer.pad_token_id
    assert loaded.chat_template == processor.chat_template
