"""Every file of configs/papers can be run at both scales."""

from pathlib import Path

import pytest

from sinkbench.backend import LocalBackend
from sinkbench.errors import UsageError
from sinkbench.leaderboard.claims import read_claims
from sinkbench.plan import _check_generation
from sinkbench.record import model_identity
from sinkbench.spec import SCALES, at_scale, expand, read_config
from sinkbench.tasks import task_info

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
FILES = sorted(PAPERS.glob("*.yaml"))
METHODS = ("var", "gift", "vhr", "pai", "iri", "carve", "act")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_passes_the_runners_checks(file, scale):
    """Names and parameters of models, methods and tasks; whether data and weights are here is not asked."""
    backend = LocalBackend()
    specs = expand(at_scale(read_config(file), scale))
    assert specs
    for spec in specs:
        preset = backend.check_names(spec)
        task_info(spec.task).with_params(spec.task_params)
        found = backend.calibrations(spec, preset, model_identity(preset)) if preset.is_local else {}
        _check_generation(spec, backend.method(spec, preset, found))
        if scale == "tiny" and "tiny" in read_config(file):
            assert preset.is_local
            backend.check_data(spec)


@pytest.mark.parametrize("name", METHODS)
def test_a_papers_file_runs_its_method_beside_greedy_on_shipped_models(name):
    settings = read_config(PAPERS / f"{name}.yaml")
    specs = expand(at_scale(settings, "tiny"))
    assert {spec.model for spec in specs} <= {"tiny-llava", "tiny-qwen", "tiny-internvl"}
    assert {spec.task.partition("_")[0] for spec in specs} == {"scenes"}
    assert {"greedy", name} <= {spec.method for spec in specs}
    assert {name, "greedy"} <= {spec.method for spec in expand(at_scale(settings, "full"))}
    assert all(spec.limit for spec in specs)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "act"])
def test_claims_are_of_the_files_runs_and_stand_ins_share_the_metric(name):
    settings = read_config(PAPERS / f"{name}.yaml")
    tables, stands_for = read_claims(PAPERS / f"{name}.yaml")
    full, tiny = (expand(at_scale(settings, scale)) for scale in SCALES)
    ran = {(spec.model, spec.method, spec.task) for spec in full}
    for table in tables:
        assert table.source
        for row in table.rows:
            for column in row.keys() - {"method", "profile", "params"}:
                measure = table.measure(column)
                assert (table.model, row["method"], measure.task) in ran
                assert measure.metric in task_info(measure.task).metrics
    for task, stand_in in stands_for.items():
        assert task in {spec.task for spec in full}
        assert stand_in in {spec.task for spec in tiny}


def test_the_tiny_section_goes_on_top():
    config = {"model": "llava", "task": "pope", "params": {"pope.parser": "vcd"}, "claims": [1]}
    config["tiny"] = {"model": "tiny-llava", "task": "scenes_pope", "stands_for": {"pope": "scenes_pope"}}
    assert at_scale(config, "full") == {"model": "llava", "task": "pope", "params": {"pope.parser": "vcd"}}
    assert at_scale(config, "tiny") == {"model": "tiny-llava", "task": "scenes_pope", "params": {}}
    assert at_scale({"model": "m"}, "tiny") == {"model": "m"}
    with pytest.raises(UsageError, match="unknown scale 'tinny'") as caught:
        at_scale(config, "tinny")
    assert "tiny" in caught.value.hint
    with pytest.raises(UsageError, match="no mapping"):
        at_scale({**config, "tiny": "tiny-llava"}, "tiny")
