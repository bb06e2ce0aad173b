"""Chats read back from ids: the roles that the adapter gave, for every family and shape of conversation."""

from functools import cache

import pytest
import torch
from harness import FAMILIES, adapter, image, requests

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.adapters.transcript import Transcript
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError
from sinkbench.request import Message, Request


@cache
def shipped(name):
    return load_adapter(resolve_model(name), "cpu", "float32")


def conversations():
    wide, tall = image(0, 60, 30), image(1, 30, 60)
    asked, yes, no = (
        Message("user", "<image>\nis there a dog ?"),
        Message("assistant", "yes"),
        Message("assistant", "no"),
    )
    more, system = Message("user", "one , two cat ."), Message("system", "what do you see ?")
    return {
        "system": Request("", (system, asked), (wide,)),
        "two rounds": Request("", (asked, yes, more), (wide,)),
        "three rounds": Request("", (asked, yes, more, no, Message("user", "see")), (wide,)),
        "system and rounds": Request("", (system, asked, yes, more), (wide,)),
        "an image later": Request("", (asked, yes, Message("user", "<image> and a cat ?")), (wide, tall)),
        "images in between": Request("", (Message("user", "is there <image> a dog ? <image>"),), (wide, tall)),
        "images alone": Request("", (Message("user", "<image> <image>"),), (wide, tall)),
        **{request.id: request for request in requests()},
    }


@pytest.mark.parametrize("shape", conversations())
@pytest.mark.parametrize("model", [*FAMILIES, "tiny-llava", "tiny-qwen", "tiny-internvl"])
def test_roles_are_those_that_the_adapter_gives(model, shape):
    a = shipped(model) if model.startswith("tiny-") else adapter(model)
    prompt = a.encode(conversations()[shape])
    read = Transcript(a).read(prompt.ids.tolist())
    expected = prompt.roles.clone()
    expected[prompt.ids == a.image_token] = int(Role.IMAGE)  # Separators cannot be told from ids.
    assert torch.equal(read.roles, expected)
    by_user = [token for text in read.user_texts for token, *_ in text.tokens]
    assert by_user == (expected == Role.QUERY).nonzero().flatten().tolist()


def test_words_come_with_the_characters_of_each_token():
    a = adapter("llava")
    ids = a.encode(Request("", (Message("user", "<image>\nis there a dog ?"),), (image(0),))).ids
    (text,) = Transcript(a).read(ids.tolist()).user_texts
    assert [text.text[begin:end].strip() for _, begin, end in text.tokens] == ["is", "there", "a", "dog", "?"]


@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen", "tiny-internvl"])
def test_what_does_not_end_where_an_answer_begins_is_refused(model):
    a = shipped(model)
    ids = a.encode(Request("", (Message("user", "<image>\nis there a dog ?"),), (image(0),))).ids.tolist()
    for other in (ids[:-2], [*ids, *a.tokenizer("yes", add_special_tokens=False)["input_ids"]], ids[3:]):
        with pytest.raises(SampleError, match="chat template"):
            Transcript(a).read(other)
