"""What moves and what does not, by hand: McNemar's exact p of k one-sided flips is 2 / 2^k."""

import json
import shutil

import pytest
from compared import HEADLINE, N, Runs, directory, edit_record, edit_rows

from sinkbench.errors import UsageError
from sinkbench.regression.cell import read_side
from sinkbench.regression.pairing import pair, pair_any
from sinkbench.regression.verdict import compare_runs, failures, only_better
from sinkbench.scoring import pope

FAILED = {"text": None, "finish": "error", "error": "broken image"}
UNSCORED = {"parsed": None, "score": None, "cluster": None, "counts": None, "group": None}


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def compared(first, second, **settings):
    sides = read_side(first), read_side(second)
    return compare_runs(pair(sides[0].cells, sides[1].cells), sources=(str(first), str(second)), **settings)


def only(comparison):
    (cell,) = comparison["cells"]
    return cell


def first_of_headline(n):
    return set(list(HEADLINE)[:n])


def test_the_same_answers_are_identical(runs):
    comparison = compared(runs.make("a", {"greedy": {0, 3}}), runs.make("b", {"greedy": {0, 3}}))
    cell = only(comparison)
    assert (cell["verdict"], cell["n_pairs"], cell["p"], cell["flips"]) == ("identical", N, 1.0, [])
    metric = cell["metrics"]["random/accuracy"]
    assert metric["first"] == metric["second"] == pytest.approx(18 / 20)
    assert metric["ci95"] == [0.0, 0.0]
    assert failures(comparison) == []


def test_other_words_with_the_same_scores_are_equal_and_counted(runs):
    cell = only(compared(runs.make("a", {"greedy": {0}}), runs.make("b", {"greedy": {0}}, words=".")))
    assert (cell["verdict"], cell["n_reworded"], cell["flips"]) == ("equal", N, [])


