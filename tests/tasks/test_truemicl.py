"""TrueMICL: demonstrations from folders in VL-ICL's layout, prompts of several images, scores by task and over all."""

import json

import pytest
from hub_data import jpeg

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.request import Message
from sinkbench.scoring.in_context import TASKS, names
from sinkbench.spec import RunSpec, expand
from sinkbench.tasks import (
    build_requests,
    check_data,
    documents,
    load_task,
    score_samples,
    task_fingerprint,
    task_groups,
    task_info,
)

N_SUPPORT, N_QUERY = 6, 3
FOLDERS = {
    "operator_induction": "operator_induction",
    "clock_math": "Clock-Math",
    "outlier_detection": "outlier",
    "clevr_count": "shapes_count",
    "sudoku": "sudoku",
    "palindrome": "palindrome_number",
    "character_classification": "characters",
}


def support_row(task, index):
    operators = task == "operator_induction"
    return {
        "image": [f"{FOLDERS[task]}/s{index}.jpg"],
        "question": f"What is s{index}?",
        "answer": [index + 100, index + 200, index + 300] if operators else f"name {index}",
    }


def query_row(task, index):
    row = {"image": f"{FOLDERS[task]}/q{index}.jpg", "question": f"What is q{index}?", "answer": index}
    return {**row, "operator": "+-x"[index % 3]} if task == "operator_induction" else row


@pytest.fixture
def data(tmp_path):
    """Seven folders of six demonstrations and three questions, all answered by their number."""
    root = tmp_path / "TrueMICL"
    for task in TASKS:
        folder = root / FOLDERS[task]
        folder.mkdir(parents=True)
        for kind, row, count in (("support", support_row, N_SUPPORT), ("query", query_row, N_QUERY)):
            rows = [row(task, index) for index in range(count)]
            (folder / f"{kind}.json").write_text(json.dumps(rows))
            for index in range(count):
                (folder / f"{kind[0]}{index}.jpg").write_bytes(jpeg(10 * TASKS.index(task) + index + 100 * count))
    return root


def edit(data, task, kind, index, **changes):
    path = data / FOLDERS[task] / f"{kind}.json"
    rows = json.loads(path.read_text())
    rows[index] |= changes
    path.write_text(json.dumps(rows))


def rows_of(data, task="truemicl_sudoku", **params):
    return list(documents(load_task(task, data, params)))


def requests_of(data, tmp_path, task="truemicl_sudoku", **params):
    return list(build_requests(load_task(task, data, params), tmp_path / "images"))


def shown(data, task="truemicl_sudoku", **params):
    return [row["shown"] for row in rows_of(data, task, **params)]


def test_names_and_groups():
    assert task_groups()["truemicl_tasks"] == tuple(f"truemicl_{task}" for task in TASKS)
    assert [spec.task for spec in expand({"model": "m", "task": "truemicl_tasks"})] == list(
        task_groups()["truemicl_tasks"]
    )
    assert sorted(task_info("truemicl").metrics) == sorted(names())
    for task in TASKS:
        assert sorted(task_info(f"truemicl_{task}").metrics) == sorted(names((task,)))
        assert task_info(f"truemicl_{task}").generation == {"max_gen_toks": 15, "do_sample": False, "until": []}
        assert list(task_info(f"truemicl_{task}").settings["folders"]) == [task]
    assert list(task_info("truemicl").settings["folders"]) == list(TASKS)


def test_prompt_of_vl_icl_letter_by_letter(data, tmp_path):
    first, second = shown(data, shots=2)[0]
    (request, *_) = requests_of(data, tmp_path, shots=2)
    assert request.messages == (
        Message(
            "user",
            f"\n<image>\nWhat is s{first}?\nAnswer: name {first}\n<image>\nWhat is s{second}?\nAnswer: name {second}\n"
            "<image>\nWhat is q0?\nAnswer:",
        ),
    )
    assert [image.path.rpartition("/")[2] for image in request.images] == [f"s{first}.jpg", f"s{second}.jpg", "q0.jpg"]
    assert all(image.sha256 for image in request.images)
    (request, *_) = requests_of(data, tmp_path, shots=1, instruction="Find the number.")
    assert request.messages[0].text.startswith("Find the number.\n<image>\nWhat is s")


