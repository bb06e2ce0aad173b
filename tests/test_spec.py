from pathlib import Path

import pytest
from pydantic import ValidationError

from sinkbench.cli.assignments import parse_assignments
from sinkbench.errors import UsageError
from sinkbench.methods import method_names, runnable_names
from sinkbench.request import Generation
from sinkbench.spec import GenerationOverrides, RunSpec, expand, read_config, run_id, with_flags

CONFIGS = Path(__file__).parents[1] / "configs"


def settings(**changes):
    return {"model": "tiny-llava", "task": "scenes_pope", **changes}


def test_expand_takes_several_models_and_all_methods(tmp_path):
    specs = expand(settings(model="tiny-llava, tiny-qwen", method="greedy", task=["a", "b"]))
    assert [(spec.model, spec.task) for spec in specs] == [
        ("tiny-llava", "a"),
        ("tiny-llava", "b"),
        ("tiny-qwen", "a"),
        ("tiny-qwen", "b"),
    ]
    folder = tmp_path / "one,model"
    folder.mkdir()
    assert [spec.model for spec in expand(settings(model=str(folder)))] == [str(folder)]
    named = [spec.method for spec in expand(settings(method="var+pai,greedy,all"))]
    assert named[:2] == ["var+pai", "greedy"]
    assert sorted(named[1:]) == runnable_names()
    # A part of compositions.
    assert {*method_names()} - {*runnable_names()} == {"debias"}


def test_expand_makes_every_combination_task_by_task():
    specs = expand(settings(method=["greedy", "var,pai"], task="a, b"))
    assert [(s.task, s.method) for s in specs] == [
        ("a", "greedy"),
        ("a", "var"),
        ("a", "pai"),
        ("b", "greedy"),
        ("b", "var"),
        ("b", "pai"),
    ]


def test_greedy_is_the_default_method():
    assert [spec.method for spec in expand(settings())] == ["greedy"]


def test_parameters_go_to_their_owners():
    params = {"var.tau": 5, "scenes_pope.parser": "vcd"}
    specs = expand(settings(method="greedy,var+pai", task="scenes_pope,scenes_mcq", params=params))
    assert [(s.method, s.task, s.method_params, s.task_params) for s in specs] == [
        ("greedy", "scenes_pope", {}, {"parser": "vcd"}),
        ("var+pai", "scenes_pope", {"var.tau": 5}, {"parser": "vcd"}),
        ("greedy", "scenes_mcq", {}, {}),
        ("var+pai", "scenes_mcq", {"var.tau": 5}, {}),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"params": {"vra.tau": 5}}, "vra.tau"),
        ({"params": 5}, "params"),
        ({"bach_size": 4}, "bach_size"),
        ({"batch_size": "large"}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "gpu"}, "device"),
        ({"stage": "evaluate"}, "stage"),
        ({"share_prefix": "often"}, "share_prefix"),
        ({"generation": {"max_new_tokens": 0}}, "max_new_tokens"),
        ({"generation": {"beams": 5}}, "beams"),
        ({"model": ""}, "model"),
        ({"task": None}, "task"),
    ],
)
def test_a_bad_setting_is_named(changes, expected):
    with pytest.raises(UsageError, match=expected):
        expand(settings(**changes))


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(UsageError) as caught:
        expand(settings(bach_size=4))
    assert "batch_size" in caught.value.hint


def test_a_spec_is_frozen_and_knows_its_fields():
    spec = RunSpec(**settings())
    with pytest.raises(ValidationError):
        spec.seed = 1
    with pytest.raises(ValidationError):
        RunSpec(**settings(), colour="red")
    with pytest.raises(ValidationError, match="belongs neither"):
        RunSpec(**settings(params={"pai.gamma": 1}))
    assert RunSpec(**spec.to_json()) == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("[1, 2]", [1, 2]), ("vcd", "vcd"), ("a: [", "a: [")],
)
def test_assignments_are_yaml_scalars(text, value):
    given = parse_assignments([f"var.tau={text}"])["var.tau"]
    assert given == value
    assert type(given) is type(value)


def test_an_assignment_may_hold_further_equals_signs():
    assert parse_assignments(["a.b=c=d"]) == {"a.b": "c=d"}


