"""From `calibrate` to the runs that use what it found, or are refused."""

import dataclasses
import json
import shutil

import pytest
from fakes import record_of

from sinkbench import runner
from sinkbench.adapters import resolve_model
from sinkbench.calibration import run
from sinkbench.calibration.artefact import Calibration
from sinkbench.calibration.lookup import calibrations_for, file_name, shipped_folder, user_file
from sinkbench.calibration.run import Settings, calibrate
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method, method_class, method_names
from sinkbench.record import model_identity
from sinkbench.spec import RunSpec

LOOSE = {"iri.epsilon": 0.0, "iri.noise": 20.0, "iri.categories": ["last"]}
"""Random weights hardly depend on the image: whatever is lost counts."""


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory):
    """A folder for what the user measures, to which the module's tests add nothing but `found`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def found(own_folder, model, learning):
    return calibrate(Settings("iri", str(model), "scenes_pope", LOOSE, data_dir=learning))


def spec(model, tmp_path, **changes):
    fixed = {"model": str(model), "method": "iri", "task": "scenes_pope", "output": tmp_path / "runs", "limit": 4}
    return RunSpec(**{**fixed, **changes})


def test_what_was_found_is_written_with_all_that_is_behind_it(found, model, learning):
    assert found.file == user_file("iri", "tiny-random")
    document = json.loads(found.file.read_text())
    assert document["method"] == "iri"
    assert document["model"]["name"] == document["model"]["id"] == "tiny-random"
    assert document["model"]["dtype"] == "float32"
    assert document["data"]["folder"] == "learning"
    assert document["data"]["n"] == 54
    assert document["settings"]["noise"] == 20.0
    assert document["settings"]["aggregation"] == "mean_of_ratios"
    assert len(document["params"]["rates_attn"]) == len(document["params"]["rates_mlp"]) == 6
    assert document["evidence"]["n_traced"] == 9
    assert document["command"] == (
        "sinkbench calibrate iri --model tiny-random --task scenes_pope --data-dir learning --seed 0 "
        "--set iri.epsilon=0.0 --set iri.noise=20.0 --set 'iri.categories=[\"last\"]'"
    )
    assert str(model.parent) not in found.file.read_text()
    assert str(learning.parent) not in found.file.read_text()
    assert found.picture == found.file.with_suffix(".png")
    assert found.picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_takes_it_and_says_so(found, model, evaluation, tmp_path):
    (outcome,) = runner.run([spec(model, tmp_path, data_dir=evaluation)])
    method = record_of(outcome.directory)["method"]
    assert method["params"]["rates_attn"] == found.calibration.params["rates_attn"]
    assert method["calibration"] == {"iri": found.calibration.summary()}
    assert len(method["calibration"]["iri"]["sha256"]) == 64
    given = {f"iri.{name}": [0.5] * 6 for name in ("rates_attn", "rates_mlp")}
    plain, by_hand = runner.run(
        [
            spec(model, tmp_path, data_dir=evaluation, method="greedy"),
            spec(model, tmp_path, data_dir=evaluation, params=given),
        ]
    )
    assert "calibration" not in record_of(plain.directory)["method"]
    assert "calibration" not in record_of(by_hand.directory)["method"]
    assert by_hand.directory != outcome.directory


def test_a_run_on_what_it_learned_from_is_refused(found, model, learning, tmp_path):
    for task in ("scenes_pope", "scenes_chair"):
        with pytest.raises(UsageError, match=f"learned from the very data that {task} asks"):
            runner.run([spec(model, tmp_path, data_dir=learning, task=task)])
    # Without dataset.json the questions themselves give it away.
    copied = tmp_path / "copied"
    shutil.copytree(learning, copied)
    (copied / "dataset.json").unlink()
    with pytest.raises(UsageError, match="learned from the very data"):
        runner.run([spec(model, tmp_path, data_dir=copied)])


def test_a_run_on_other_weights_is_refused(found, model, evaluation, tmp_path):
    other = tmp_path / "other" / "tiny-random"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config, indent=3))
    with pytest.raises(UsageError, match="measured on other weights"):
        runner.run([spec(other, tmp_path, data_dir=evaluation)])
    with pytest.raises(UsageError, match="0 recovery rates for the 6 layers"):
        runner.run([spec(other, tmp_path, data_dir=evaluation, params={"iri.calibration": "none"})])


def test_a_calibration_does_not_start_from_another_one(found, model, learning, tmp_path):
    asked = Settings("iri", str(model), "scenes_pope", LOOSE, data_dir=learning, pictures=False)
    again = calibrate(dataclasses.replace(asked, output=tmp_path / "again.json"))
    assert again.calibration.params == found.calibration.params
    assert again.picture is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "iry"}, "unknown method 'iry'"),
        ({"method": "greedy"}, "greedy needs no calibration"),
        ({"method": "iri+var"}, "iri\\+var is a composition"),
        ({"model": "tiny-lava"}, "unknown model"),
        ({"task": "scenes_pop"}, "unknown task"),
        ({"task": None}, "no task is given"),
        ({"task": "scenes_chair"}, "those of scenes_chair are longer"),
        ({"task": "pope"}, "all data of pope are its test split"),
        ({"params": {"iri.nois": 1.0}}, "unknown parameter 'iri.nois'"),
        ({"params": {"var.tau": 1.0}}, "belongs neither to iri"),
        ({"params": {"iri.noise": "loud"}}, "iri.noise='loud' is not float"),
        ({"params": {"iri.calibration": "x.json"}}, "iri.calibration is for runs"),
        ({"params": {"scenes_pope.parser": "mine"}}, "scenes_pope.parser must be one of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(changes, message, monkeypatch):
    monkeypatch.setattr(run, "load_adapter", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        calibrate(Settings(**{"method": "iri", "model": "tiny-llava", "task": "scenes_pope", **changes}))


def test_nothing_is_written_where_nothing_was_found(model, learning, tmp_path):
    file = tmp_path / "iri.json"
    quiet = {"iri.noise": 1e-6, "iri.categories": ["last"]}
    with pytest.raises(SinkbenchError, match="none of 9 questions"):
        calibrate(Settings("iri", str(model), "scenes_pope", quiet, data_dir=learning, output=file))
    assert not file.exists()


def test_shipped_calibrations_fit_the_shipped_models():
    files = sorted(shipped_folder().glob("*/*.json"))
    tiny = ("tiny-internvl", "tiny-llava", "tiny-qwen")
    hosts = [name for name in method_names() if method_class(name).scores]
    assert {(file.parent.name, file.stem) for file in files} >= {
        ("act", "tiny-internvl"),
        ("act", "tiny-llava"),
        ("iri", "tiny-internvl"),
        ("iri", "tiny-llava"),
        ("iri", "tiny-qwen"),
        *(("debias", f"{model}.{host}") for model in tiny for host in hosts),
        *(("dyvte", model) for model in tiny),
    }
    for file in files:
        assert file.stat().st_size < 60_000
        shipped, method = Calibration.read(file), file.parent.name
        preset = resolve_model(shipped.model["name"])
        assert file.name == file_name(preset.name, shipped.scoring)
        assert shipped.data["split"] == "train"
        names = [shipped.scoring, method] if shipped.scoring else [method]
        taken = calibrations_for(names, {}, preset.name, model_identity(preset))
        assert taken[method] == shipped
        params = get_method("+".join(names), {}, preset.name, taken).params()
        prefix = f"{method}." if shipped.scoring else ""
        assert {key: json.loads(json.dumps(params[prefix + key])) for key in shipped.params} == shipped.params
