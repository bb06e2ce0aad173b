"""What a judge is asked and how its replies become scores; no reply is ever taken for a zero."""

import json

import pytest
from nasty import NASTY

from sinkbench.scoring import llava_bench, mmhal, mmvet
from sinkbench.scoring.metric import evaluate, record
from sinkbench.scoring.schemes import RUBRICS, SCHEMES

DOCUMENTS = {
    "mmvet": {"question_id": "v1_3", "question": "What is x?", "answer": "-1<AND>-5", "capability": "ocr,math"},
    "mmhal": {
        "question_type": "counting",
        "question_topic": "animal",
        "image_id": "a1",
        "image_src": "https://example.org/a1_o.jpg",
        "image_content": ["Dog", "Cat"],
        "question": "How many dogs?",
        "gt_answer": "One.",
        "extra": 1,
    },
    "llava_bench": {
        "question_id": 7,
        "question": "Where is this?",
        "category": "conv",
        "caption": ["A hill.", "A sea."],
        "gpt_answer": "On a hill.",
    },
}


def judged(scheme, text, reply):
    document = DOCUMENTS[scheme]
    return {
        "mmvet": lambda: mmvet.score(text, reply, document["capability"]),
        "mmhal": lambda: mmhal.score(text, reply, document["question_type"]),
        "llava_bench": lambda: llava_bench.score(text, reply, document["category"]),
    }[scheme]()


@pytest.mark.parametrize(
    ("reply", "credit"),
    [
        ("0.7", 0.7),
        (" 1.0\nbecause", 1.0),
        ("0 of it", 0.0),
        ("1.1", None),
        ("-0.1", None),
        ("Correctness: 0.5", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_credit_of_mmvet(reply, credit):
    assert mmvet.read(reply) == credit


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It is fine.\nRating: 4, very informative", 4),
        ("**Rating:** 0", 0),
        ("rating: 3 ... so Rating: 3", 3),
        ("Rating: 3 or rating: 4", None),
        ("Rating: 7", None),
        ("Rating: 10", None),
        ("Rating: 3.5", None),
        ("4", None),
        ("", None),
    ],
)
def test_a_rating_of_mmhal(reply, rating):
    assert mmhal.read(reply) == rating


@pytest.mark.parametrize(
    ("reply", "ratings"),
    [
        ("8 7\nreasons", [8.0, 7.0]),
        ("\n8, 7.5", [8.0, 7.5]),
        ("8", None),
        ("8 7 6", None),
        ("0 7", None),
        ("8 11", None),
        ("Assistant 1: 8", None),
        ("", None),
    ],
)
def test_ratings_of_llava_bench(reply, ratings):
    assert llava_bench.read(reply) == ratings


def values(scheme, scores, names):
    records = [record(f"{index:02}", str(index), score) for index, score in enumerate(scores)]
    return {name: evaluate(SCHEMES[scheme], name, records).value for name in names}


def test_metrics_of_mmvet():
    scores = [mmvet.score("a", "0.5", "ocr,math"), mmvet.score(" ", "0.0", "ocr"), mmvet.score("b", "1.0", "rec")]
    assert values("mmvet", scores, ["score", "ocr/score", "math/score", "rec/score", "n_unparsed"]) == {
        "score": 0.5,
        "ocr/score": 0.25,
        "math/score": 0.5,
        "rec/score": 1.0,
        "n_unparsed": 1,
    }


def test_metrics_of_mmhal():
    scores = [
        mmhal.score("a", "Rating: 6", "counting"),
        mmhal.score("b", "Rating: 3", "counting"),
        mmhal.score("c", "Rating: 2", "other"),
    ]
    assert values("mmhal", scores, ["score", "hallucination_rate", "counting/score", "other/score"]) == {
        "score": pytest.approx(11 / 3),
        "hallucination_rate": pytest.approx(1 / 3),
        "counting/score": 4.5,
        "other/score": 2.0,
    }


def test_metrics_of_llava_bench():
    scores = [llava_bench.score("a", "8 4", "conv"), llava_bench.score("b", "10 5", "detail")]
    scores.append(llava_bench.score("c", "2 10", "detail"))
    assert values("llava_bench", scores, ["relative_score", "conv/relative_score", "detail/relative_score"]) == {
        "relative_score": pytest.approx(19 / 20),
        "conv/relative_score": 0.5,
        "detail/relative_score": pytest.approx(15 / 12),
    }


@pytest.mark.parametrize("scheme", RUBRICS)
def test_an_answer_without_verdict_has_a_share_in_nothing(scheme):
    right = {"mmvet": "1.0", "mmhal": "Rating: 6", "llava_bench": "8 8"}[scheme]
    headline = {"mmvet": ("score", 1.0), "mmhal": ("score", 6.0), "llava_bench": ("relative_score", 1.0)}[scheme]
    scores = [judged(scheme, "a", right), judged(scheme, "b", None), judged(scheme, "c", "I do not know")]
    assert values(scheme, scores, [headline[0]]) == dict([headline])
    assert scores[1].counts == scores[2].counts == {}


@pytest.mark.parametrize("scheme", RUBRICS)
@pytest.mark.parametrize("text", NASTY)
def test_no_answer_and_no_reply_breaks_anything(scheme, text):
    score = judged(scheme, text, text)
    assert 0 <= score.score <= 1
    assert text in RUBRICS[scheme].prompt(DOCUMENTS[scheme], text)
    content = RUBRICS[scheme].submission([(DOCUMENTS[scheme], text)], "m")
    assert text in json.dumps(json.loads(content), ensure_ascii=False) or json.dumps(text) in json.dumps(
        json.loads(content)
    )


def test_the_judge_is_told_question_reference_and_answer():
    prompt = RUBRICS["mmvet"].prompt(DOCUMENTS["mmvet"], "x = -1")
    assert "Question: What is x?\nReference: -1 <AND> -5\nAnswer: x = -1\n" in prompt
    prompt = RUBRICS["mmhal"].prompt(DOCUMENTS["mmhal"], "Two.")
    assert (
        "In the image: Dog, Cat\nQuestion: How many dogs?\nThe person's answer: One.\nAnswer to rate: Two.\n" in prompt
    )
    prompt = RUBRICS["llava_bench"].prompt(DOCUMENTS["llava_bench"], "At sea.")
    for part in ("A hill.\nA sea.", "Where is this?", "assistant 1:\nOn a hill.", "assistant 2:\nAt sea."):
        assert part in prompt


def test_submissions_have_the_official_forms():
    files = {
        scheme: rubric.submission([(DOCUMENTS[scheme], "Ja.")], "tiny__greedy") for scheme, rubric in RUBRICS.items()
    }
    assert json.loads(files["mmvet"]) == {"v1_3": "Ja."}
    assert json.loads(mmvet.submission([({"question_id": 3}, "Ja.")], "")) == {"v1_3": "Ja."}
    (row,) = json.loads(files["mmhal"])
    assert row == {**{key: value for key, value in DOCUMENTS["mmhal"].items() if key != "extra"}, "model_answer": "Ja."}
    (line,) = files["llava_bench"].splitlines()
    answer = json.loads(line)
    assert len(answer.pop("answer_id")) == 22
    assert answer == {
        "question_id": 7,
        "prompt": "Where is this?",
        "text": "Ja.",
        "model_id": "tiny__greedy",
        "metadata": {},
    }


@pytest.mark.parametrize("scheme", RUBRICS)
def test_unknown_metrics(scheme):
    for name in ("accuracy", "chess/score", "score/ocr"):
        with pytest.raises(ValueError, match="no metric"):
            SCHEMES[scheme].metric(name)
