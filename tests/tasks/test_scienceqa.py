"""ScienceQA with pictures: the hub's schema, the release, prompts, LLaVA's and lmms-eval's rules."""

import json

import pytest
from choice_data import check_nasty, check_run, fake_hub, parquet, prompts, scored
from hub_data import jpeg

from sinkbench.errors import UsageError
from sinkbench.tasks import build_requests, check_data, documents, load_task, task_info
from sinkbench.tasks.layout import FAULT

HUB = {
    "image": "image",
    "question": "string",
    "choices": "strings",
    "answer": "int8",
    "hint": "string",
    **dict.fromkeys(("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"), "string"),
}
FILE = "ScienceQA-IMG/test-00000-of-00001.parquet"
LETTER = "Answer with the option's letter from the given choices directly."
ROWS = [
    {"question": "Which is hot?", "choices": ["ice", "fire"], "answer": 1, "hint": "", "subject": "natural science"},
    {
        "question": "Which colony?",
        "choices": ["Maryland", "Iowa", "Ohio"],
        "answer": 0,
        "hint": "See the map.\nIt is old.",
        "subject": "social science",
    },
    {"question": "Which word?", "choices": list("vwxyz"), "answer": 4, "hint": "", "subject": "language science"},
]
RIGHT = {"0": "B", "1": "A", "2": "E"}


def write(folder, changes=None):
    return parquet(folder, FILE, [{**row, **(changes or {}).get(n, {})} for n, row in enumerate(ROWS)], HUB)


def test_the_hubs_copy(tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab/ScienceQA"))
    check_data("scienceqa_img")
    task = load_task("scienceqa_img")
    assert [document["id"] for document in documents(task)] == list(RIGHT)
    requests = list(build_requests(task, tmp_path / "images"))
    assert len({request.images[0].key for request in requests}) == 3
    assert requests[0].generation.max_new_tokens == 1024
    assert {value for name, value in scored(task, RIGHT)[0].items() if name != "n_unparsed"} == {1.0}


def test_prompts(tmp_path):
    write(tmp_path)
    for profile in ("original", "lmms-eval"):
        found = prompts(load_task("scienceqa_img", tmp_path, {"prompt": profile}))
        assert found["0"] == f"<image>Which is hot?\nA. ice\nB. fire\n{LETTER}"
        assert found["1"] == (
            f"<image>Context: See the map.\nIt is old.\nWhich colony?\nA. Maryland\nB. Iowa\nC. Ohio\n{LETTER}"
        )
        assert found["2"].endswith(f"\nD. y\nE. z\n{LETTER}")


@pytest.mark.parametrize(
    ("parser", "accuracy", "unparsed"),
    [("llava_scienceqa", 2 / 3, 1), ("lmms_eval_scienceqa", 1 / 3, 2), ("vlmevalkit", 1.0, 0)],
)
def test_parsers(tmp_path, parser, accuracy, unparsed):
    write(tmp_path)
    task = load_task("scienceqa_img", tmp_path, {"parser": parser})
    values, _ = scored(task, {"0": "B. fire", "1": "The answer is A.", "2": "it is E"})
    assert (values["accuracy"], values["n_unparsed"]) == (pytest.approx(accuracy), unparsed)


def test_subjects(tmp_path):
    write(tmp_path)
    values, parsed = scored(load_task("scienceqa_img", tmp_path), {"0": "A", "1": "A", "2": "Z"})
    assert values["natural_science/accuracy"] == values["language_science/accuracy"] == 0
    assert values["social_science/accuracy"] == 1
    assert (values["accuracy"], values["n_unparsed"]) == (pytest.approx(1 / 3), 1)
    assert parsed == {"0": "A", "1": "A", "2": None}


def test_broken_rows(tmp_path):
    write(tmp_path, {0: {"answer": None}, 1: {"image": None}, 2: {"answer": 7}})
    task = load_task("scienceqa_img", tmp_path)
    assert [document[FAULT] for document in documents(task)] == ["answer is null", "image is null", ""]
    requests = list(build_requests(task, tmp_path / "images"))
    assert [request.fault for request in requests] == ["answer is null", "image is null", ""]
    assert scored(task, {"2": "E"})[0]["accuracy"] == 0


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("scienceqa_img", tmp_path), RIGHT)


def write_release(folder, images="test"):
    problems = {str(n + 4): {**row, "image": "image.png", "split": "test"} for n, row in enumerate(ROWS)}
    problems["1"] = {**ROWS[0], "image": None, "split": "test"}
    problems["2"] = {**ROWS[0], "image": "image.png", "split": "train"}
    for id in ("4", "5", "6"):
        (folder / images / id).mkdir(parents=True)
        (folder / images / id / "image.png").write_bytes(jpeg(int(id) - 4))
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"train": ["2"], "test": ["1", "4", "5", "6"]}))


@pytest.mark.parametrize("images", ["test", "images/test"])
def test_the_release(tmp_path, images):
    write_release(tmp_path / "release", images)
    write(tmp_path / "hub")
    check_data("scienceqa_img", tmp_path / "release")
    release, hub = (load_task("scienceqa_img", tmp_path / name) for name in ("release", "hub"))
    assert prompts(release) == prompts(hub)
    assert scored(release, RIGHT) == scored(hub, RIGHT)
    pixels = [
        [request.images[0].load().getpixel((0, 0)) for request in build_requests(task, tmp_path)]
        for task in (release, hub)
    ]
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("pid_splits.json", '{"test": ["4", "99"]}', "for example 99"),
        ("pid_splits.json", "{}", "the test split cannot be found"),
        ("problems.json", "{", "no valid JSON"),
        ("problems.json", "[]", "expected a JSON object"),
    ],
)
def test_damaged_releases(tmp_path, name, text, words):
    write_release(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        check_data("scienceqa_img", tmp_path)
    assert "pid_splits.json" in caught.value.hint


def test_what_the_list_says():
    assert next(iter(task_info("scienceqa_img").metrics)) == "accuracy"
    assert task_info("scienceqa_img").params["parser"] == "llava_scienceqa"


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("scienceqa_img", tmp_path / "data", tmp_path / "runs")
