"""Answers find their questions by what they say, in any order, and what does not fit is refused."""

import random

import pytest
from pope_folder import SPLITS, image_name, pope_questions, write_lines

from sinkbench.errors import UsageError
from sinkbench.importing import import_answers

PERFECT = [f"{split}-{number}" for split in SPLITS for number in range(1, 5)]


def without(rows, *columns):
    return [{key: value for key, value in row.items() if key not in columns} for row in rows]


def check_perfect(load, imported, ids=PERFECT):
    samples = load.samples(imported)
    assert sorted(samples) == sorted(ids)
    assert {row["score"] for row in samples.values()} == {1.0}
    assert imported.record["metrics"]["accuracy"]["value"] == 1.0


def test_by_image_and_question_in_any_order(load, asked):
    """The splits share their yes questions, with the same answers, so that it does not matter whose answer is whose."""
    rows = without(asked, "split", "number")
    random.Random(0).shuffle(rows)
    imported = load(rows)
    check_perfect(load, imported)
    assert imported.record["imported"]["joined_by"] == "image and question"
    assert imported.record["imported"]["n_duplicates"] == 0


def test_an_answer_to_a_question_that_several_splits_ask(load, asked):
    """VLMEvalKit asks each question once, for all its splits."""
    once = {(row["image"], row["question"]): row for row in asked}
    check_perfect(load, load(without(list(once.values()), "split", "number")))
    joined = {
        key: {**row, "category": ",".join(r["split"] for r in asked if (r["image"], r["question"]) == key)}
        for key, row in once.items()
    }
    check_perfect(load, load(without(list(joined.values()), "split", "number")))


@pytest.mark.parametrize(
    "write",
    [
        lambda row: f"<image>\n{row['question']}",
        lambda row: f"{row['question']}\nAnswer the question using a single word or phrase.",
        lambda row: f"USER: <image>\n{row['question']} Please answer this question with one word. ASSISTANT:",
    ],
)
def test_by_image_and_prompt(load, asked, write):
    rows = [
        {"image": f"/data/val2014/{row['image']}", "prompt": write(row), "response": row["answer"]} for row in asked
    ]
    check_perfect(load, load(rows))


def test_the_longest_question_in_a_prompt_is_the_one_that_was_asked(load_random, tmp_path):
    image = image_name(0)
    questions = ["Is there a dog", "Is there a dog house"]
    data = [
        {"question_id": n, "image": image, "text": text, "label": label}
        for n, (text, label) in enumerate(zip(questions, ("yes", "no"), strict=True), start=1)
    ]
    write_lines(load_random.data / "coco_pope_random.json", data)
    rows = [
        {"image": image, "prompt": f"{text} Answer.", "response": label}
        for text, label in zip(questions, ("yes", "no"), strict=True)
    ]
    check_perfect(load_random, load_random(rows), ["random-1", "random-2"])


def test_images_by_number(load, asked):
    rows = [
        {"image_id": int(row["image"][-16:-4]), "question": row["question"], "response": row["answer"]} for row in asked
    ]
    check_perfect(load, load(rows))


def test_by_the_tasks_own_ids(load, asked):
    for write in ("{}-{}".format, "pope/{}-{}".format):
        rows = [{"id": write(row["split"], row["number"]), "text": row["answer"]} for row in asked]
        imported = load(rows)
        check_perfect(load, imported)
        assert imported.record["imported"]["joined_by"] == "id"


def test_by_number_and_split(load, asked):
    rows = [{"question_id": str(row["number"]), "category": row["split"], "text": row["answer"]} for row in asked]
    check_perfect(load, load(rows))


def test_by_number_where_it_is_unique(load_random):
    rows = [{"question_id": row["question_id"], "text": row["label"]} for row in reversed(pope_questions("random"))]
    imported = load_random(rows)
    check_perfect(load_random, imported, PERFECT[:4])
    assert any("nothing but ids" in note for note in imported.notes)


