"""The list of tasks: instant, complete, and in step with the code behind it."""

import subprocess
import sys

import pytest
import yaml

from sinkbench.errors import UsageError
from sinkbench.scoring import chair, exact_match, multiple_choice, pope, vqa
from sinkbench.scoring.schemes import SCHEMES
from sinkbench.tasks import task_info, task_names

SCENES = ["scenes_chair", "scenes_mcq", "scenes_pope", "scenes_text"]


def test_names():
    assert set(task_names()) >= {"pope", *SCENES}
    assert task_names() == sorted(task_names())


@pytest.mark.parametrize("name", task_names())
def test_every_metric_of_a_task_exists_and_has_a_direction(name):
    info = task_info(name)
    assert info.summary
    assert set(info.metrics.values()) <= {"higher", "lower", "neutral"}
    for metric in info.metrics:
        assert SCHEMES[info.scheme].metric(metric).name == metric


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("pope", pope.NAMES),
        ("scenes_pope", pope.NAMES),
        ("scenes_chair", chair.NAMES),
        ("scenes_mcq", multiple_choice.names(("counting", "position", "attribute", "scene"))),
        ("scenes_text", vqa.NAMES),
        ("textvqa", vqa.NAMES),
        ("vqav2", vqa.names(vqa.ANSWER_TYPES)),
        ("vizwiz", vqa.NAMES),
        ("gqa", exact_match.NAMES),
    ],
)
def test_yaml_and_code_list_the_same_metrics(name, metrics):
    assert sorted(task_info(name).metrics) == sorted(metrics)


def test_directions():
    directions = task_info("scenes_pope").metrics
    assert directions["adversarial/f1"] == "higher"
    assert directions["yes_ratio"] == directions["random/yes_ratio"] == "neutral"
    assert directions["n_unparsed"] == "lower"
    assert task_info("scenes_chair").metrics["chair_i"] == "lower"
    assert task_info("scenes_chair").metrics["length"] == "neutral"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("pope", 128), ("scenes_pope", 10), ("scenes_chair", 128), ("scenes_mcq", 8), ("scenes_text", 10)],
)
def test_generation_is_greedy_and_nothing_but_the_end_stops_it(name, tokens):
    assert task_info(name).generation == {"max_gen_toks": tokens, "do_sample": False, "until": []}


def test_the_real_benchmark_names_its_hub_id():
    assert (task_info("pope").hub, task_info("scenes_pope").hub) == ("lmms-lab/POPE", "")


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(UsageError, match="scene_pope") as caught:
        task_info("scene_pope")
    assert "scenes_pope" in caught.value.hint


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"parser": "vdc"}, "vcd"),
        ({"parser": 3}, "one of"),
        ({"praser": "vcd"}, "scenes_pope.praser"),
    ],
)
def test_wrong_parameters_are_refused(params, problem):
    with pytest.raises(UsageError) as caught:
        task_info("scenes_pope").with_params(params)
    assert problem in caught.value.message + caught.value.hint


def test_parameters_have_defaults_among_their_choices():
    for name in task_names():
        info = task_info(name)
        assert set(info.params) == set(info.choices)
        assert all(not choices or info.params[key] in choices for key, choices in info.choices.items())
    assert task_info("scenes_chair").with_params({"lemmatizer": "nltk"})["lemmatizer"] == "nltk"


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from sinkbench.tasks import task_info, task_names; [task_info(name) for name in task_names()];"
        "heavy = {'lm_eval', 'torch', 'datasets', 'transformers', 'nltk', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_choices_in_yaml_are_the_parsers_of_the_code():
    assert sorted(task_info("pope").choices["parser"]) == sorted(pope.PARSERS)
    assert sorted(task_info("gqa").choices["parser"]) == sorted(exact_match.PARSERS)
    assert {parser for name in ("textvqa", "vqav2", "vizwiz") for parser in task_info(name).choices["parser"]} == {
        *vqa.PARSERS
    }


def test_metadata_is_plain_yaml():
    for name in task_names():
        assert yaml.safe_load(yaml.safe_dump(dict(task_info(name).settings))) == task_info(name).settings


@pytest.mark.parametrize(("given", "parser"), [({}, "pope"), ({"parser": "vcd"}, "vcd")])
def test_a_run_records_every_parameter_of_its_task(given, parser):
    from sinkbench.backend import LmEvalTask

    plain, asked = LmEvalTask("scenes_pope", None, {}).describe(), LmEvalTask("scenes_pope", None, given).describe()
    assert asked["settings"] == {"parser": parser}
    assert (asked["fingerprint"] == plain["fingerprint"]) == (parser == "pope"), "the run's id goes by it"
