"""An imported run: what its record says, and that published answers get their known scores."""

import json
import sys

import pytest
from hub_data import jpeg
from pope_folder import image_name, pope_questions, write_lines, write_pope

from sinkbench.errors import UsageError
from sinkbench.importing import ColumnNames, import_answers
from sinkbench.leaderboard import board as boards
from sinkbench.leaderboard import table
from sinkbench.schemas import validate
from sinkbench.tasks import load_task, task_fingerprint

SHARED_ANSWERS = "pope_llava15_7b_coco_random.jsonl"


def answers(change=lambda row: row["label"].title()):
    return [{"question_id": row["question_id"], "text": change(row)} for row in pope_questions("random")]


def test_the_record(load_random):
    imported = load_random(answers(), model="llava-1.5-7b", method="var", params={"parser": "vcd"})
    record = json.loads((imported.directory / "run.json").read_text())
    assert record == imported.record
    validate(record, "run")
    assert imported.directory.name == f"llava-1.5-7b__var__pope__{record['run_id'][:8]}"
    assert (record["status"], record["stage"], record["model"]["dtype"]) == ("success", "score", None)
    assert record["task"]["params"] == {"parser": "vcd"}
    assert record["imported"]["file"] == "answers.jsonl"
    assert record["imported"]["columns"] == {"answer": "text"}
    rows = load_random.samples(imported)
    for row in rows.values():
        validate(row, "sample")
    assert {(row["tokens"], row["prompt_hash"], row["finish"]) for row in rows.values()} == {(None, None, None)}
    assert rows["random-1"]["text"] == "Yes"


def test_the_same_again_is_the_same_run_and_another_setting_another(load_random):
    first = load_random(answers())
    assert load_random(answers()).directory == first.directory
    others = [
        load_random(answers(), params={"parser": "vcd"}),
        load_random(answers(), method="pai"),
        load_random(answers(lambda row: "Yes")),
    ]
    assert len({first.directory, *(other.directory for other in others)}) == 4


def test_names_that_nobody_gives(load_random):
    imported = load_random(answers())
    assert (imported.record["model"]["name"], imported.record["method"]["name"]) == ("answers", "imported")
    named = load_random([{**row, "model_id": "lla/va"} for row in answers()])
    assert named.record["model"]["name"] == "lla/va"
    assert named.directory.name.startswith("lla_va__imported__")


def test_no_image_is_needed_and_the_task_is_the_same(load_random):
    imported = load_random(answers())
    (load_random.data / image_name(0)).write_bytes(jpeg())
    assert imported.record["task"]["fingerprint"] == task_fingerprint(load_task("pope", load_random.data))


def test_scenes_need_no_images_either(tmp_path, scenes_folder):
    rows = [json.loads(line) for line in (scenes_folder / "pope.jsonl").read_text().splitlines()]
    file = write_lines(tmp_path / "a.jsonl", [{"id": row["id"], "response": row["answer"]} for row in rows])
    imported = import_answers("scenes_pope", file, output=tmp_path / "runs", data_dir=scenes_folder)
    assert imported.record["metrics"]["f1"]["value"] == 1.0


@pytest.fixture
def scenes_folder(tmp_path):
    import shutil

    from scenes_folder import write_scenes

    folder = write_scenes(tmp_path / "scenes", 2)
    shutil.rmtree(folder / "images")
    return folder


def test_a_board_marks_imported_runs_and_compares_them_among_themselves(load_random):
    load_random(answers(), model="llava", method="greedy")
    load_random(answers(lambda row: "Yes"), model="llava", method="var")
    load_random(answers(lambda row: "No"), model="llava", method="pai", only={"category": "random"})
    board = boards.build(load_random.folder / "runs")
    validate(board, "board")
    rows = {row["method"]: row for row in board["rows"]}
    assert all(row["imported"] for row in rows.values())
    delta = rows["var"]["metrics"]["random/accuracy"]["delta"]
    assert (delta["value"], delta["n_pairs"]) == (-0.5, 4)
    assert rows["pai"]["metrics"]["random/accuracy"]["delta"] is None
    text = table.markdown(board)
    assert "| llava | greedy †" in text
    assert table.IMPORTED in text


