"""What is told of a method is what its class and its config say."""

import json
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from sinkbench.engine.context import Stage
from sinkbench.methods import builtin_names, get_method, method_class
from sinkbench.methods.base import Method
from sinkbench.methods.describe import describe, in_order
from sinkbench.methods.facts import COSTS, FAMILIES


@pytest.mark.parametrize("name", builtin_names())
def test_nothing_is_left_unsaid(name):
    described = describe(name)
    assert described.family in FAMILIES
    assert described.cost in COSTS
    assert all(parameter.meaning for parameter in described.parameters)
    assert all(values.source for values in (*described.profiles, *described.models))
    assert json.loads(json.dumps(described.json()))["name"] == name


@pytest.mark.parametrize("name", builtin_names())
def test_values_of_the_config_are_parameters_of_their_types(name):
    described = describe(name)
    for profile in described.profiles:
        get_method(name, {"profile": profile.name})
    for values in described.models:
        get_method(name, model=values.name)


def test_var_is_described_as_it_is_written():
    described = describe("var")
    assert (described.edits, described.observes) == (("suffix", "decode"), ("prefix", "suffix"))
    assert described.touches == "edits suffix, decode; reads prefix"
    parameters = {parameter.name: parameter for parameter in described.parameters}
    assert list(parameters) == list(method_class("var")().params())
    assert (parameters["tau"].kind, parameters["tau"].default) == ("float", 20.0)
    assert parameters["tau"].meaning == "A token is a sink where φ > tau."
    assert parameters["sink_dims"].kind == "list of int"
    assert parameters["take"].meaning.endswith("moved. The released code moves 1 − 0.6.")
    profiles = {profile.name: profile for profile in described.profiles}
    assert profiles["paper"].params == {"tau": 20.0, "rho": 0.5, "s0": 0.2, "take": 0.6, "except_last": True}
    assert profiles["code"].source.startswith("seilk/VisAttnSink@98e62d6")
    assert {values.name: values.params for values in described.models}["tiny-llava"] == {"tau": 2.0}


@dataclass(frozen=True)
class Base(Method):
    """A method.

    Attributes:
        kept: Said by the base class,
            on two lines: with a colon.
        changed (float): Said first by the base class.

    Example:
        shout: not a parameter.
    """

    name: ClassVar[str] = "base"
    summary: ClassVar[str] = "for tests"
    paper: ClassVar[None] = None
    observes: ClassVar[Stage] = Stage.VISION

    kept: tuple[tuple[int, ...], ...] = field(default_factory=tuple)
    changed: float = 1.0


@dataclass(frozen=True)
class Derived(Base):
    """A variant.

    Attributes:
        changed: Said anew.
    """

    mode: Literal["always", "code"] = "code"


def test_meanings_come_from_all_docstrings_of_a_class(monkeypatch):
    monkeypatch.setattr("sinkbench.methods.describe.method_class", lambda name: Derived)
    described = describe("greedy")
    assert {parameter.name: parameter.meaning for parameter in described.parameters} == {
        "kept": "Said by the base class, on two lines: with a colon.",
        "changed": "Said anew.",
        "mode": "",
    }
    assert [parameter.kind for parameter in described.parameters] == ["list of list of int", "float", "always or code"]
    assert described.parameters[0].default == ()
    assert described.touches == "reads vision"
    assert (described.family, described.cost, described.calibration) == ("", "", "")


def test_tables_go_by_family_then_by_name():
    assert [method.name for method in in_order(["var", "pai", "greedy"])] == ["greedy", "pai", "var"]
