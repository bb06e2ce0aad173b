"""`sinkbench regress`: hand-made runs, and the real thing on a shipped model."""

import gzip
import json

import pytest
from compared import Runs

from sinkbench.regression.baseline import read_baseline
from sinkbench.schemas import validate

HEADLINE = range(0, 60, 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("regress"))


@pytest.fixture(scope="module")
def base(sinkbench, runs):
    """A baseline of two methods that answer seven headline questions wrongly."""
    wrong = set(HEADLINE[:7])
    folder, file = runs.make("base", {"greedy": wrong, "var": wrong}), runs.folder / "base.json.gz"
    done = sinkbench("regress", "--write", file, "--runs", folder, "--allow-dirty")
    assert done.returncode == 0, done.stderr
    assert "2 runs, 120 samples" in done.stdout
    return file


@pytest.fixture
def check(here, runs, base, tmp_path):
    """Check runs with these wrong answers against the baseline."""

    def against(wrong, *options, words="", env=None):
        folder = runs.make(tmp_path.name, wrong, words=words)
        return here("regress", "--baseline", base, "--runs", folder, *options, env=env)

    return against


def said(done):
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def test_runs_like_the_baseline_pass(check):
    done = check({"greedy": set(HEADLINE[:7]), "var": set(HEADLINE[:7])})
    assert done.returncode == 0, done.stderr
    assert "All answers are identical." in done.stdout


def test_noise_and_other_words_pass(check):
    done = check({"greedy": set(HEADLINE[3:10]), "var": set(HEADLINE[:7])}, words=".")
    assert done.returncode == 0, done.stderr
    assert "No score moved beyond what pairing allows." in done.stdout
    assert "▲3 ▼3" in done.stdout


def test_a_worse_score_fails_and_lists_the_samples(check, tmp_path):
    page = tmp_path / "summary.md"
    page.write_text("before\n")
    done = check(
        {"greedy": set(HEADLINE[:7]), "var": set(HEADLINE)},
        *("--json", tmp_path / "out.json"),
        words=" |<script>",
        env={"GITHUB_STEP_SUMMARY": str(page)},
    )
    assert done.returncode == 4, done.stderr
    assert "tiny × var × fake: random/accuracy 0.650 → 0.000" in said(done)
    assert "fake/57" not in said(done).partition("flipped")[0]
    assert "fake/21" in done.stdout
    comparison = json.loads((tmp_path / "out.json").read_text())
    validate(comparison, "comparison")
    assert [len(cell["flips"]) for cell in comparison["cells"]] == [0, 13]
    shown = page.read_text()
    assert shown.startswith("before\n### sinkbench regress: **1 findings**")
    assert "<script>" not in shown
    assert "&#124;&lt;script&gt;" in shown


def test_an_improvement_fails_with_the_command_that_accepts_it(check, base):
    done = check({"greedy": set(), "var": set()})
    assert done.returncode == 4
    assert "An improvement. If it is intended" in said(done)
    assert "sinkbench regress --write" in said(done)


def test_a_share_of_flips_can_be_forbidden(check):
    wrong = {"greedy": set(HEADLINE[3:10]), "var": set(HEADLINE[:7])}
    assert check(wrong, "--max-flips", "0.1").returncode == 0
    done = check(wrong, "--max-flips", "0.05")
    assert done.returncode == 4
    assert "6 of 60 samples flipped (10.0%), more than 5.0%" in said(done)


def test_a_missing_run_fails(check):
    done = check({"greedy": set(HEADLINE[:7])})
    assert done.returncode == 4
    assert "tiny × var × fake: missing (no such run)" in said(done)


def test_mistakes_are_named_with_what_to_type(here, base, runs, tmp_path):
    damaged = tmp_path / "damaged.json.gz"
    damaged.write_bytes(base.read_bytes()[:300])
    for arguments, code, words in (
        ((), 2, ("give either --baseline FILE", "--write FILE")),
        (("--baseline", base, "--write", base), 2, ("give either",)),
        (("--baseline", "absent.json"), 2, ("absent.json does not exist", "sinkbench regress --write absent.json")),
        (("--baseline", damaged), 2, ("is damaged",)),
        (("--baseline", base, "-m", "tiny-llava", "-L", "9"), 2, ("--model, --limit", "already says what runs")),
        (("--baseline", base, "--max-flips", "5"), 2, ("is no share",)),
        (("--write", tmp_path / "x.json", "--allow-dirty"), 2, ("no model is given",)),
        (("--write", tmp_path / "x.json", "--allow-dirty", "-m", "tiny-lava", "-t", "scenes_pope"), 2, ("tiny-llava",)),
        (("--write", tmp_path / "x.json", "--runs", runs.folder / "base", "-L", "9"), 2, ("--limit",)),
    ):
        done = here("regress", *arguments)
        assert done.returncode == code, said(done)
        for word in words:
            assert word in said(done)
        assert "Traceback" not in done.stderr


def test_the_real_thing_passes_and_fails_on_a_shipped_model(here, tmp_path):
    file, output = tmp_path / "tiny.json.gz", tmp_path / "runs"
    settings = ("-m", "tiny-llava", "-M", "greedy,var", "-t", "scenes_pope", "-L", "162", "--device", "cpu")
    done = here("regress", "--write", file, *settings, "-o", output, "--allow-dirty")
    assert done.returncode == 0, done.stderr
    (cell, _) = read_baseline(file)
    assert (cell.record["spec"]["limit"], len(cell.samples)) == (162, 162)

    done = here("regress", "--baseline", file, "-o", output)
    assert done.returncode == 0, done.stderr
    assert "All answers are identical." in done.stdout
    assert "324/324 answered" in done.stderr, "it has run, and not found the baseline's own runs"

    # The baseline of a VAR that named no object right: every answer turned round, in the text and in its judgement.
    packed = json.loads(gzip.decompress(file.read_bytes()))
    run = next(run for run in packed["runs"] if run["method"]["name"] == "var")
    _turn_round(run)
    file.write_bytes(gzip.compress(json.dumps(packed).encode()))
    done = here("regress", "--baseline", file, "-o", output, "--flips", 1)
    assert done.returncode == 4, done.stderr
    assert "tiny-llava × var × scenes_pope: f1" in said(done)
    assert "an improvement" in said(done)
    assert "tiny-llava × greedy" not in said(done).partition("Error")[2]


def _turn_round(run):
    """Make the answers of a run of a baseline their opposites, and its metrics what they then are."""
    from sinkbench.scoring import pope
    from sinkbench.scoring.metric import evaluate

    for outcome in run["outcomes"]:
        (split,) = {name.partition(".")[0] for name in outcome["counts"]}
        opposite = {"yes": "no", "no": "yes"}[outcome["parsed"]]
        label = outcome["parsed"] if outcome["score"] == 1 else opposite
        judged = pope.score(opposite, label, split)
        outcome |= {"parsed": opposite, "score": judged.score, "counts": dict(judged.counts)}
    run["text"] = [run["outcomes"][place]["parsed"] for place in run["outcome"]]
    judged = [
        {**run["outcomes"][place], "id": str(n), "cluster": str(n), "group": None}
        for n, place in enumerate(run["outcome"])
    ]
    for name, metric in run["metrics"].items():
        metric["value"] = evaluate(pope.SCHEME, name, judged).value
