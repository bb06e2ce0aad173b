"""What is wrong with the data is said before anything heavy is loaded, with file, line, column and the next step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sinkbench.errors import SampleError, UsageError
from sinkbench.paths import asset
from sinkbench.tasks import build_requests, check_data, documents, load_task, score_samples, task_fingerprint

SCENES = ["scenes_chair", "scenes_mcq", "scenes_pope", "scenes_text"]


def problem(task, folder):
    with pytest.raises(UsageError) as caught:
        check_data(task, folder)
    return caught.value


def edit(path: Path, line: int, change) -> None:
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    change(rows[line - 1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("task", SCENES)
def test_a_complete_folder_passes(task, scenes):
    check_data(task, scenes)


def test_a_missing_folder(tmp_path):
    error = problem("scenes_pope", tmp_path / "nowhere")
    assert "nowhere" in error.message
    assert "sinkbench scenes render" in error.hint
    assert error.exit_code == 2


@pytest.mark.parametrize(("task", "name"), [("scenes_pope", "pope.jsonl"), ("scenes_chair", "synonyms.txt")])
def test_a_missing_file(task, name, scenes):
    (scenes / name).unlink()
    assert name in problem(task, scenes).message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("answer"), ["line 3", "'answer'", "missing"]),
        (lambda row: row.update(answer="maybe"), ["line 3", "'answer'", "yes, no", "'maybe'"]),
        (lambda row: row.update(category="rare"), ["line 3", "'category'", "adversarial"]),
        (lambda row: row.update(question=7), ["line 3", "'question'", "a string", "7"]),
        (lambda row: row.update(id=True), ["line 3", "'id'", "an integer"]),
        (lambda row: row.update(id=0), ["line 3", "id 0", "line 1"]),
    ],
)
def test_a_bad_row_names_file_line_and_column(change, words, scenes):
    edit(scenes / "pope.jsonl", 3, change)
    error = problem("scenes_pope", scenes)
    assert all(word in error.message for word in ["pope.jsonl", *words]), error.message
    assert "--data-dir" in error.hint


def test_answers_must_be_a_list_of_strings(scenes):
    edit(scenes / "text.jsonl", 2, lambda row: row.update(answers="open"))
    assert "line 2: column 'answers' must be a list of strings" in problem("scenes_text", scenes).message


@pytest.mark.parametrize(
    ("text", "words"), [("", "no rows"), ("{}\n", "'id' is missing"), ("[1]\n", "JSON object"), ("{\n", "line 1")]
)
def test_malformed_files(text, words, scenes):
    (scenes / "pope.jsonl").write_text(text)
    assert words in problem("scenes_pope", scenes).message


def test_bytes_that_are_no_text(scenes):
    (scenes / "pope.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in problem("scenes_pope", scenes).message


def test_an_unknown_parameter_value_is_found_before_the_data(scenes):
    with pytest.raises(UsageError, match=r"scenes_pope\.parser"):
        check_data("scenes_pope", scenes, {"parser": "gpt"})


def test_missing_nltk_data_are_found_before_the_first_answer(scenes, monkeypatch):
    def nothing(*args, **kwargs):
        raise LookupError("no data")

    monkeypatch.setattr("nltk.word_tokenize", nothing)
    with pytest.raises(UsageError, match="nltk"):
        check_data("scenes_chair", scenes, {"lemmatizer": "nltk"})


def test_checking_imports_nothing_heavy(scenes):
    code = (
        "import sys; from sinkbench.tasks import check_data;"
        "[check_data(task, sys.argv[1]) for task in sys.argv[2:]];"
        "heavy = {'lm_eval', 'torch', 'datasets', 'transformers', 'nltk', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(scenes), *SCENES], check=True)


def test_a_truncated_or_missing_image_is_left_to_its_samples(scenes, tmp_path):
    broken = scenes / "images" / "000002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    (scenes / "images" / "000003.jpg").unlink()
    check_data("scenes_text", scenes)
    requests = list(build_requests(load_task("scenes_text", scenes), tmp_path))
    assert [bool(request.images[0].sha256) for request in requests[:4]] == [True, True, False, True]
    for request in requests[1:3]:
        with pytest.raises(SampleError):
            request.images[0].load()
    assert requests[0].images[0].load().size == (32, 24)


def test_the_fingerprint_knows_rows_and_parameters_but_not_the_place(scenes, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in scenes.iterdir():
        (moved / path.name).symlink_to(path)
    first = task_fingerprint(load_task("scenes_chair", scenes))
    assert task_fingerprint(load_task("scenes_chair", moved)) == first
    assert task_fingerprint(load_task("scenes_chair", scenes, {"strict_synonyms": True})) != first
    edit(scenes / "chair.jsonl", 1, lambda row: row.update(question="Describe this image."))
    assert task_fingerprint(load_task("scenes_chair", scenes)) != first


def test_rows_of_an_image_stay_together(scenes):
    images = [doc["image"] for doc in documents(load_task("scenes_pope", scenes))]
    assert images == sorted(images)


@pytest.mark.skipif(
    not (asset("scenes/val") / "dataset.json").is_file(), reason="the shipped split is not rendered yet"
)
@pytest.mark.parametrize("task", SCENES)
def test_the_shipped_split_is_scored_fully_for_true_answers(task, perfect):
    check_data(task)
    loaded = load_task(task)
    answers = {f"{task}/{doc['id']}": perfect[task](doc) for doc in documents(loaded)}
    metrics, _ = score_samples(loaded, answers)
    headline = {
        "scenes_pope": ("adversarial/f1", 1.0),
        "scenes_chair": ("chair_i", 0.0),
        "scenes_mcq": ("accuracy", 1.0),
        "scenes_text": ("vqa_accuracy", 1.0),
    }[task]
    assert metrics[headline[0]]["value"] == headline[1]
    assert metrics["n_unparsed"]["value"] == 0
    if task == "scenes_chair":
        assert metrics["recall"]["value"] == 1.0
