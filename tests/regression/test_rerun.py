import pytest
from compared import Runs, directory

from sinkbench.errors import UsageError
from sinkbench.regression import rerun as rerunning
from sinkbench.regression.baseline import read_baseline, write_baseline
from sinkbench.regression.cell import read_side
from sinkbench.regression.rerun import place, rerun
from sinkbench.regression.verdict import compare_runs, failures

VERSIONS = {"torch": "2.0", "numpy": "1.0"}


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def cells(runs, tmp_path):
    folder = runs.make("runs", {"greedy": {0}, "var": {0, 3}})
    write_baseline(tmp_path / "base.json", read_side(folder), allow_dirty=True)
    return read_baseline(tmp_path / "base.json")


def test_a_baseline_is_run_as_it_says(runs, cells, tmp_path):
    pairing, reasons = rerun(cells, tmp_path / "new", backend=runs.backend({"greedy": {0}, "var": {0, 3}}))
    comparison = compare_runs(pairing, sources=("a", "b"))
    assert [cell["verdict"] for cell in comparison["cells"]] == ["identical", "identical"]
    assert (reasons, failures(comparison)) == ({}, [])


def test_a_method_that_answers_otherwise_now_fails_and_only_it(runs, cells, tmp_path):
    worse = runs.backend({"greedy": {0}, "var": set(range(0, 60, 3))})
    pairing, _ = rerun(cells, tmp_path / "new", backend=worse)
    (failure,) = failures(compare_runs(pairing, sources=("a", "b")))
    assert failure.startswith("tiny × var × fake: random/accuracy 0.900 → 0.000")


def test_a_method_that_is_gone_is_missing_and_the_others_are_compared(runs, cells, tmp_path):
    cells[1].record["spec"]["method"] = "vra"
    pairing, reasons = rerun(cells, tmp_path / "new", backend=runs.backend({"greedy": {0}}))
    comparison = compare_runs(pairing, sources=("a", "b"), reasons=reasons)
    assert failures(comparison) == ["tiny × vra × fake: missing (unknown method 'vra')"]
    assert [cell["method"] for cell in comparison["cells"]] == ["greedy"]


def test_where_nothing_can_run_the_error_is_the_runners(runs, cells, tmp_path):
    for cell in cells:
        cell.record["spec"]["task"] = "faek"
    with pytest.raises(UsageError, match="unknown task 'faek'"):
        rerun(cells, tmp_path / "new", backend=runs.backend({}))


def test_what_was_broken_off_goes_on_and_what_must_be_forgotten_is(runs, cells, tmp_path):
    answers = {"greedy": {0}, "var": {0, 3}}
    rerun(cells, tmp_path / "new", backend=runs.backend(answers))
    samples = directory(tmp_path / "new", "var") / "samples.jsonl"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-2]))
    again = runs.backend(answers)
    rerun(cells, tmp_path / "new", backend=again)
    assert {name: len(ids) for engine in again.engines for name, ids in engine.asked.items()} == {"var": 2}
    anew = runs.backend(answers)
    rerun(cells, tmp_path / "new", fresh=True, backend=anew)
    assert {name: len(ids) for engine in anew.engines for name, ids in engine.asked.items()} == {
        "greedy": 60,
        "var": 60,
    }


def test_runs_of_another_commit_or_of_other_versions_lie_elsewhere(monkeypatch, tmp_path):
    def at(commit, dirty, versions):
        monkeypatch.setattr(rerunning, "git_state", lambda: (commit, dirty))
        monkeypatch.setattr(rerunning, "package_versions", lambda: versions)
        return place(tmp_path)

    clean, forget = at("a" * 40, False, VERSIONS)
    assert (clean.parent, clean.name[:10], forget) == (tmp_path, "a" * 10, False)
    assert at("a" * 40, False, VERSIONS) == (clean, False)
    others = [at("b" * 40, False, VERSIONS), at("a" * 40, False, VERSIONS | {"torch": "2.1"}), at(None, None, VERSIONS)]
    dirty, forget = at("a" * 40, True, VERSIONS)
    assert forget, "nobody knows which changes an earlier run of a dirty tree had"
    assert len({clean, dirty, *(folder for folder, _ in others)}) == 5
    assert not any(forget for _, forget in others)
