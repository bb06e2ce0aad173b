"""MMVP: the hub's schema, the release, prompts, pairs, the labels that were the wrong way round."""

import csv

import pytest
from choice_data import check_nasty, check_run, fake_hub, parquet, prompts, scored
from hub_data import jpeg

from sinkbench.errors import UsageError
from sinkbench.tasks import build_requests, check_data, documents, load_task
from sinkbench.tasks.layout import FAULT

HUB = {"index": "int64", "question": "string", "options": "string", "answer": "string", "image": "image"}
LETTER = "Answer with the option's letter from the given choices directly."
FILE = "data/train-00000-of-00001.parquet"


def rows(first=1, n=4):
    return [
        {
            "index": number,
            "question": f"Is door {(number + 1) // 2} open?",
            "options": "(a) Open (b) Closed (b is shut)",
            "answer": "(a)" if number % 2 else "(b)",
        }
        for number in range(first, first + n)
    ]


RIGHT = {"0": "A", "1": "B", "2": "A", "3": "B"}


def write(folder, table=None, columns=HUB):
    return parquet(folder, FILE, rows() if table is None else table, columns)


def test_the_hubs_copy(tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab-eval/MMVP"))
    check_data("mmvp")
    task = load_task("mmvp")
    assert [(document["id"], document["cluster"]) for document in documents(task)] == [
        ("0", "pair 1"),
        ("1", "pair 1"),
        ("2", "pair 2"),
        ("3", "pair 2"),
    ]
    requests = list(build_requests(task, tmp_path / "images"))
    assert len({request.images[0].key for request in requests}) == 4
    assert requests[0].generation.max_new_tokens == 16
    assert scored(task, RIGHT)[0] == {"pair_accuracy": 1.0, "accuracy": 1.0, "n_unparsed": 0}


def test_other_spellings_of_its_columns_and_no_index(tmp_path):
    names = {"question": "Question", "options": "Options", "answer": "Correct Answer"}
    table = [{names[key]: value for key, value in row.items() if key in names} for row in rows()]
    columns = {names.get(key, key): kind for key, kind in HUB.items() if key != "index"}
    write(tmp_path / "other", table, columns)
    write(tmp_path / "hub")
    other, hub = load_task("mmvp", tmp_path / "other"), load_task("mmvp", tmp_path / "hub")
    assert prompts(other) == prompts(hub)
    assert scored(other, RIGHT) == scored(hub, RIGHT)


def test_pairs_go_by_the_index(tmp_path):
    write(tmp_path, [rows()[number] for number in (0, 2, 1, 3)])
    task = load_task("mmvp", tmp_path)
    assert [document["number"] for document in documents(task)] == [1, 2, 3, 4]
    assert [document["cluster"] for document in documents(task)] == ["pair 1", "pair 1", "pair 2", "pair 2"]


def test_prompts(tmp_path):
    write(tmp_path)
    shown = "A. Open\nB. Closed (b is shut)"
    assert prompts(load_task("mmvp", tmp_path))["0"] == f"<image>Is door 1 open?\n{shown}\n{LETTER}"
    assert prompts(load_task("mmvp", tmp_path, {"prompt": "original"}))["0"] == (
        "<image>Is door 1 open? (a) Open (b) Closed (b is shut)"
    )


def test_both_questions_of_a_pair_must_be_right(tmp_path):
    write(tmp_path)
    task = load_task("mmvp", tmp_path)
    values, parsed = scored(task, {"0": "(A) Open", "1": "B", "2": "A", "3": "perhaps"})
    assert parsed == {"0": "A", "1": "B", "2": "A", "3": None}
    assert values == {"pair_accuracy": 0.5, "accuracy": 0.75, "n_unparsed": 1}
    assert scored(task, dict.fromkeys(RIGHT, "A"))[0] == {"pair_accuracy": 0.0, "accuracy": 0.5, "n_unparsed": 0}
    assert scored(task, {"0": "A", "1": "B", "2": "A"})[0]["pair_accuracy"] == 1.0


@pytest.mark.parametrize("first", [99, 279])
def test_labels_of_two_pairs(tmp_path, first):
    """The release says a, b; it should be b, a. Where they have been put right, nothing changes."""
    swapped = {"0": "B", "1": "A"}
    write(tmp_path / "given", rows(first, 2))
    assert scored(load_task("mmvp", tmp_path / "given"), swapped)[0]["pair_accuracy"] == 1
    given = load_task("mmvp", tmp_path / "given", {"labels": "given"})
    assert scored(given, {"0": "A", "1": "B"})[0]["pair_accuracy"] == 1
    mended = [{**row, "answer": "(b)" if row["answer"] == "(a)" else "(a)"} for row in rows(first, 2)]
    write(tmp_path / "mended", mended)
    assert scored(load_task("mmvp", tmp_path / "mended"), swapped)[0]["pair_accuracy"] == 1


def test_broken_rows(tmp_path):
    table = rows()
    table[0]["answer"], table[1]["image"], table[2]["options"] = None, None, None
    write(tmp_path, table)
    task = load_task("mmvp", tmp_path)
    faults = ["answer is null", "image is null", "options is null", ""]
    assert [document[FAULT] for document in documents(task)] == faults
    assert [request.fault for request in build_requests(task, tmp_path / "images")] == faults
    assert scored(task, {"3": "B"})[0] == {"pair_accuracy": None, "accuracy": 1.0, "n_unparsed": 0}


@pytest.mark.parametrize("index", [0, 2])
def test_indices_that_are_not_from_1_or_occur_twice(tmp_path, index):
    table = rows()
    table[0]["index"] = index
    write(tmp_path, table)
    with pytest.raises(UsageError, match="whole numbers from 1, each once"):
        load_task("mmvp", tmp_path)


def test_any_answer(tmp_path):
    write(tmp_path)
    check_nasty(load_task("mmvp", tmp_path), RIGHT)


@pytest.mark.parametrize("images", ["MMVP Images", "images", "."])
def test_the_release(tmp_path, images):
    folder = tmp_path / "release"
    (folder / images).mkdir(parents=True)
    with (folder / "Questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Index", "Question", "Options", "Correct Answer"])
        for number, row in enumerate(rows(), start=1):
            table.writerow([number, row["question"], row["options"], row["answer"]])
            (folder / images / f"{number}.jpg").write_bytes(jpeg(number))
    write(tmp_path / "hub")
    check_data("mmvp", folder)
    release, hub = load_task("mmvp", folder), load_task("mmvp", tmp_path / "hub")
    assert prompts(release) == prompts(hub)
    assert scored(release, RIGHT) == scored(hub, RIGHT)
    assert [request.images[0].load().size for request in build_requests(release, tmp_path)] == [(32, 24)] * 4


def test_a_damaged_release(tmp_path):
    (tmp_path / "Questions.csv").write_text("Index,Question\n1,why?\n")
    with pytest.raises(UsageError, match="columns Options, Correct Answer are missing"):
        check_data("mmvp", tmp_path)


def test_a_real_run(tmp_path):
    write(tmp_path / "data")
    check_run("mmvp", tmp_path / "data", tmp_path / "runs")
