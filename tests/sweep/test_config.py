"""The cells of a sweep."""

import pytest

from sinkbench.errors import UsageError
from sinkbench.sweep.config import cells

BASE = {"model": ["tiny-llava", "tiny-qwen"], "method": ["greedy", "var", "fastv"], "task": ["scenes_pope"]}


def told(specs):
    return [(spec.model, spec.method, spec.params) for spec in specs]


def test_a_grid_varies_the_methods_that_own_its_parameters_and_no_other():
    specs = cells({**BASE, "grid": {"fastv.keep": [0.5, 0.25], "var.tau": [3]}})
    one_model = [
        ("greedy", {}),
        ("var", {"var.tau": 3}),
        ("fastv", {"fastv.keep": 0.5}),
        ("fastv", {"fastv.keep": 0.25}),
    ]
    assert told(specs) == [(model, *rest) for model in ("tiny-llava", "tiny-qwen") for rest in one_model]


def test_parameters_of_one_method_are_combined_and_those_of_compositions_count():
    specs = cells({**BASE, "method": ["var+pai"], "grid": {"var.tau": [3, 4], "pai.alpha": [0.2, 0.5]}})
    assert [tuple(spec.params.values()) for spec in specs[:4]] == [(3, 0.2), (3, 0.5), (4, 0.2), (4, 0.5)]
    assert len(specs) == 8


def test_fixed_parameters_go_along_with_those_of_the_grid():
    (spec, _) = cells(
        {**BASE, "model": "tiny-llava", "method": "fastv", "params": {"fastv.layer": 2}, "grid": {"fastv.keep": [1, 2]}}
    )
    assert spec.params == {"fastv.layer": 2, "fastv.keep": 1}


def test_a_value_given_twice_is_one_cell():
    assert len(cells({**BASE, "method": "fastv", "model": "tiny-llava", "grid": {"fastv.keep": [0.5, 0.5]}})) == 1


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"gift.gamma": [1]}, "'gift.gamma' belongs to no method and no task"),
        ({"fastv.keep": 0.5}, "holds 0.5, not a list"),
        ({"fastv.keep": []}, "holds \\[\\], not a list"),
        ({"fastv": [1]}, "'fastv' names no parameter"),
        (["fastv.keep"], "is no mapping"),
    ],
)
def test_a_malformed_grid_says_what_to_write(grid, message):
    with pytest.raises(UsageError, match=message) as error:
        cells({**BASE, "grid": grid})
    assert "rite" in error.value.hint


def test_a_parameter_stands_in_one_place_only():
    with pytest.raises(UsageError, match=r"fastv.keep stands in params and in the grid"):
        cells({**BASE, "params": {"fastv.keep": 0.5}, "grid": {"fastv.keep": [0.5]}})
