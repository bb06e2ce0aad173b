import gzip
import json

import pytest
from compared import Runs, directory, edit_record, edit_rows

from sinkbench.errors import IncompleteError, UsageError
from sinkbench.regression.baseline import read_baseline, specs_of, write_baseline
from sinkbench.regression.cell import read_side
from sinkbench.regression.pairing import pair
from sinkbench.regression.verdict import compare_runs, failures
from sinkbench.schemas import validate

UNSCORED = {"parsed": None, "score": None, "cluster": None, "counts": None, "group": None}


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def folder(runs):
    made = runs.make("runs", {"greedy": {0}, "var": {0, 3}}, limit=30, seed=5, params={})
    for method in ("greedy", "var"):
        edit_record(directory(made, method), "env", git={"commit": "c" * 40, "dirty": False})
    return made


def write(folder, path, **settings):
    write_baseline(path, read_side(folder), **settings)
    return path


def content(path):
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@pytest.mark.parametrize("name", ["base.json", "deep/base.json.gz"])
def test_what_is_read_is_what_was_written(folder, tmp_path, name):
    path = write(folder, tmp_path / name)
    cells = {cell.record["spec"]["method"]: cell for cell in read_baseline(path)}
    for cell in read_side(folder).cells:
        kept = cells[cell.record["spec"]["method"]]
        # The rerun knows the right answers again.
        assert kept.samples == {id: sample._replace(targets=()) for id, sample in cell.samples.items()}
        for part in ("run_id", "model", "method", "task", "metrics", "env"):
            assert kept.record[part] == cell.record[part]
    assert (path.read_bytes()[:2] == b"\x1f\x8b") is (path.suffix == ".gz")


def test_runs_against_their_own_baseline_are_identical(folder, tmp_path):
    path = write(folder, tmp_path / "base.json")
    cells = read_baseline(path)
    comparison = compare_runs(pair(cells, read_side(folder).cells), sources=("a", "b"))
    assert {cell["verdict"] for cell in comparison["cells"]} == {"identical"}
    assert (comparison["differences"], failures(comparison)) == ([], [])


def test_the_file_keeps_to_its_schema_and_says_everything_once(folder, tmp_path):
    packed = content(write(folder, tmp_path / "base.json"))
    validate(packed, "baseline")
    (questions,) = packed["questions"]
    assert len(questions["id"]) == 30
    # Three splits, each with a right yes, a right no and perhaps a wrong answer.
    assert [len(run["outcomes"]) for run in packed["runs"]] == [7, 8]
    assert {len(prompt) for prompt in questions["prompt_hash"]} == {16}
    assert str(folder) not in json.dumps(packed), "places of one machine are no part of it"


def test_equal_runs_give_equal_bytes(folder, tmp_path):
    assert write(folder, tmp_path / "a.json.gz").read_bytes() == write(folder, tmp_path / "b.json.gz").read_bytes()


def test_it_names_what_to_run(folder, tmp_path):
    cells = read_baseline(write(folder, tmp_path / "base.json"))
    specs = specs_of(cells, tmp_path / "new")
    assert [(spec.model, spec.method, spec.task, spec.limit, spec.seed) for spec in specs] == [
        ("tiny", "greedy", "fake", 30, 5),
        ("tiny", "var", "fake", 30, 5),
    ]
    assert {(spec.output, spec.stage) for spec in specs} == {(tmp_path / "new", "all")}
    assert specs_of(cells, tmp_path, tmp_path / "data")[0].data_dir == tmp_path / "data"


def test_a_dirty_tree_makes_no_baseline_unless_it_is_wanted(folder, tmp_path):
    edit_record(directory(folder, "var"), "env", git={"commit": "c" * 40, "dirty": True})
    with pytest.raises(UsageError, match="tiny × var × fake: the source tree differs") as raised:
        write(folder, tmp_path / "base.json")
    assert "--allow-dirty" in raised.value.hint
    assert not (tmp_path / "base.json").exists()
    assert read_baseline(write(folder, tmp_path / "base.json", allow_dirty=True))


def test_a_baseline_needs_every_sample(folder, tmp_path):
    lost = {"text": None, "finish": "error", "error": "broken image", **UNSCORED}
    edit_rows(directory(folder), {"fake/2": lost})
    with pytest.raises(IncompleteError, match="1 samples have no score; for example fake/2: broken image"):
        write(folder, tmp_path / "base.json")


def test_a_run_without_its_samples_cannot_be_packed_or_paired(folder, tmp_path):
    (directory(folder) / "samples.jsonl").unlink()
    with pytest.raises(UsageError, match=r"holds no samples\.jsonl"):
        write(folder, tmp_path / "base.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed["questions"][0]["id"].pop(), "differ in length: .29, 30."),
        (lambda packed: packed["runs"][0]["outcome"].__setitem__(4, 99), "an outcome that is not there"),
        (lambda packed: packed["runs"][1].update(questions=1), "a table of questions that is not there"),
        (lambda packed: packed["runs"][0].pop("text"), "'text' is a required property"),
        (lambda packed: packed["runs"][0]["text"].__setitem__(0, 1), "1 is not of type 'string'"),
        (lambda packed: packed.update(schema_version=2), "of version 2; this sinkbench reads version 1"),
        (lambda packed: packed.pop("format"), "is no baseline file"),
    ],
)
def test_damaged_files_and_those_of_other_versions_are_refused(folder, tmp_path, damage, message):
    path = write(folder, tmp_path / "base.json")
    packed = content(path)
    damage(packed)
    path.write_text(json.dumps(packed))
    with pytest.raises(UsageError, match=message) as raised:
        read_baseline(path)
    assert "sinkbench regress --write" in raised.value.hint


@pytest.mark.parametrize("cut", [b"", b"{", b"\x1f\x8b\x08\x00", "half"])
def test_a_truncated_file_is_damaged(folder, tmp_path, cut):
    path = write(folder, tmp_path / "base.json.gz")
    path.write_bytes(path.read_bytes()[:400] if cut == "half" else cut)
    with pytest.raises(UsageError, match="is damaged"):
        read_baseline(path)


def test_a_setting_that_this_sinkbench_does_not_know_is_named(folder, tmp_path):
    path = write(folder, tmp_path / "base.json")
    packed = content(path)
    packed["runs"][0]["spec"]["beams"] = 4
    path.write_text(json.dumps(packed))
    with pytest.raises(UsageError, match="beams"):
        specs_of(read_baseline(path), tmp_path)
