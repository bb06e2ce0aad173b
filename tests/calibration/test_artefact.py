"""A calibration's file: its schema, that it is whole or not there, and what it refuses."""

import copy
import dataclasses
import hashlib
import json
import os

import pytest
from calibrations import calibration

from sinkbench.calibration.artefact import Calibration
from sinkbench.errors import SinkbenchError, UsageError


def test_a_file_reads_back_as_it_was_written(tmp_path):
    written, path = calibration(), tmp_path / "deep" / "tiny.json"
    written.write(path)
    read = Calibration.read(path)
    assert dataclasses.replace(read, sha256="") == written
    assert len(read.sha256) == 64
    assert [file.name for file in path.parent.iterdir()] == ["tiny.json"]
    assert '"rates_attn": [0.1, 0.2]' in path.read_text()


def test_what_the_schema_does_not_know_is_not_written(tmp_path):
    path = tmp_path / "tiny.json"
    for wrong in ({"params": {}}, {"model": {"name": "tiny"}}, {"data": {**calibration().data, "path": "/home/me"}}):
        with pytest.raises(ValueError, match=r"calibration\.schema\.json"):
            dataclasses.replace(calibration(), **wrong).write(path)
    assert not path.exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "tiny.json"
    calibration().write(path)
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, step, killed)
    with pytest.raises(KeyboardInterrupt):
        calibration(params={"rates_attn": [0.9]}).write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SinkbenchError, match="cannot be written"):
        calibration().write(tmp_path / "file" / "tiny.json")


def test_missing_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Calibration.read(tmp_path / "none.json")
    half = tmp_path / "half.json"
    for content in ('{"schema_version": 1', json.dumps({**calibration().to_json(), "schema_version": 2})):
        half.write_text(content)
        with pytest.raises(UsageError, match=r"half\.json is damaged"):
            Calibration.read(half)


def test_the_hub_is_known_by_id_and_revision_and_local_weights_by_content():
    local, hub = calibration(), calibration(model={"fingerprint": "", "id": "org/tiny", "revision": "abc"})
    local.check_model("renamed", {**local.model, "id": "elsewhere", "revision": "x"})
    hub.check_model("tiny", {**hub.model, "sink_dims": [3]})
    for known, change in (
        (local, {"fingerprint": "1" * 64}),
        (local, {"options": {"image_padding": "square"}}),
        (hub, {"revision": "def"}),
        (hub, {"id": "org/other"}),
    ):
        with pytest.raises(UsageError, match="measured on other weights or preprocessing") as refused:
            known.check_model("tiny", {**known.model, **change})
        assert "sinkbench calibrate iri --model tiny --task scenes_pope" in refused.value.hint


def test_what_it_learned_from_is_not_evaluated():
    learned = calibration()
    learned.check_unseen("scenes_pope", "0" * 64, "")
    with pytest.raises(UsageError, match="learned from the very data that scenes_pope asks"):
        learned.check_unseen("scenes_pope", learned.data["fingerprint"])
    with pytest.raises(UsageError, match="scenes_chair"):
        learned.check_unseen("scenes_chair", "0" * 64, learned.data["dataset"])


def test_what_run_json_says_names_no_path():
    told = calibration().summary()
    assert told["name"] == "iri/tiny"
    assert told["data"] == {"task": "scenes_pope", "split": "train", "fingerprint": "d" * 64}
    assert "folder" not in json.dumps(told)


CONTENTS = {"gates": b"what does not fit into JSON"}


def test_a_file_beside_it_is_named_by_its_content_and_read_from_anywhere(tmp_path):
    path, plain = tmp_path / "deep" / "tiny.json", calibration()
    written = plain.naming(CONTENTS, "tiny")
    sha256 = hashlib.sha256(CONTENTS["gates"]).hexdigest()
    assert written.files == {"gates": sha256}
    assert written.params == {**plain.params, "gates": f"tiny.gates-{sha256[:12]}.safetensors"}
    written.write(path, CONTENTS)
    read = Calibration.read(path)
    read.check_files()
    assert dataclasses.replace(read, sha256="") == written
    assert read.summary()["files"] == {"gates": sha256}
    values = read.values()
    assert values == read.params
    assert json.dumps(values["gates"]) == json.dumps(read.params["gates"])
    assert values["gates"].path == path.parent / read.params["gates"]
    assert values["gates"].path.read_bytes() == CONTENTS["gates"]
    assert copy.deepcopy(values["gates"]).path == values["gates"].path
    assert "files" not in plain.to_json()
    assert "files" not in plain.summary()


def test_writing_anew_removes_the_old_file_and_a_killed_write_keeps_it(tmp_path, monkeypatch):
    path, other = tmp_path / "tiny.json", {"gates": b"others"}
    old, new = calibration().naming(CONTENTS, "tiny"), calibration().naming(other, "tiny")
    old.write(path, CONTENTS)
    replace = os.replace

    def killed(source, target):
        if str(target) == str(path):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            new.write(path, other)
    Calibration.read(path).check_files()
    assert Calibration.read(path).files == old.files
    new.write(path, other)
    Calibration.read(path).check_files()
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.json", new.params["gates"]}
    new.write(path, other)
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.json", new.params["gates"]}
    calibration().write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.json"]


@pytest.mark.parametrize("name", ["../gates.safetensors", "/etc/passwd", "..", "", None])
def test_a_calibration_reaches_for_nothing_but_files_beside_it(tmp_path, name):
    path = tmp_path / "tiny.json"
    document = calibration().naming(CONTENTS, "tiny").to_json()
    document["params"]["gates"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="gates names no file beside it"):
        Calibration.read(path)
