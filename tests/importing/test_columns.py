"""What columns mean: by the names that harnesses use, or as the user says."""

import pytest

from sinkbench.errors import UsageError
from sinkbench.importing.columns import ColumnNames, answers_of, choose, image_name, squeezed, with_questions
from sinkbench.importing.formats import Sheet


def sheet(*columns, **row):
    return Sheet([row or dict.fromkeys(columns, "x")], "JSON")


@pytest.mark.parametrize(
    ("columns", "ids", "image", "text", "answer"),
    [
        # LLaVA's answers; its question files have the question under "text".
        (("question_id", "prompt", "text", "answer_id", "model_id"), ("question_id",), "", "prompt", "text"),
        (("question_id", "image", "text", "answer"), ("question_id",), "image", "text", "answer"),
        # VLMEvalKit: "answer" is the reference.
        (("index", "question", "answer", "category", "prediction"), ("index",), "", "question", "prediction"),
        # POPE's and OPERA's own.
        (("question", "answer"), (), "", "question", "answer"),
        (("image_id", "caption"), ("image_id",), "image_id", "", "caption"),
        (
            ("id", "question_id", "question", "answer", "image_source", "resps"),
            ("question_id", "id"),
            "image_source",
            "question",
            "resps",
        ),
    ],
)
def test_known_forms(columns, ids, image, text, answer):
    chosen = choose(sheet(*columns), ColumnNames())
    assert (chosen.ids, chosen.image, chosen.text, chosen.answer) == (ids, image, text, answer)


def test_the_user_has_the_last_word():
    columns = ("question_id", "number", "image", "question", "said", "answer")
    chosen = choose(sheet(*columns), ColumnNames("number", "", "", "said"))
    assert (chosen.ids, chosen.image, chosen.text, chosen.answer) == (("number",), "", "", "said")
    assert not chosen.guessed
    assert choose(sheet(*columns), ColumnNames(question_id="")).ids == ()


@pytest.mark.parametrize(
    ("columns", "names", "words", "hint"),
    [
        (("question_id", "label"), ColumnNames(), "no column is known to hold answers", "--answer COLUMN"),
        (("id", "response", "prediction"), ColumnNames(), "prediction and response", "--answer prediction"),
        (("id", "text"), ColumnNames(answer="said"), "no column 'said' .found: id, text", "--answer COLUMN"),
    ],
)
def test_what_cannot_be_guessed(columns, names, words, hint):
    with pytest.raises(UsageError, match=words) as refused:
        choose(sheet(*columns), names)
    assert hint in refused.value.hint


def read(**row):
    source = sheet(**row)
    return answers_of(source, choose(source, ColumnNames()))[0]


def test_cells():
    row = read(
        question_id=17.0,
        image="val2014/COCO_1.jpg",
        question=" <image>\nIs it\n red? ",
        category="Random, popular",
        prediction=["No"],
    )
    assert (row.ids, row.image, row.text) == ({"question_id": "17"}, "COCO_1", "Is it red?")
    assert (row.categories, row.answer) == ({"random", "popular"}, "No")


@pytest.mark.parametrize(
    ("given", "read_as"),
    [
        ("", ""),
        (None, None),
        (float("nan"), None),
        (3, "3"),
        (2.0, "2"),
        (True, "True"),
        ("a\x00\U0001f600", "a\x00\U0001f600"),
        ("cut \ud83d", "cut \ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("مرحبا", "مرحبا"),
    ],
)
def test_answers_are_text_that_can_be_written(given, read_as):
    answer = read(id=1, answer=given).answer
    assert answer == read_as
    assert answer is None or answer.encode().decode() == answer


def test_an_answer_that_is_none():
    with pytest.raises(UsageError, match="row 1: column 'answer' holds dict"):
        read(id=1, answer={"a": 1})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a/b/COCO_1.jpg", "COCO_1"),
        (r"c:\d\e.png", "e"),
        (17, "17"),
        ("v1.5_x", "v1.5_x"),
        ("A" * 600, ""),
        (None, ""),
        ({"bytes": b""}, ""),
        (True, ""),
    ],
)
def test_names_of_images(given, name):
    assert image_name(given) == name


def test_the_column_of_images_holds_names():
    names = {"question_id": 1, "image": "A" * 600, "image_source": "COCO_1", "answer": "Yes"}
    assert choose(sheet(**names), ColumnNames()).image == "image_source"
    assert choose(sheet(**{**names, "image": "0" * 64}), ColumnNames()).image == "image_source"
    assert choose(sheet(**{**names, "image": "a.jpg"}), ColumnNames()).image == "image"


def test_squeezed_takes_text_only():
    assert (squeezed(None), squeezed(["a"]), squeezed("a <image> b")) == ("", "", "a b")


def test_questions_beside_answers():
    answers = Sheet([{"question_id": 2, "text": "Yes"}, {"question_id": 3, "text": "No"}], "JSON lines")
    asked = [{"question_id": n, "image": f"{n}.jpg", "text": f"Question {n}?", "label": "yes"} for n in (1, 2)]
    assert with_questions(answers, Sheet(asked, "JSON lines")).rows == [
        {"question_id": 2, "text": "Yes", "image": "2.jpg", "prompt": "Question 2?"},
        {"question_id": 3, "text": "No"},
    ]
    with pytest.raises(UsageError, match="tells them apart"):
        with_questions(answers, Sheet([*asked, asked[0]], "JSON lines"))