def test_numbers_alone_do_not_tell_splits_apart(load, asked):
    rows = [{"question_id": row["number"], "text": row["answer"]} for row in asked]
    with pytest.raises(UsageError, match="Ids alone do not tell questions apart") as refused:
        load(rows)
    assert "--questions FILE" in refused.value.hint
    assert "--only category=random" in refused.value.hint


def test_only_one_split_was_asked(load, asked):
    rows = [{"question_id": row["number"], "text": row["answer"]} for row in asked if row["split"] == "popular"]
    imported = load(rows, only={"category": "popular"})
    check_perfect(load, imported, [id for id in PERFECT if id.startswith("popular")])
    assert imported.record["imported"]["only"] == {"category": "popular"}
    assert imported.record["task"]["n_run"] == 4
    assert imported.record["metrics"]["random/f1"]["value"] is None


def test_answers_to_one_split_are_not_spread_over_the_others(load, asked):
    rows = without([row for row in asked if row["split"] == "random"], "split", "number")
    for partial in (False, True):
        with pytest.raises(UsageError, match="several categories alike") as refused:
            load(rows, partial=partial)
        assert "--only category=random" in refused.value.hint
    check_perfect(load, load(rows, only={"category": "random"}), PERFECT[:4])


def test_rows_by_position_never(load_random):
    """An older file of the same split has other questions under the same numbers."""
    rows = pope_questions("random")
    shifted = [
        {"question_id": number, "prompt": row["text"], "text": row["label"]}
        for number, row in enumerate(rows[1:] + rows[:1], start=1)
    ]
    with pytest.raises(UsageError, match="no answer belongs"):
        load_random(shifted)
    with_images = [{**new, "image": row["image"]} for new, row in zip(shifted, rows[1:] + rows[:1], strict=True)]
    imported = load_random(with_images)
    check_perfect(load_random, imported, PERFECT[:4])
    assert imported.record["imported"]["joined_by"] == "image and question"
    numbers = [{"index": n, "answer": row["label"]} for n, row in enumerate(rows, start=1)]
    with pytest.raises(UsageError, match="no answer belongs"):
        load_random(numbers)


def test_an_id_whose_image_differs_does_not_count(load_random):
    rows = [{**row, "answer": row["label"]} for row in pope_questions("random")]
    rows[2]["image"] = image_name(0)
    with pytest.raises(UsageError, match=r"1 questions without an answer: pope/random-3; 1 answers without a question: "
                                         r"row 3 \(3\)"):  # fmt: skip
        load_random(rows)


def test_the_question_file_says_what_ids_mean(load, asked, tmp_path):
    """LLaVA numbers the questions of all splits in one file, whose answers hold the number and the prompt."""
    suffix = "\nAnswer the question using a single word or phrase."
    questions = [
        {"question_id": 100 + n, "image": row["image"], "text": row["question"] + suffix, "category": row["split"]}
        for n, row in enumerate(asked)
    ]
    file = write_lines(tmp_path / "llava_pope_test.jsonl", questions)
    rows = [{"question_id": 100 + n, "prompt": row["question"], "text": row["answer"]} for n, row in enumerate(asked)]
    with pytest.raises(UsageError, match="no answer belongs"):
        load(rows)
    check_perfect(load, load(rows, questions=file))


def test_logged_samples_of_the_hubs_schema(load, asked):
    rows = [
        {"doc_id": n, "doc": {"id": str(n), "question_id": str(row["number"]), "question": row["question"],
         "answer": "no", "image_source": row["image"][:-4], "category": row["split"]},
         "target": "no", "resps": [[row["answer"]]], "filtered_resps": [row["answer"]]}
        for n, row in enumerate(asked)
    ]  # fmt: skip
    random.Random(1).shuffle(rows)
    imported = load(rows)
    check_perfect(load, imported)
    assert imported.record["imported"]["format"] == "samples of lm-eval or lmms-eval"
    assert imported.record["imported"]["verified"] == ["image", "text"]