def test_a_board_without_imported_runs_says_nothing_of_them():
    row = {"headline": "f1", "n": 3, "metrics": {"f1": {"delta": None}}}
    assert table.legend({"rows": [row]}) == table.LEGEND
    assert table.legend({"rows": [row, row | {"imported": True}]}).endswith(table.IMPORTED)


def test_a_question_file_is_no_file_of_answers(load_random):
    with pytest.raises(UsageError, match="column 'text' holds the questions"):
        load_random(pope_questions("random"), columns=ColumnNames(text=""))


def test_references_are_no_answers(load_random):
    many = pope_questions("random", n_images=12)
    write_lines(load_random.data / "coco_pope_random.json", many)
    rows = [{"question_id": row["question_id"], "answer": row["label"]} for row in many]
    with pytest.raises(UsageError, match="equals the reference in all 24 rows"):
        load_random(rows)
    assert load_random(rows, columns=ColumnNames(answer="answer")).record["metrics"]["random/f1"]["value"] == 1.0
    rows[0]["answer"] = "Yes."
    assert load_random(rows).record["metrics"]["random/f1"]["value"] == 1.0


def test_a_broken_row_of_the_data_is_counted(tmp_path, monkeypatch):
    from datasets import Dataset

    task = load_task("pope", write_pope(tmp_path / "pope", ("random",)), images_needed=False)
    rows = [{**row, "fault": "answer is null" if row["id"] == "random-1" else ""} for row in task.eval_docs]
    task.dataset["test"] = Dataset.from_list(rows)
    monkeypatch.setattr("sinkbench.tasks.load_task", lambda *_, **__: task)
    file = write_lines(tmp_path / "a.jsonl", answers())
    imported = import_answers("pope", file, output=tmp_path / "runs", data_dir=tmp_path / "pope")
    assert (imported.record["task"]["n_failed"], imported.record["metrics"]["random/accuracy"]["n"]) == (1, 3)
    assert any("1 rows of the data are broken" in note for note in imported.notes)


@pytest.fixture(scope="module")
def shared():
    from pathlib import Path

    folder = Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "dev_cases" / SHARED_ANSWERS).is_file():
        pytest.skip(f"the shared answer files are not at {folder}")
    return folder


@pytest.mark.parametrize("parser", ["pope", "opera_pai", "vcd", "lmms_eval", "vlmevalkit"])
def test_published_answers_get_their_known_scores(shared, tmp_path, parser):
    """All 3000 answers are exactly Yes or No, so that every parser reads them alike."""
    expected = json.loads((shared / "dev_cases" / "expected.json").read_text())[SHARED_ANSWERS]["llava_scorer"]
    data = tmp_path / "pope"
    data.mkdir()
    (data / "coco_pope_random.json").symlink_to(shared / "pope" / "coco" / "coco_pope_random.json")
    file = shared / "dev_cases" / SHARED_ANSWERS
    imported = import_answers("pope", file, output=tmp_path / "runs", data_dir=data, params={"parser": parser})
    for name in ("accuracy", "f1", "precision", "recall", "yes_ratio"):
        assert imported.record["metrics"][f"random/{name}"]["value"] == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.parametrize("text", ["", "x" * 100_000, "\U0001f600", "لا نعم", "\x00", "no\u2028yes", "| *a* |", "=1+1"])
def test_nasty_answers_are_scored_and_kept(load_random, text):
    imported = load_random(answers(lambda row: text))
    assert {row["text"] for row in load_random.samples(imported).values()} == {text}
    assert 0 <= imported.record["metrics"]["random/f1"]["value"] <= 1


def test_importing_loads_no_model(tmp_path):
    import subprocess

    code = "import sys, sinkbench.importing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" not in loaded
    assert "lm_eval" not in loaded