def test_six_flips_one_way_are_more_than_chance_and_are_listed(runs):
    comparison = compared(runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": first_of_headline(6)}))
    cell = only(comparison)
    assert cell["p"] == pytest.approx(2 / 2**6)
    assert (cell["verdict"], cell["n_worse"], cell["n_better"]) == ("worse", 6, 0)
    assert [flip["id"] for flip in cell["flips"]] == [f"fake/{number}" for number in (0, 3, 6, 9, 12, 15)]
    assert cell["flips"][1] == {
        **{"id": "fake/3", "way": "worse", "question": "Is there a dog in image 3?", "targets": ["no"]},
        **{"first": "no", "second": "yes", "first_score": 1.0, "second_score": 0.0},
    }
    (failure,) = failures(comparison)
    assert "random/accuracy 1.000 → 0.700 (-0.300, p 0.031 over all cells), worse" in failure
    assert not only_better(comparison)


def test_five_flips_one_way_are_not(runs):
    comparison = compared(runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": first_of_headline(5)}))
    assert only(comparison)["p"] == pytest.approx(2 / 2**5)
    assert (only(comparison)["verdict"], failures(comparison)) == ("within", [])


def test_balanced_flips_are_noise(runs):
    ours, theirs = set(list(HEADLINE)[:8]), set(list(HEADLINE)[8:16])
    comparison = compared(runs.make("a", {"greedy": ours}), runs.make("b", {"greedy": theirs}))
    cell = only(comparison)
    assert (cell["verdict"], cell["n_better"], cell["n_worse"]) == ("within", 8, 8)
    assert cell["metrics"]["random/accuracy"]["delta"] == 0
    assert failures(comparison) == []


def test_an_improvement_moved_too_but_is_not_worse(runs):
    comparison = compared(runs.make("a", {"greedy": first_of_headline(7)}), runs.make("b", {"greedy": set()}))
    assert only(comparison)["verdict"] == "better"
    assert "an improvement" in failures(comparison)[0]
    assert failures(comparison, worse_only=True) == []
    assert only_better(comparison)


def test_holm_over_the_cells_lets_a_single_small_p_pass(runs):
    # p = 0.031 in one of three cells: three times that is no longer below 0.05; in two cells neither is.
    wrong = {"greedy": set(), "var": set(), "pai": set()}
    first = runs.make("a", wrong)
    comparison = compared(first, runs.make("b", wrong | {"var": first_of_headline(6)}))
    assert {cell["method"]: cell["verdict"] for cell in comparison["cells"]}["var"] == "within"
    moved = next(cell for cell in comparison["cells"] if cell["method"] == "var")
    assert moved["p_holm"] == pytest.approx(3 * 2 / 2**6)
    assert failures(comparison) == []
    assert failures(compared(first, runs.make("c", wrong | {"var": first_of_headline(7)}))) != []
    assert failures(compared(runs.make("d", {"var": set()}), runs.make("e", {"var": first_of_headline(6)}))) != []


def test_alpha_is_the_level(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": first_of_headline(5)})
    assert only(compared(first, second, alpha=0.1))["verdict"] == "worse"


@pytest.mark.parametrize(
    ("n", "delta", "verdict"), [(1, -1 / 57, "within"), (3, -1 / 19, "within"), (6, -1 / 9, "worse")]
)
def test_where_all_samples_show_one_image_swaps_of_answers_decide(runs, n, delta, verdict):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set(range(0, 2 * n, 2))})
    for folder in (directory(first), directory(second)):
        edit_record(folder, "task", headline="f1")
        edit_rows(folder, {f"fake/{number}": {"cluster": "0"} for number in range(N)})
    cell = only(compared(first, second))
    # f1 is the mean over three splits, each with ten times yes. A bootstrap over one image says nothing; only 2 of 2^n
    # swaps are as uneven.
    assert cell["metrics"]["f1"]["delta"] == pytest.approx(delta)
    assert cell["metrics"]["f1"]["p"] is None
    assert cell["p"] == pytest.approx(2 / 2**n)
    assert cell["verdict"] == verdict


def _metric(value):
    return {"value": value, "stderr": None, "ci95": None, "n": 20, "direction": "higher"}


def test_more_flips_than_allowed_are_a_finding_though_they_are_balanced(runs):
    first = runs.make("a", {"greedy": {0, 3, 6}})
    second = runs.make("b", {"greedy": {9, 12, 15}})
    assert failures(compared(first, second, max_flips=0.1)) == []
    (failure,) = failures(compared(first, second, max_flips=0.09))
    assert "6 of 60 samples flipped (10.0%), more than 9.0%" in failure


def test_a_changed_question_is_not_paired_and_fails(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set()})
    edit_rows(directory(second), {"fake/0": {"prompt_hash": "0" * 64}, "fake/1": {"image_hash": "1" * 64}})
    comparison = compared(first, second)
    assert (only(comparison)["n_changed"], only(comparison)["n_pairs"]) == (2, N - 2)
    assert only(comparison)["verdict"] == "equal"
    assert ["2 questions changed" in line for line in failures(comparison, worse_only=True)] == [True]


def test_samples_that_failed_are_named(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set()})
    edit_rows(directory(second), {"fake/4": {**UNSCORED, **FAILED}, "fake/7": {**UNSCORED, **FAILED}})
    edit_rows(directory(first), {"fake/4": {**UNSCORED, **FAILED}})
    comparison = compared(first, second)
    (failure,) = failures(comparison)
    assert "2 samples failed, for example fake/7: broken image" in failure
    assert only(comparison)["n_pairs"] == N - 2


def test_samples_that_are_gone_or_new_are_findings(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set()})
    edit_rows(directory(second), {"fake/0": None})
    edit_rows(directory(first), {"fake/1": None, "fake/2": None})
    found = failures(compared(first, second))
    assert ["1 sample of A missing in B" in line for line in found] == [True, False]
    assert "2 samples of B not in A" in found[1]


def test_a_missing_run_is_named(runs):
    first, second = runs.make("a", {"greedy": set(), "var": set()}), runs.make("b", {"greedy": set(), "pai": set()})
    comparison = compared(first, second)
    assert failures(comparison) == ["tiny × var × fake: missing (no such run)"]
    assert comparison["new"] == ["tiny × pai × fake"]


