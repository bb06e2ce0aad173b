"""Prompts without a chat template, on every family: the tokenizer's own opening, the right roles and positions."""

import pytest
import torch
from harness import FAMILIES, adapter, folder
from random_models import save_text, text_tokenizer

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError

families = pytest.mark.parametrize("family", [*FAMILIES, "text"])
TEXT = "is there a red dog ?"


def load(family, **options):
    if family != "text":
        return adapter(family)
    path = save_text(folder() / f"plain-{len(options)}", tok=text_tokenizer(**options))
    return load_adapter(resolve_model(str(path)), "cpu", "float32")


@families
def test_text_and_its_ids_are_one_prompt(family):
    a = load(family)
    prompt = a.plain_prompt(TEXT)
    assert prompt.ids.tolist() == a.tokenizer(TEXT)["input_ids"]
    query = prompt.ids[prompt.roles == Role.QUERY]
    assert a.tokenizer.decode(query) == TEXT
    again = a.plain_prompt(query.tolist())
    for name in ("ids", "roles", "positions"):
        assert torch.equal(getattr(again, name), getattr(prompt, name))
    assert again.request.messages[0].text == TEXT
    assert again.user_texts == ()


@families
def test_positions_count_alike_on_all_axes(family):
    a = load(family)
    axes = 3 if family.startswith("qwen") else 1
    prompt = a.plain_prompt([7] * 64, max_tokens=64)
    assert torch.equal(prompt.positions, torch.arange(64).expand(axes, -1))


def test_what_the_tokenizer_opens_with_is_template_and_counts():
    with_opening, without = load("text"), load("text", opening=False)
    prompt = with_opening.plain_prompt(TEXT, max_tokens=4)
    assert with_opening.tokenizer.decode(prompt.ids) == "<s> is there a"
    assert prompt.roles.tolist() == [Role.TEMPLATE, Role.QUERY, Role.QUERY, Role.QUERY]
    prompt = without.plain_prompt(TEXT, max_tokens=4)
    assert without.tokenizer.decode(prompt.ids) == "is there a red"
    assert (prompt.roles == Role.QUERY).all()


def test_words_are_found_again():
    prompt = load("text").plain_prompt(TEXT, max_tokens=6)
    marks = prompt.mark(lambda text: [(text.index("red"), text.index("red") + 3)])
    assert marks.tolist() == [False, False, False, False, True, False]


def test_the_engine_answers_it():
    from sinkbench.engine.generate import Engine
    from sinkbench.methods import get_method

    a = load("text")
    prompts = [a.plain_prompt(TEXT), a.plain_prompt([5, 6, 7])]
    engine = Engine(a, get_method("greedy", {}))
    assert [response.error for response in engine.generate(prompts, {})] == ["", ""]


@families
def test_refuses_what_cannot_be_read(family):
    a = load(family)
    size = a.language_model.config.vocab_size
    for wrong in ([5, size], [-1, 5]):
        with pytest.raises(SampleError, match=f"token ids reach from 0 to {size - 1}"):
            a.plain_prompt(wrong)
    with pytest.raises(SampleError, match="no text"):
        a.plain_prompt("")
    with pytest.raises(SampleError, match="at most 0 tokens"):
        a.plain_prompt([5], max_tokens=0)
    if family != "text":
        with pytest.raises(SampleError, match="image token"):
            a.plain_prompt([5, a.image_token])
