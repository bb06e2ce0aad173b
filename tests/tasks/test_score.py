"""Scores of whole tasks: right, wrong and missing answers, error bars, order, speed."""

import json
import random
import time

import pytest

from sinkbench.errors import UsageError
from sinkbench.tasks import documents, load_task, request_id, right_answers, score_samples

SCENES = ["scenes_chair", "scenes_mcq", "scenes_pope", "scenes_text"]


def answers_of(task, say):
    return {request_id(task, doc): say(doc) for doc in documents(task)}


@pytest.mark.parametrize("name", SCENES)
def test_perfect_and_all_wrong(name, scenes, perfect, wrong):
    task = load_task(name, scenes)
    best = {"chair_i": 0.0, "chair_s": 0.0}
    for say, good in ((perfect[name], True), (wrong[name], False)):
        metrics, samples = score_samples(task, answers_of(task, say))
        assert {sample["score"] for sample in samples.values()} == {float(good)}
        assert metrics["n_unparsed"]["value"] == 0
        for metric, result in metrics.items():
            if result["direction"] == "higher":
                assert result["value"] == float(good), metric
            if metric in best:
                assert result["value"] == 1 - float(good)
            if result["ci95"] and result["direction"] != "neutral":
                low, high = result["ci95"]
                assert low <= result["value"] <= high
                assert result["value"] in (low, high)
                assert result["stderr"] == 0


@pytest.mark.parametrize("name", ["scenes_mcq", "scenes_pope", "scenes_text"])
def test_the_right_answers_of_a_sample_are_right(name, scenes):
    task = load_task(name, scenes)
    _, asked = score_samples(task, answers_of(task, lambda doc: "?"))
    _, told = score_samples(task, {id: sample["targets"][0] for id, sample in asked.items()})
    assert {sample["score"] for sample in told.values()} == {1.0}


def test_right_answers_stand_once_and_the_most_frequent_comes_first():
    class Answers:
        doc_to_target = staticmethod(lambda document: document["answer"])

    def read(answer):
        return right_answers(Answers, {"answer": answer})

    assert read(["stop", "halt", "halt", "", "stop", "halt"]) == ["halt", "stop"]
    assert (read("B"), read(0), read(""), read(None), read([])) == (["B"], ["0"], [], [], [])


def test_pope_parsers_reach_the_score(scenes):
    for parser, accuracy in (("pope", 1.0), ("lmms_eval", 0.0), ("vlmevalkit", 1.0)):
        task = load_task("scenes_pope", scenes, {"parser": parser})
        metrics, _ = score_samples(task, answers_of(task, lambda doc: f"{doc['answer'].title()}."))
        assert metrics["accuracy"]["value"] == accuracy
        assert metrics["n_unparsed"]["value"] == (144 if parser == "lmms_eval" else 0)


def test_an_incomplete_last_sentence_can_be_dropped(scenes):
    for drop, chair_i in ((False, 0.5), (True, 0.0)):
        task = load_task("scenes_chair", scenes, {"drop_incomplete_sentence": drop})
        metrics, _ = score_samples(task, answers_of(task, lambda doc: "There is a puppy. Beside it a train"))
        assert metrics["chair_i"]["value"] == chair_i


def test_unanswered_samples_are_left_out_and_not_wrong(scenes, perfect):
    task = load_task("scenes_pope", scenes)
    answers = answers_of(task, perfect["scenes_pope"])
    kept = dict(list(answers.items())[::5])
    metrics, samples = score_samples(task, kept)
    assert set(samples) == set(kept)
    assert metrics["accuracy"]["value"] == 1.0
    assert metrics["n_unparsed"]["n"] == len(kept)


def test_a_question_with_an_unanswered_rotation_has_no_part_in_circular_accuracy(scenes, perfect):
    task = load_task("scenes_mcq", scenes)
    answers = answers_of(task, perfect["scenes_mcq"])
    del answers["scenes_mcq/2"]
    metrics, _ = score_samples(task, answers)
    assert (metrics["accuracy"]["value"], metrics["accuracy"]["n"]) == (1.0, 7)