def test_prompt_of_turns(data, tmp_path):
    first, second = shown(data, shots=2)[0]
    (request, *_) = requests_of(data, tmp_path, shots=2, prompt="chat_turns", instruction="Look.")
    assert request.messages == (
        Message("user", f"Look.\n<image>\nWhat is s{first}?"),
        Message("assistant", f"name {first}"),
        Message("user", f"<image>\nWhat is s{second}?"),
        Message("assistant", f"name {second}"),
        Message("user", "<image>\nWhat is q0?"),
    )
    assert len(request.images) == 3


@pytest.mark.parametrize("prompt", ["vl_icl", "chat_turns"])
def test_zero_shot_shows_nothing(prompt, data, tmp_path):
    for request in requests_of(data, tmp_path, shots=0, prompt=prompt):
        assert len(request.messages) == len(request.images) == 1
        assert "s" not in "".join(image.path.rpartition("/")[2][0] for image in request.images)
        assert "name" not in request.messages[0].text


def test_demonstrations_without_their_images(data, tmp_path):
    first, second = shown(data, shots=2)[0]
    (request, *_) = requests_of(data, tmp_path, shots=2, condition="no-image")
    assert request.messages[0].text == (
        f"\nWhat is s{first}?\nAnswer: name {first}\nWhat is s{second}?\nAnswer: name {second}\n"
        "<image>\nWhat is q0?\nAnswer:"
    )
    assert [image.path.rpartition("/")[2] for image in request.images] == ["q0.jpg"]


def test_several_images_a_row(data, tmp_path):
    edit(data, "sudoku", "query", 0, image=["sudoku/q0.jpg", "sudoku/q1.jpg"])
    (request, *_) = requests_of(data, tmp_path, shots=0)
    assert request.messages[0].text == "\n<image>\n<image>\nWhat is q0?\nAnswer:"
    assert len(request.images) == 2


def test_demonstrations_are_nested_seeded_and_differ(data):
    four, two = shown(data, shots=4), shown(data, shots=2)
    assert [row[:2] for row in four] == two
    assert all(len(set(row)) == 4 for row in four)
    assert shown(data, shots=4) == four
    assert shown(data, shots=4, seed=1) != four
    assert len({tuple(row) for row in shown(data, shots=6)}) > 1
    assert shown(data, "truemicl_palindrome", shots=6) != shown(data, shots=6)
    alone = [row["shown"] for row in rows_of(data, "truemicl", shots=4) if row["folder"] == "sudoku"]
    assert alone == four


def test_fixed_demonstrations_are_those_of_every_question(data, tmp_path):
    assert len({tuple(row) for row in shown(data, shots=6, demos="fixed")}) == 1
    texts = [request.messages[0].text for request in requests_of(data, tmp_path, shots=3, demos="fixed")]
    assert len({text.rpartition("<image>")[0] for text in texts}) == 1


@pytest.mark.parametrize("demos", ["random", "fixed"])
def test_a_question_is_never_its_own_demonstration(data, demos):
    edit(data, "sudoku", "support", 2, image=["sudoku/q0.jpg"], question="What is q0?")
    first, *others = shown(data, shots=5, demos=demos)
    assert 2 not in first
    assert any(2 in row for row in others) == (demos == "random")
    with pytest.raises(UsageError, match="has 5 rows to show that are not asked, fewer than 6"):
        shown(data, shots=6)


def test_a_hidden_operator_chooses_the_answer_shown(data, tmp_path):
    for index, request in enumerate(requests_of(data, tmp_path, "truemicl_operator_induction", shots=1)):
        (number,) = shown(data, "truemicl_operator_induction", shots=1)[index]
        assert f"Answer: {number + 100 * (index + 1)}\n" in request.messages[0].text


