"""How many passes an answer takes: what nobody shares is not run apart, and images are encoded once."""

from dataclasses import replace
from unittest.mock import patch

import pytest
from harness import ACTIVE, adapter, answers, image, method, request, requests

from sinkbench.engine.generate import Engine
from sinkbench.methods import get_method

QUESTION = "<image>\nis there a dog in the image ?"
ALONE = [request(f"{n}", QUESTION, image(n, 60, 30)) for n in range(3)]
SHARED = [request(f"{n}", f"{QUESTION} {'one ? ' * n}", image(0, 60, 30)) for n in range(3)]


class Passes:
    """Calls of an adapter: (language model, vision encoder); every answer has one token."""

    def __init__(self, family, named, asked, **options):
        a = adapter(family)
        asked = [replace(each, generation=replace(each.generation, max_new_tokens=1)) for each in asked]
        with (
            patch.object(a, "forward", wraps=a.forward) as forward,
            patch.object(a, "encode_images", wraps=a.encode_images) as encode,
        ):
            sweep = Engine(a, named, **options).sweep(asked, lambda *_: True)
            self.texts = {(name, response.id): response.text for name, batch in sweep for response in batch}
        self.counts = (forward.call_count, encode.call_count)


def passes(name, asked, family="llava", params=None, **options):
    return Passes(family, {name: get_method(name, params or {})}, asked, **options).counts


@pytest.mark.parametrize("name", ["greedy", "sample", "uniform", "divprune"])
def test_what_nothing_is_shared_of_is_one_pass(name):
    assert passes(name, ALONE) == (1, 1)
    assert passes(name, SHARED) == (2, 1), "the image's part once, then the questions"


def test_a_method_that_acts_on_the_language_model_has_the_prefix_apart():
    assert passes("pai", ALONE, params={"pai.gamma": 1.0}) == (2, 1)


def test_methods_beside_each_other_share_the_prefix_all_the_same():
    """Their answers are compared: what they have in common is to be the same numbers."""
    named = {"greedy": get_method("greedy"), "pai": get_method("pai", {"pai.gamma": 1.0})}
    assert Passes("llava", named, ALONE).counts == (3, 1)


def test_parts_would_be_decoded_apart():
    a = adapter("llava")
    engine = Engine(a, get_method("greedy"))
    prompts = [a.encode(each) for each in ALONE]
    (lane,), budget = engine.lanes.values(), engine.budget
    longest = max(map(len, prompts))
    assert lane.in_one_pass(prompts, [], budget)
    assert lane.in_one_pass(prompts, [], replace(budget, pass_tokens=3 * longest))
    assert not lane.in_one_pass(prompts, [], replace(budget, pass_tokens=3 * longest - 1))
    assert not lane.in_one_pass(prompts, prompts, budget), "a second branch has its own passes"


@pytest.mark.parametrize("name", ["visionzip", "visiondrop", "fastervlm", "vflowopt", "vflowopt-recycled"])
@pytest.mark.parametrize("family", ["llava", "llava_onevision", "qwen2_5_vl"])
def test_an_image_is_encoded_once_whatever_a_method_wants_to_see(family, name):
    table = {"vflowopt-recycled": {"vflowopt.keep": 0.4, "vflowopt.a": 2.0}, **ACTIVE}
    m = get_method(name.partition("-")[0], table[name])
    assert Passes(family, {"m": m}, ALONE).counts[1] == 1


def test_beside_others_it_sees_its_own_pass():
    named = {"greedy": get_method("greedy"), "visionzip": method("visionzip")}
    assert Passes("llava", named, ALONE).counts[1] == 2


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("name", ["greedy", "divprune", "visionzip"])
def test_one_pass_or_two_answers_are_the_same(family, name):
    a, m = adapter(family), method(name)
    apart = answers(a, m, requests())
    alone = {}
    for each in requests():
        alone |= answers(a, m, [each])
    assert alone == apart
