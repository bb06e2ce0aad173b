"""Exports: the same task on a machine without network, resumed when broken off, never over something else."""

import json
import shutil

import pytest
from hub_data import embedded, jpeg
from table_task import fake_hub, install, write_colours

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.tasks import export, load_task, task_fingerprint
from sinkbench.tasks.checkup import check_up
from sinkbench.tasks.export import MANIFEST, PARTIAL, export_data, manifest_problems, sha256_of


@pytest.fixture
def snapshot(monkeypatch, tmp_path):
    """Of the hub, in two files, beside files of another split."""
    install(monkeypatch, tmp_path / "tasks")
    folder = fake_hub(monkeypatch, tmp_path / "hub", shards=2)
    (folder / "README.md").write_text("A card.")
    return folder


def test_an_export_gives_the_same_task(snapshot, monkeypatch, tmp_path):
    out = tmp_path / "out"
    done = export_data("colours", out)
    fingerprint = task_fingerprint(load_task("colours"))
    manifest = json.loads((out / MANIFEST).read_text())
    assert (done.manifest, done.n_copied) == (manifest, 2)
    assert (manifest["hub"], manifest["revision"], manifest["n_rows"]) == ("somebody/colours", "abc123", 4)
    assert [entry["path"] for entry in manifest["files"]] == [f"data/test-0000{k}-of-00002.parquet" for k in (0, 1)]
    assert all(entry["sha256"] == sha256_of(snapshot / entry["path"]) for entry in manifest["files"])
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "data"]

    shutil.rmtree(tmp_path / "hub")
    assert task_fingerprint(load_task("colours", out)) == manifest["fingerprint"] == fingerprint
    found = check_up("colours", out, decode=True)
    assert found.is_whole
    assert found.fingerprint == fingerprint


def test_the_files_of_the_cache_may_be_links(snapshot, tmp_path):
    file = next((snapshot / "data").iterdir())
    blob = tmp_path / "blob"
    file.rename(blob)
    file.symlink_to(blob)
    export_data("colours", tmp_path / "out")
    assert not (tmp_path / "out" / "data" / file.name).is_symlink()


def test_a_whole_export_is_left_as_it_is(snapshot, tmp_path):
    out, said = tmp_path / "out", []
    export_data("colours", out, say=said.append)
    assert len(said) == 2
    before = (out / MANIFEST).read_text()
    assert export_data("colours", out, say=said.append).n_copied == 0
    assert ((out / MANIFEST).read_text(), len(said)) == (before, 2)


def test_an_export_that_was_broken_off_goes_on(snapshot, monkeypatch, tmp_path):
    out, copy = tmp_path / "out", export._blocks

    def broken(path):
        if path.name.startswith("test-00001"):
            yield b"half"
            raise OSError(28, "No space left on device")
        yield from copy(path)

    monkeypatch.setattr(export, "_blocks", broken)
    with pytest.raises(SinkbenchError, match="No space left") as refused:
        export_data("colours", out)
    assert "the same command again" in refused.value.hint
    assert not (out / MANIFEST).exists()
    assert (out / "data" / "test-00001-of-00002.parquet.part").read_bytes() == b"half"
    assert check_up("colours", out).errors[0] == f"{PARTIAL}: the export was broken off"

    monkeypatch.setattr(export, "_blocks", copy)
    assert export_data("colours", out).n_copied == 1
    assert check_up("colours", out).is_whole
    assert sorted(path.name for path in (out / "data").iterdir()) == [f"test-0000{k}-of-00002.parquet" for k in (0, 1)]


def test_a_damaged_file_is_copied_anew_when_the_export_goes_on(snapshot, tmp_path):
    out = tmp_path / "out"
    export_data("colours", out)
    damage(out)
    (out / MANIFEST).rename(out / PARTIAL)
    assert export_data("colours", out).n_copied == 1
    assert manifest_problems(out) == []


def damage(out):
    """Change one byte."""
    file = sorted((out / "data").iterdir())[0]
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)


def test_what_was_changed_later_is_named(snapshot, tmp_path):
    out = tmp_path / "out"
    export_data("colours", out)
    damage(out)
    (out / "data" / "test-00001-of-00002.parquet").unlink()
    problems = [
        f"data/test-00000-of-00002.parquet is not the file that {MANIFEST} names",
        "data/test-00001-of-00002.parquet is missing",
    ]
    assert manifest_problems(out) == problems
    assert check_up("colours", out).errors[:2] == problems
    with pytest.raises(UsageError, match="was exported, and then changed"):
        export_data("colours", out)


def test_nothing_is_overwritten(snapshot, monkeypatch, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and holds no export") as refused:
        export_data("colours", out)
    assert "--out DIR" in refused.value.hint
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]

    export_data("colours", tmp_path / "first")
    newer = snapshot.with_name("def456")
    write_colours(newer, {0: {"image": embedded(jpeg(9))}})
    with pytest.raises(UsageError, match="another export: revision abc123, not def456"):
        export_data("colours", tmp_path / "first", {"revision": "def456"})
    assert export_data("colours", tmp_path / "second", {"revision": "def456"}).manifest["revision"] == "def456"


def test_a_folder_that_gives_another_task_is_no_export(snapshot, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "load_task", lambda name, place, params: place)
    monkeypatch.setattr(export, "task_fingerprint", lambda place: "a" if place else "b")
    with pytest.raises(SinkbenchError, match="does not give the task that the hub gives"):
        export_data("colours", tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_data_that_are_not_on_the_hub(snapshot, tmp_path):
    with pytest.raises(UsageError, match="data of colours are not on the hub"):
        export_data("colours", tmp_path / "out", {"hub": ""})


def test_scenes_travel_with_the_package(tmp_path):
    with pytest.raises(UsageError, match="travel with sinkbench"):
        export_data("scenes_pope", tmp_path / "out")
