"""Names, parameters and compositions, as a user types them."""

import dataclasses

import pytest

from sinkbench.errors import UsageError
from sinkbench.methods import get_method, method_class, method_names
from sinkbench.methods.facts import ModelInfo

MODEL = ModelInfo("m", n_layers=4, n_heads=4, n_kv_heads=2, hidden_size=64, sink_dims=(1,), vision_class_tokens=1)


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_frozen_described_and_binds(name):
    cls = method_class(name)
    assert cls.name == name
    assert cls.summary
    assert dataclasses.fields(cls) is not None
    assert cls.paper is None or cls.paper.arxiv or cls.paper.code
    method = get_method(name)
    assert hash(method) == hash(get_method(name))
    if cls.calibration:
        with pytest.raises(UsageError, match=name):
            method.bind(dataclasses.replace(MODEL, sink_dims=()))
    else:
        method.bind(MODEL)
    for field in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, 0)
        assert field.name in method.params()


@pytest.mark.parametrize(
    ("name", "params", "says", "hints"),
    [
        ("vra", {}, "unknown method 'vra'", "var"),
        ("var", {"var.tua": 3}, "unknown parameter 'var.tua'", "var.tau"),
        ("var", {"pai.alpha": 3}, "'pai.alpha' belongs to no method of this run", "var"),
        ("var", {"var.tau": "x"}, "var.tau='x' is not float", "--set var.tau"),
        ("var", {"var.start": 2.5}, "var.start=2.5 is not int", "--set"),
        ("var", {"var.except_last": 1}, "var.except_last=1 is not bool", "--set"),
        ("var", {"var.take": 1.5}, "var.take=1.5 is no share", "0 to 1"),
        ("var", {"var.profile": "papr"}, "var has no profile 'papr'", "paper"),
        ("pai", {"pai.first_token": "sometimes"}, "is not 'always' or 'code'", "--set"),
        ("pai", {"pai.cut": 0.0}, "pai.cut=0.0", "(0, 1]"),
        ("var+var", {}, "var+var names a method twice", "once"),
        ("greedy+pai", {}, "greedy edits nothing", "Leave greedy out"),
    ],
)
def test_mistakes_are_named_with_the_next_step(name, params, says, hints):
    with pytest.raises(UsageError) as caught:
        get_method(name, params)
    assert says in caught.value.message
    assert hints in caught.value.hint


def test_parameters_profiles_and_their_order():
    assert get_method("var", {"tau": 5}).params()["tau"] == 5.0
    assert get_method("var", {"var.layers": [2, 3]}).params()["layers"] == (2, 3)
    paper = get_method("var", {"var.profile": "paper"}).params()
    assert (paper["take"], paper["except_last"]) == (0.6, True)
    assert get_method("var", {"var.profile": "paper", "var.take": 0.1}).params()["take"] == 0.1


def test_a_composition_carries_its_parts_parameters():
    both = get_method("var+pai", {"pai.alpha": 0.2})
    assert both.name == "var+pai"
    assert both.params()["pai.alpha"] == 0.2
    assert both.params()["var.tau"] == 20.0
    assert both != get_method("pai+var", {"pai.alpha": 0.2})


def test_binding_names_what_the_model_lacks():
    with pytest.raises(UsageError, match="var needs the sink dimensions of m"):
        get_method("var").bind(dataclasses.replace(MODEL, sink_dims=()))
    with pytest.raises(UsageError, match="m has layers 0 to 3"):
        get_method("var", {"layers": [9]}).bind(MODEL)
    with pytest.raises(UsageError, match="pai amplifies layers 2 to 9"):
        get_method("pai", {"end": 9}).bind(MODEL)


def test_a_profile_may_be_called_by_a_number():
    assert get_method("fastv", {"profile": 128}) == get_method("fastv", {"profile": "128"})
    assert get_method("fastv", {"profile": 128}).params()["keep"] == 128