def test_what_lies_where_does_not_change_the_fingerprint(data, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    first = task_fingerprint(load_task("truemicl_sudoku", data))
    assert task_fingerprint(load_task("truemicl_sudoku", moved)) == first
    for change in ({"seed": 1}, {"shots": 3}, {"condition": "no-image"}, {"demos": "fixed"}, {"prompt": "chat_turns"}):
        assert task_fingerprint(load_task("truemicl_sudoku", data, change)) != first


def test_scores_by_task_and_over_tasks(data):
    task = load_task("truemicl", data)
    rows = list(documents(task))
    assert len(rows) == 7 * N_QUERY

    def answer(row):
        if row["folder"] == "sudoku":
            return f"It is {row['answer']}"
        return "none" if row["folder"] == "palindrome" else row["answer"]

    answers = {f"truemicl/{row['id']}": answer(row) for row in rows}
    metrics, samples = score_samples(task, answers)
    assert metrics["accuracy"]["value"] == pytest.approx(5 / 7)
    assert metrics["contains"]["value"] == pytest.approx(6 / 7)
    assert metrics["sudoku/accuracy"]["value"] == metrics["palindrome/contains"]["value"] == 0
    assert metrics["sudoku/contains"]["value"] == metrics["operator_induction/accuracy"]["value"] == 1
    assert samples["truemicl/sudoku-0"]["parsed"] == "it is 0"
    assert score_samples(task, dict(reversed(answers.items())))[0] == metrics
    one = load_task("truemicl_palindrome", data)
    metrics, _ = score_samples(one, {f"truemicl_palindrome/palindrome-{index}": str(index) for index in range(3)})
    assert {name: metric["value"] for name, metric in metrics.items()} == {
        "accuracy": 1,
        "contains": 1,
        "n_unparsed": 0,
    }


def test_a_null_is_a_fault_of_its_question(data):
    edit(data, "sudoku", "query", 1, answer=None)
    edit(data, "sudoku", "query", 2, image=None)
    assert [row["fault"] for row in rows_of(data)] == ["", "answer is null", "image is null"]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("query", {"answer": 1.5}, ["query.json, row 2", "'answer' is unknown in shape", "image, question, answer"]),
        ("query", {"answer": [1, 2, 3]}, ["'answer' is unknown in shape", "expected: image"]),
        ("query", {"answer": True}, ["'answer' is unknown in shape"]),
        ("query", {"question": ["?"]}, ["'question' is unknown in shape"]),
        ("query", {"image": []}, ["'image' is unknown in shape"]),
        ("query", {"image": {"path": "a"}}, ["'image' is unknown in shape"]),
        ("support", {"answer": [1, 2]}, ["support.json, row 2", "'answer' is unknown in shape"]),
        ("support", {"answer": None}, ["support.json, row 2", "'answer' is unknown in shape"]),
        ("support", {"answer": [1, 2, 3]}, ["query.json, row 1", "'operator' must be one of +, -, x"]),
    ],
)
def test_rows_of_another_shape_are_errors_that_say_what_was_found(data, kind, change, words):
    edit(data, "sudoku", kind, 1, **change)
    for read in (lambda: check_data("truemicl_sudoku", data), lambda: load_task("truemicl", data)):
        with pytest.raises(UsageError) as caught:
            read()
        assert all(word in caught.value.message for word in words), caught.value.message
        assert "--data-dir" in caught.value.hint