def test_a_table_of_vlmevalkit(load, asked, tmp_path):
    """Each question once, with its splits; the reference stands under "answer", and `index` counts rows."""
    once = {(row["image"], row["question"]): row for row in asked}
    lines = ["index\timage_path\tquestion\tanswer\tcategory\tprediction"]
    for index, (key, row) in enumerate(once.items(), start=1):
        splits = ",".join(each["split"] for each in asked if (each["image"], each["question"]) == key)
        lines.append("\t".join([str(index), row["image"], row["question"], "No", splits, f"{row['answer']}, it is."]))
    file = tmp_path / "LLaVA_POPE.tsv"
    file.write_text("\n".join(lines))
    imported = import_answers("pope", file, data_dir=load.data, output=tmp_path / "runs")
    check_perfect(load, imported)
    assert imported.record["imported"]["format"] == "TSV"
    assert imported.record["imported"]["columns"]["answer"] == "prediction"


def test_gaps_and_surplus_are_counted_named_and_refused(load_random):
    rows = [{"question_id": row["question_id"], "text": row["label"]} for row in pope_questions("random")]
    rows = [*rows[1:3], rows[1], {**rows[3], "text": None}, {"question_id": 99, "text": "Yes"}]
    with pytest.raises(UsageError) as refused:
        load_random(rows)
    for words in (
        "1 questions without an answer: pope/random-1",
        "1 answers that are null: pope/random-4",
        "1 answers without a question: row 5 (99)",
        "1 questions answered more than once: pope/random-2",
    ):
        assert words in refused.value.message
    assert "--partial" in refused.value.hint
    assert not list(load_random.folder.glob("runs/*"))

    imported = load_random(rows, partial=True)
    about = imported.record["imported"]
    counted = ("n_answers", "n_unanswered", "n_null", "n_without_question", "n_duplicates")
    assert [about[name] for name in counted] == [5, 1, 1, 1, 1]
    assert imported.record["status"] == "incomplete"
    assert (imported.record["task"]["n_run"], imported.record["task"]["n_failed"]) == (4, 2)
    assert imported.record["metrics"]["random/accuracy"]["n"] == 2
    samples = load_random.samples(imported)
    assert samples["random-1"]["error"] == "the file has no answer"
    assert samples["random-4"]["error"] == "the file's answer is null"
    assert [samples[id]["score"] for id in PERFECT[:4]] == [None, 1.0, 1.0, None]


def test_an_empty_answer_is_an_answer(load_random):
    rows = [{"question_id": row["question_id"], "text": ""} for row in pope_questions("random")]
    imported = load_random(rows, params={"parser": "lmms_eval"})
    assert imported.record["task"]["n_failed"] == 0
    assert imported.record["metrics"]["random/accuracy"]["value"] == 0
    assert imported.record["metrics"]["n_unparsed"]["value"] == 4


def test_contradictory_answers_are_not_scored(load_random):
    rows = [{"question_id": row["question_id"], "text": row["label"]} for row in pope_questions("random")]
    rows.append({**rows[0], "text": "No"})
    with pytest.raises(UsageError, match="1 questions answered more than once"):
        load_random(rows)
    imported = load_random(rows, partial=True)
    assert "different texts" in load_random.samples(imported)["random-1"]["error"]
    assert imported.record["metrics"]["random/accuracy"] | {"stderr": 0, "ci95": 0} == {
        **{"value": 1.0, "n": 3, "direction": "higher", "stderr": 0, "ci95": 0}
    }


def test_sampled_answers_to_a_question_of_several_splits(load, asked):
    """Whose answer is whose cannot be told without the split."""
    rows = without(asked, "number")
    rows[0]["answer"] = "No"
    with pytest.raises(UsageError, match="3 questions answered more than once"):
        load(without(rows, "split"))
    samples = load.samples(load(rows))
    assert [id for id in PERFECT if samples[id]["score"] == 0] == ["random-1"]


@pytest.mark.parametrize(
    ("only", "words"),
    [({"part": "random"}, "no column 'part'"), ({"category": "easy"}, "has category=easy")],
)
def test_conditions_that_fit_nothing(load_random, only, words):
    with pytest.raises(UsageError, match=words) as refused:
        load_random([{"question_id": 1, "text": "yes"}], only=only)
    assert "category" in refused.value.hint