def test_the_same_answer_with_another_score_is_a_finding_however_few(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set()})
    judged = pope.score("no", "yes", "random")
    edit_rows(directory(second), {"fake/0": {"parsed": "no", "score": 0.0, "counts": dict(judged.counts)}})
    edit_record(directory(second), "metrics", **{"random/accuracy": _metric(19 / 20)})
    comparison = compared(first, second)
    assert only(comparison)["verdict"] == "within"
    assert "1 answer did not change but their scores did" in failures(comparison)[0]


def test_a_metric_that_is_computed_otherwise_now_is_a_finding(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"greedy": set()})
    edit_record(directory(first), "metrics", **{"random/accuracy": _metric(0.8)})
    (failure,) = failures(compared(first, second, names=("the baseline", "this run")))
    assert "the baseline recorded random/accuracy 0.8000, but its samples give 1.0000 with this code" in failure


def test_a_run_is_paired_by_what_was_asked_for_whatever_the_defaults_are(runs):
    first, second = runs.make("a", {"var": set()}), runs.make("b", {"var": set()})
    edit_record(directory(second, "var"), "method", params={"tau": 10.0})
    comparison = compared(first, second)
    # The only cell: what differs in it differs in all.
    assert comparison["differences"] == [{"what": "method.params.tau", "first": 20.0, "second": 10.0}]


def test_a_parameter_set_to_its_default_pairs_with_the_default(runs):
    first, second = runs.make("a", {"var": set()}), runs.make("b", {"var": set()}, params={"var.tau": 20.0})
    assert len(compared(first, second)["cells"]) == 1
    other = runs.make("c", {"var": set()}, params={"var.tau": 5.0})
    assert failures(compared(first, other)) == ["tiny × var × fake: missing (no such run)"]


def test_two_runs_are_compared_whatever_made_them_and_folders_are_not(runs):
    first, second = runs.make("a", {"greedy": set()}), runs.make("b", {"var": {0}})
    sides = read_side(directory(first)), read_side(directory(second, "var"))
    comparison = compare_runs(pair_any(sides[0].cells, sides[1].cells), sources=("A", "B"))
    assert only(comparison)["title"] == "tiny × greedy × fake → tiny × var × fake"
    assert only(comparison)["n_worse"] == 1
    assert {entry["what"] for entry in comparison["differences"]} == {"method.name"}
    several = read_side(runs.make("c", {"greedy": set(), "var": set()}))
    with pytest.raises(UsageError, match="none of the 2 runs of A has its like"):
        pair_any(several.cells, read_side(runs.make("d", {"pai": set()})).cells)


def test_the_newest_of_two_equal_runs_counts(runs):
    folder = runs.make("a", {"greedy": set()})
    run = directory(folder)
    earlier = shutil.copytree(run, folder / "earlier")
    record = json.loads((earlier / "run.json").read_text())
    record |= {"run_id": "0" * 64, "updated": "2001-01-01T00:00:00+00:00"}
    (earlier / "run.json").write_text(json.dumps(record))
    (cell,) = read_side(folder).cells
    assert cell.directory == run


def test_counts_that_changed_without_the_score_are_flips_of_their_own_kind(runs):
    first, second = runs.make("a", {"greedy": {0}}), runs.make("b", {"greedy": {0}})
    unread = pope.score("perhaps", "yes", "random")
    changed = {"text": "perhaps", "parsed": None, "score": 0.0, "counts": dict(unread.counts)}
    edit_rows(directory(second), {"fake/0": changed})
    cell = only(compared(first, second))
    assert (cell["n_better"], cell["n_worse"], cell["n_other"], cell["n_reworded"]) == (0, 0, 1, 0)
    assert [(flip["id"], flip["way"], flip["first"], flip["second"]) for flip in cell["flips"]] == [
        ("fake/0", "other", "no", "perhaps")
    ]
    assert cell["metrics"]["n_unparsed"]["delta"] == 1
