"""RealWorldQA: the hub's schema, prompts, letters and short answers."""

import json

import pytest
from choice_data import check_nasty, check_run, fake_hub, parquet, prompts, scored
from hub_data import jpeg

from sinkbench.tasks import build_requests, check_data, documents, load_task
from sinkbench.tasks.layout import FAULT

HUB = {"image": "image", "question": "string", "answer": "string", "image_path": "string"}
ASK = "Please answer directly with only the letter of the correct option and nothing else."
ROWS = [
    {"question": f"Where does it go?\n\nA. left\nB. right\nC. ahead\n{ASK}\n", "answer": "B", "image_path": "0.webp"},
    {"question": "How many cars? Please answer directly with a single word or number.", "answer": "3"},
    {"question": "Is it wet? Please answer directly with a single word or number.", "answer": "Yes"},
]
RIGHT = {"0": "B", "1": "3", "2": "yes"}


def write(folder, changes=None):
    rows = [{**row, **(changes or {}).get(n, {})} for n, row in enumerate(ROWS)]
    return parquet(folder, "data/test-00000-of-00001.parquet", rows, HUB)


def test_the_hubs_copy(tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab/RealWorldQA"))
    check_data("realworldqa")
    task = load_task("realworldqa")
    assert [document["id"] for document in documents(task)] == list(RIGHT)
    requests = list(build_requests(task, tmp_path / "images"))
    assert len({request.images[0].key for request in requests}) == 3
    assert requests[0].generation.max_new_tokens == 16
    assert scored(task, RIGHT)[0] == {"accuracy": 1.0, "n_unparsed": 0}


@pytest.mark.parametrize("profile", ["original", "lmms-eval"])
def test_prompts(tmp_path, profile):
    write(tmp_path)
    found = prompts(load_task("realworldqa", tmp_path, {"prompt": profile}))
    assert found["0"] == f"<image>Where does it go?\n\nA. left\nB. right\nC. ahead\n{ASK}"
    assert found["1"] == f"<image>{ROWS[1]['question']}"


@pytest.mark.parametrize(
    ("answers", "scores"),
    [
        (("B. right", "3.", "Yes."), (1, 1, 1)),
        (("It goes right", " 3 ", "YES"), (1, 1, 1)),
        (("D", "three", "yes, it is"), (0, 0, 0)),
        (("", "", ""), (0, 0, 0)),
    ],
)
def test_scores(tmp_path, answers, scores):
    write(tmp_path)
    task = load_task("realworldqa", tmp_path)
    for id, answer, score in zip(RIGHT, answers, scores, strict=True):
        assert scored(task, {id: answer})[0]["accuracy"] == score, answer
    assert scored(task, dict(zip(RIGHT, answers, strict=True)))[0]["n_unparsed"] == (
        3 if answers[0] == "" else answers[0] == "D"
    )


def test_parsers(tmp_path):
    write(tmp_path)
    for parser, accuracy in (("vlmevalkit", 1.0), ("first_letter", 1.0), ("exact", 0.0)):
        assert (
            scored(load_task("realworldqa", tmp_path, {"parser": parser}), {"0": "B. right"})[0]["accuracy"] == accuracy
        )
    assert scored(load_task("realworldqa", tmp_path, {"parser": "exact"}), {"0": "b."})[0]["accuracy"] == 1


def test_options_that_the_question_lists_in_another_way_are_letters(tmp_path):
    write(tmp_path, {0: {"question": "Left (A) or right (B)?"}})
    assert scored(load_task("realworldqa", tmp_path), {"0": "I take B"})[0]["accuracy"] == 1


def test_broken_rows(tmp_path):
    write(tmp_path, {0: {"answer": None}, 1: {"image": None}, 2: {"question": None}})
    task = load_task("realworldqa", tmp_path)
    faults = ["answer is null", "image is null", "question is null"]
    assert [document[FAULT] for document in documents(task)] == faults
    assert [request.fault for request in build_requests(task, tmp_path / "images")] == faults


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("realworldqa", tmp_path), RIGHT)


def test_json_beside_images(tmp_path):
    (tmp_path / "images").mkdir()
    table = [{"image": f"{n}.webp", "question": row["question"], "answer": row["answer"]} for n, row in enumerate(ROWS)]
    for n in range(2):
        (tmp_path / "images" / f"{n}.webp").write_bytes(jpeg(n))
    (tmp_path / "annotations.json").write_text(json.dumps(table))
    check_data("realworldqa", tmp_path)
    task = load_task("realworldqa", tmp_path)
    assert scored(task, RIGHT)[0]["accuracy"] == 1
    assert [bool(request.images[0].sha256) for request in build_requests(task, tmp_path / "out")] == [True, True, False]


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("realworldqa", tmp_path / "data", tmp_path / "runs")