@pytest.mark.parametrize("name", SCENES)
def test_nothing_answered_gives_no_value(name, scenes):
    metrics, samples = score_samples(load_task(name, scenes), {})
    assert samples == {}
    assert all(metric["n"] == 0 for metric in metrics.values())
    assert all(metric["value"] is None for name, metric in metrics.items())
    assert all(metric["ci95"] is None for metric in metrics.values())


def test_answers_to_other_questions_are_refused(scenes):
    with pytest.raises(UsageError, match="scenes_pope/9999"):
        score_samples(load_task("scenes_pope", scenes), {"scenes_pope/9999": "yes"})


@pytest.mark.parametrize("name", SCENES)
def test_order_of_rows_and_answers_changes_no_digit(name, scenes, perfect, wrong):
    draw = random.Random(1)
    path = scenes / f"{name.removeprefix('scenes_')}.jsonl"
    task = load_task(name, scenes)
    answers = answers_of(task, lambda doc: draw.choice((perfect, wrong))[name](doc))
    first = score_samples(task, answers)
    rows, pairs = path.read_text().splitlines(), list(answers.items())
    draw.shuffle(rows)
    draw.shuffle(pairs)
    path.write_text("\n".join(rows) + "\n")
    assert score_samples(load_task(name, scenes), dict(pairs)) == first


def test_zero_over_zero_is_marked(scenes):
    task = load_task("scenes_pope", scenes)
    metrics, _ = score_samples(task, answers_of(task, lambda doc: "no"))
    assert (metrics["precision"]["value"], metrics["precision"]["undefined"]) == (0.0, True)
    assert "undefined" not in metrics["recall"]


def test_error_bars(scenes, perfect, wrong):
    """An interval holds its value; with half of the images all wrong the clustered error is that of eight draws."""
    task = load_task("scenes_pope", scenes)
    metrics, samples = score_samples(
        task, answers_of(task, lambda doc: (perfect if int(doc["image"][5]) % 2 else wrong)["scenes_pope"](doc))
    )
    assert {sample["cluster"] for sample in samples.values()} == {f"{i + 1:06}.jpg" for i in range(8)}
    for result in metrics.values():
        if result["ci95"]:
            assert result["ci95"][0] <= result["value"] <= result["ci95"][1]
    assert metrics["random/accuracy"]["stderr"] == pytest.approx(0.5 / 7**0.5)
    assert metrics["n_unparsed"]["stderr"] is None
    assert metrics["f1"]["stderr"] == pytest.approx(metrics["random/accuracy"]["stderr"], rel=0.2)


def test_one_image_has_no_error_bar(scenes, perfect):
    task = load_task("scenes_pope", scenes)
    answers = answers_of(task, perfect["scenes_pope"])
    metrics, _ = score_samples(task, dict(list(answers.items())[:18]))
    assert metrics["f1"]["value"] == 1.0
    assert metrics["f1"]["ci95"] is None


def test_samples_are_json(scenes, perfect):
    for name in SCENES:
        task = load_task(name, scenes)
        metrics, samples = score_samples(task, answers_of(task, perfect[name]))
        assert json.loads(json.dumps(metrics)) == metrics
        assert json.loads(json.dumps(samples)).keys() == samples.keys()


def test_nine_thousand_rows_take_seconds(scenes, perfect):
    rows = [json.loads(line) for line in (scenes / "pope.jsonl").read_text().splitlines()]
    many = [{**row, "id": 144 * n + row["id"], "image": f"{n}-{row['image']}"} for n in range(63) for row in rows]
    (scenes / "pope.jsonl").write_text("\n".join(map(json.dumps, many)) + "\n")
    task = load_task("scenes_pope", scenes)
    answers = answers_of(task, perfect["scenes_pope"])
    assert len(answers) > 9000
    start = time.process_time()
    score_samples(task, answers)
    assert time.process_time() - start < 6
