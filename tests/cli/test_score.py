"""`sinkbench score`: from the answers of others to a board beside measured runs."""

import json

import pytest
from pope_folder import pope_questions, write_lines, write_pope
from scenes_folder import read_rows


@pytest.fixture
def pope(tmp_path):
    return write_pope(tmp_path / "pope", ("random",))


@pytest.fixture
def answers(tmp_path):
    rows = [{"question_id": row["question_id"], "text": row["label"]} for row in pope_questions("random")]
    return write_lines(tmp_path / "answers.jsonl", rows)


def said(done):
    return " ".join(done.stderr.replace("│", " ").split())


def test_answers_are_scored(here, pope, answers, tmp_path):
    output = tmp_path / "runs"
    done = here("score", "pope", answers, "--data-dir", pope, "-o", output, "--model-name", "llava", "--set",
                     "pope.parser=vcd")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "llava × imported × pope" in done.stdout
    assert f"Next: sinkbench leaderboard {output} --baseline imported" in done.stdout
    assert "joined by question_id" in said(done)
    (file,) = output.glob("llava__imported__pope__*/run.json")
    record = json.loads(file.read_text())
    assert record["metrics"]["random/f1"]["value"] == 1.0
    assert record["spec"]["params"] == {"pope.parser": "vcd"}


def test_columns_can_be_named_and_gaps_allowed(here, pope, tmp_path):
    rows = [{"picture": row["image"], "asked": row["text"], "said": row["label"]} for row in pope_questions("random")]
    file = write_lines(tmp_path / "a.jsonl", rows[1:])
    command = ("score", "pope", file, "--data-dir", pope, "-o", tmp_path / "runs", "--answer", "said")
    done = here(*command)
    assert done.returncode == 2
    assert "--image COLUMN" in said(done)
    command += ("--image", "picture", "--text", "asked")
    done = here(*command)
    assert done.returncode == 2
    assert "1 questions without an answer: pope/random-1" in said(done)
    done = here(*command, "--partial")
    assert done.returncode == 0, done.stderr
    assert "1 questions without an answer" in said(done)
    assert "incomplete, 3 of 4 answered" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["poop", "a.jsonl"], ["unknown task 'poop'", "pope"]),
        (["pope", "none.jsonl"], ["none.jsonl does not exist", "JSON lines"]),
        (["pope", "none.jsonl", "--set", "var.tau=5"], ["'var.tau' does not belong to pope", "--set pope.PARAM=VALUE"]),
        (["pope", "none.jsonl", "--only", "random"], ["--only 'random'", "--only category=random"]),
    ],
)
def test_usage_errors(here, arguments, words):
    done = here("score", *arguments)
    assert done.returncode == 2
    for word in words:
        assert word in said(done)


def test_imported_runs_stand_beside_measured_ones(here, scenes, tmp_path):
    """Answers of a run of tiny-llava come back from its own samples, with the same metrics."""
    output = tmp_path / "runs"
    done = here("eval", "-m", "tiny-llava", "-t", "scenes_pope", "--data-dir", scenes, "-L", "9", "-o", output)
    assert done.returncode == 0, done.stderr
    (measured,) = output.glob("*/run.json")
    done = here("score", "scenes_pope", measured.parent / "samples.jsonl", "--data-dir", scenes, "-o", output,
                     "--model-name", "mine", "--method-name", "theirs", "--only", "cluster=000001.jpg")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (imported,) = output.glob("mine__theirs__*/run.json")
    first, second = json.loads(measured.read_text()), json.loads(imported.read_text())
    assert second["metrics"] == first["metrics"]
    assert second["task"]["fingerprint"] == first["task"]["fingerprint"]
    kept = ("id", "text", "parsed", "score", "counts")
    rows = [[{key: row[key] for key in kept} for row in read_rows(file.with_name("samples.jsonl"))]
            for file in (measured, imported)]  # fmt: skip
    assert rows[0] == rows[1]
    done = here("leaderboard", output, "--json", tmp_path / "b.json", "--markdown", tmp_path / "b.md")
    assert done.returncode == 0, done.stderr
    marks = {row["method"]: row.get("imported") for row in json.loads((tmp_path / "b.json").read_text())["rows"]}
    assert marks == {"greedy": None, "theirs": True}
    assert "| theirs †" in (tmp_path / "b.md").read_text()
    assert "theirs †" in done.stdout
    assert "answers read from a file" in " ".join(done.stdout.split())
