"""Prompts as the adapters write them: the processor's ids, the right roles, clear refusals."""

import pytest
import torch
from harness import FAMILIES, adapter, image, request, requests
from PIL import Image

from sinkbench.adapters.chat import ChatTemplate
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef, Message, Request

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_ids_are_the_processors_own(family):
    a = adapter(family)
    for asked in requests():
        text, _ = a._render(asked)
        pictures = [[i.load() for i in asked.images]] if asked.images else None
        inputs = a.processor(text=text, images=pictures, return_tensors="pt", add_special_tokens=False)
        assert torch.equal(a.encode(asked).ids, inputs["input_ids"][0])


@families
def test_query_is_the_users_words_and_nothing_else(family):
    a = adapter(family)
    for asked in requests():
        prompt = a.encode(asked)
        words = prompt.ids[prompt.roles == Role.QUERY]
        said = asked.messages[0].text.replace("<image>", " ").split()
        assert a.tokenizer.convert_ids_to_tokens(words.tolist()) == said


@families
def test_features_match_the_layout(family):
    a = adapter(family)
    for index, (width, height) in enumerate([(28, 28), (60, 30), (30, 60), (97, 31), (31, 97), (50, 50)]):
        inputs = a.preprocess(image(20 + index, width, height))
        (features,) = a.encode_images([inputs])
        assert len(features.tokens) == len(inputs.roles) == len(a.image_layout(image(20 + index, width, height)))


@families
def test_several_turns_and_a_system_prompt(family):
    a = adapter(family)
    turns = (
        Message("system", "you are a dog ."),
        Message("user", "<image>\nis there a cat ?"),
        Message("assistant", "no ."),
        Message("user", "what do you see ?"),
    )
    prompt = a.encode(Request("turns", turns, (image(2, 50, 50),)))
    query = a.tokenizer.convert_ids_to_tokens(prompt.ids[prompt.roles == Role.QUERY].tolist())
    assert query == ["is", "there", "a", "cat", "?", "what", "do", "you", "see", "?"]


@families
def test_refuses_what_does_not_fit(family):
    a = adapter(family)
    with pytest.raises(SampleError, match="2 image tokens for 1 images"):
        a.encode(request("r", "<image> <image> what ?", image(0)))
    with pytest.raises(SampleError, match="0 image tokens for 1 images"):
        a.encode(request("r", "what ?", image(0)))


@families
def test_an_image_without_pixels_fails_by_name(family, tmp_path):
    a = adapter(family)
    whole = image(3).load()
    path = tmp_path / "cut.png"
    whole.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SampleError, match=r"cut\.png"):
        a.preprocess(ImageRef(str(path)))


@families
def test_prefix_is_shared_by_questions_about_one_image_only(family):
    a = adapter(family)
    keys = {asked.id: a.encode(asked).prefix_key for asked in requests()}
    assert keys["wide/dog"] == keys["wide/see"] == keys["wide/many"]
    assert len({keys["wide/dog"], keys["tall/dog"], keys["square/one"], keys["two"], keys["text"]}) == 5


@families
def test_features_of_several_images_of_one_prompt_match_the_layout(family):
    a = adapter(family)
    images = a.encode(request("r", "<image> is <image> red ?", image(0, 60, 30), image(2, 50, 50))).images
    inputs = [a.preprocess(ref) for ref in images]
    for ref, features, one in zip(images, a.encode_images(inputs), inputs, strict=True):
        assert len(features.tokens) == len(one.roles) == len(a.image_layout(ref))


@families
def test_conversations_of_one_shape_are_rendered_once(family):
    a = adapter(family)
    rendered = []

    class Counting:
        tokenizer = a.tokenizer
        image_token = a.processor.image_token

        def apply_chat_template(self, messages, **settings):
            rendered.append(messages)
            return a.processor.apply_chat_template(messages, **settings)

    chat = ChatTemplate(Counting())
    for asked in requests() * 2:
        assert chat.render(asked) == a._render(asked)
    assert len(rendered) == 3  # One image before the text, two among it, none.


def test_a_template_that_drops_a_message_is_refused():
    a = adapter("llava")

    class Deaf:
        tokenizer = a.tokenizer

        def apply_chat_template(self, messages, **_):
            return "ASSISTANT:"

    with pytest.raises(SampleError, match="dropped a message"):
        ChatTemplate(Deaf()).render(request("r", "what ?"))


@families
def test_a_prompt_reads_the_header_of_its_image_once_at_most(family, monkeypatch, tmp_path):
    a = adapter(family)
    path = tmp_path / f"{family}.png"
    image(3, 60, 30).load().save(path)
    opened = []
    whole = Image.open
    monkeypatch.setattr(Image, "open", lambda *args: opened.append(args) or whole(*args))
    for text in ("<image> is there a dog ?", "<image> what do you see ?"):
        a.encode(request("r", text, ImageRef(str(path))))
    assert len(opened) <= 1