@pytest.mark.parametrize("assignment", ["tau=5", "var.tau", "var.=5", ".tau=5", ""])
def test_an_assignment_of_another_form_is_refused(assignment):
    with pytest.raises(UsageError, match=r"METHOD\.PARAM=VALUE"):
        parse_assignments([assignment])


@pytest.mark.parametrize(
    ("content", "expected"), [("a: [", "no valid YAML"), ("- a\n- b\n", "not a mapping"), ("", "not a mapping")]
)
def test_a_bad_config_file_is_explained(tmp_path, content, expected):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=expected):
        read_config(path)


def test_parameters_of_a_config_file_go_with_their_methods():
    config = {
        "method": ["greedy", "var+pai"],
        "task": "a",
        "params": {"var.tau": 5, "pai.gamma": 1, "a.x": 2, "vra.tau": 3},
    }
    assert with_flags(config, {"method": "pai"})["params"] == {"pai.gamma": 1, "a.x": 2, "vra.tau": 3}
    assert with_flags(config, {"task": ["b"]})["params"] == {"var.tau": 5, "pai.gamma": 1, "vra.tau": 3}
    assert with_flags(config, {"model": "m"}) == {**config, "model": "m"}
    with pytest.raises(UsageError, match=r"'vra\.tau' belongs to no method"):
        expand(with_flags(config, {"model": "m", "method": "pai"}))


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        read_config(tmp_path / "absent.yaml")


def test_overrides_leave_the_rest_to_the_task():
    task = Generation(max_new_tokens=10, stop=("\n",))
    assert GenerationOverrides(max_new_tokens=3).apply(task) == Generation(max_new_tokens=3, stop=("\n",))
    assert GenerationOverrides().apply(task) == task


def identify(spec, **changes):
    given = {
        "model": {"id": "tiny", "revision": "a"},
        "method_params": {"tau": 20},
        "task": {"name": "scenes_pope", "version": "1", "fingerprint": "f"},
    }
    return run_id(spec, **{**given, **changes})


def test_the_run_id_is_the_same_in_every_process():
    assert identify(RunSpec(**settings())) == "5b6a54fe2fb2dc0609c8d2ba54aa3f9fda6e67615266e7a04ab82ea9bcbca994"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "var"},
        {"params": {"scenes_pope.parser": "vcd"}},
        {"generation": {"max_new_tokens": 3}},
        {"limit": 5},
        {"seed": 1},
        {"dtype": "bfloat16"},
    ],
)
def test_what_decides_the_answers_changes_the_run_id(changes):
    assert identify(RunSpec(**settings(**changes))) != identify(RunSpec(**settings()))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"id": "tiny", "revision": "b"}},
        {"method_params": {"tau": 21}},
        {"task": {"name": "scenes_pope", "version": "1", "fingerprint": "g"}},
    ],
)
def test_weights_parameters_and_questions_change_the_run_id(changes):
    assert identify(RunSpec(**settings()), **changes) != identify(RunSpec(**settings()))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 7},
        {"share_prefix": False},
        {"device": "cuda:1"},
        {"output": "elsewhere"},
        {"stage": "answer"},
        {"data_dir": "data"},
    ],
)
def test_how_it_is_run_leaves_the_run_id(changes):
    assert identify(RunSpec(**settings(**changes))) == identify(RunSpec(**settings()))


def test_a_limit_for_each_task():
    specs = expand(settings(task="a,b", limit={"a": 5}))
    assert {spec.task: spec.limit for spec in specs} == {"a": 5, "b": None}
    assert {spec.limit for spec in expand(settings(task="a,b", limit=7))} == {7}
    with pytest.raises(UsageError, match="unknown task in limit 'c'"):
        expand(settings(task="a,b", limit={"c": 5}))
    with pytest.raises(UsageError, match="limit"):
        expand(settings(task="a", limit={"a": 0}))


def test_a_flag_takes_the_place_of_the_limits_of_a_file():
    merged = with_flags(settings(task="a,b", limit={"a": 5}), {"limit": 3})
    assert {spec.limit for spec in expand(merged)} == {3}
    merged = with_flags(settings(task="a,b", limit={"a": 5, "b": 6}), {"task": ["b"]})
    assert [(spec.task, spec.limit) for spec in expand(merged)] == [("b", 6)]


@pytest.mark.parametrize("file", sorted((CONFIGS / "papers").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_settings_are_valid(file):
    assert expand(read_config(file))
