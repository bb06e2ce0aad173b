"""What calibrations learn from, and what they must not."""

import json
import shutil

import pytest

from sinkbench.calibration.data import load_data
from sinkbench.errors import UsageError
from sinkbench.paths import asset
from sinkbench.tasks import dataset_fingerprint


def load(task, data_dir, tmp_path, **options):
    return load_data(task, data_dir, tmp_path, **{"n": 2, "seed": 3, **options})


def test_scenes_are_rendered_from_the_split_to_learn_from(tmp_path):
    data = load("scenes_pope", None, tmp_path)
    assert data.about["split"] == "train"
    assert (data.about["seed"], data.about["n"], data.about["folder"]) == (3, 36, None)
    again = load("scenes_pope", None, tmp_path / "again")
    assert again.about == data.about
    assert load("scenes_pope", None, tmp_path / "other", seed=4).about["fingerprint"] != data.about["fingerprint"]


def test_questions_have_answers_objects_and_boxes(learning, tmp_path):
    data = load("scenes_pope", learning, tmp_path)
    assert data.about["folder"] == "learning"
    assert data.about["dataset"] == dataset_fingerprint("scenes_pope", learning)
    rows = [json.loads(line) for line in (learning / "pope.jsonl").read_text().splitlines()]
    assert sorted((q.subject, q.answer) for q in data.questions) == sorted((r["object"], r["answer"]) for r in rows)
    for question in data.questions:
        assert (question.answer == "yes") == bool(question.boxes)
        assert question.subject in question.request.messages[0].text
    instances = json.loads((learning / "instances.json").read_text())
    x, y, width, height = instances["annotations"][0]["bbox"]
    assert any((x, y, x + width, y + height) in question.boxes for question in data.questions)
    metrics, _ = data.task.score({question.request.id: question.answer for question in data.questions})
    assert metrics["f1"]["value"] == 1.0


def test_a_limit_keeps_the_first_questions_and_the_fingerprint(learning, tmp_path):
    some, all_ = load("scenes_pope", learning, tmp_path, limit=5), load("scenes_pope", learning, tmp_path)
    assert some.questions == all_.questions[:5]
    assert some.about == {**all_.about, "n": 5}


def test_splits_for_evaluation_are_refused(evaluation, tmp_path):
    for folder in (evaluation, asset("scenes/val")):
        with pytest.raises(UsageError, match="val split of Scenes, for evaluation") as refused:
            load("scenes_pope", folder, tmp_path)
        assert "--split train" in refused.value.hint


def test_the_evaluated_questions_are_refused_under_any_name(tmp_path):
    copied = tmp_path / "mine"
    shutil.copytree(asset("scenes/val"), copied)
    (copied / "dataset.json").unlink()
    with pytest.raises(UsageError, match="holds the questions that scenes_pope evaluates"):
        load("scenes_pope", copied, tmp_path / "out")


def test_a_task_with_nothing_but_a_test_split_needs_a_folder(tmp_path):
    with pytest.raises(UsageError, match="all data of pope are its test split") as refused:
        load("pope", None, tmp_path)
    assert "--data-dir DIR" in refused.value.hint