def test_missing_keys_and_files(data):
    path = data / "sudoku" / "query.json"
    rows = json.loads(path.read_text())
    del rows[0]["question"]
    path.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match=r"row 1: 'question' is missing \(found: image, answer; expected: image"):
        check_data("truemicl_sudoku", data)
    path.write_text("{}")
    with pytest.raises(UsageError, match="expected a list of JSON objects"):
        check_data("truemicl_sudoku", data)
    path.write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        check_data("truemicl_sudoku", data)
    path.unlink()
    with pytest.raises(UsageError, match=r"no folder of sudoku \(found with a query\.json: Clock-Math, "):
        check_data("truemicl", data)
    check_data("truemicl_palindrome", data)
    with pytest.raises(UsageError, match="is read from a folder") as caught:
        check_data("truemicl")
    assert "ShuoChen99/TrueMICL" in caught.value.hint
    with pytest.raises(UsageError, match="does not exist"):
        check_data("truemicl", data / "none")


def test_two_folders_that_fit(data):
    (data / "clevr").mkdir()
    (data / "clevr" / "query.json").write_text("[]")
    with pytest.raises(UsageError, match="2 folders that may be clevr_count") as caught:
        check_data("truemicl", data)
    assert "Name the folder of clevr_count clevr_count" in caught.value.hint
    (data / "shapes_count").rename(data / "clevr_count")
    for index in range(N_SUPPORT):
        edit_path = data / "clevr_count" / f"s{index}.jpg"
        assert edit_path.is_file()
    with pytest.raises(UsageError, match="none of the 9 images"):
        check_data("truemicl", data)


def test_images_may_be_named_from_their_own_folder(data, tmp_path):
    for kind, count in (("support", N_SUPPORT), ("query", N_QUERY)):
        for index in range(count):
            edit(data, "sudoku", kind, index, image=f"{kind[0]}{index}.jpg")
    assert all(image.sha256 for request in requests_of(data, tmp_path) for image in request.images)


@pytest.mark.parametrize(("params", "words"), [({"shots": -1}, "0 or more"), ({"shots": 7}, "fewer than 7")])
def test_wrong_shots(params, words, data):
    with pytest.raises(UsageError, match=words):
        check_data("truemicl_sudoku", data, params)


def test_lm_eval_alone_has_prompts_and_no_turns(data):
    from lm_eval.tasks import TaskManager

    from sinkbench.paths import resource

    def manager(**metadata):
        return TaskManager(
            include_path=str(resource("tasks")),
            include_defaults=False,
            metadata={"data_dir": str(data), "shots": 1, **metadata},
        )

    task = manager().load(["truemicl_sudoku"])["tasks"]["truemicl_sudoku"]
    document = task.eval_docs[0]
    assert task.doc_to_text(document).count("<image>") == len(task.doc_to_image(document)) == 2
    with pytest.raises(UsageError, match="chat_turns needs turns"):
        manager(prompt="chat_turns").load(["truemicl_sudoku"])


@pytest.mark.parametrize("prompt", ["vl_icl", "chat_turns"])
def test_a_model_answers_prompts_of_several_images(prompt, data, tmp_path):
    (data / "sudoku" / "q1.jpg").write_bytes(b"no image")
    edit(data, "sudoku", "query", 2, answer=None)
    spec = RunSpec(
        model="tiny-llava",
        task="truemicl_sudoku",
        params={"truemicl_sudoku.shots": 2, "truemicl_sudoku.prompt": prompt},
        data_dir=data,
        output=tmp_path / "runs",
        device="cpu",
    )
    (outcome,) = runner.run([spec])
    record = outcome.record
    assert (record["status"], record["task"]["n_run"], record["task"]["n_failed"]) == ("incomplete", 3, 2)
    rows = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    assert rows[0]["visual_tokens"] == 3 * 196
    assert rows[0]["image_hash"].count("+") == 2
    assert "q1.jpg cannot be read" in rows[1]["error"]
    assert rows[2]["error"] == "answer is null"
    assert record["metrics"]["accuracy"]["n"] == 1
    if prompt == "vl_icl":
        params = {"truemicl_sudoku.shots": 5}
        (outcome,) = runner.run([spec.model_copy(update={"params": params})])
        rows = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
        assert "with 6 images; the model reads 1024" in rows[0]["error"]
