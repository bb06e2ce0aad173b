"""POPE's five ways to read an answer, and its metrics."""

import json
import random

import pytest

from sinkbench.errors import UsageError
from sinkbench.scoring import pope
from sinkbench.scoring.metric import evaluate, record

YES, NO, NEITHER = "yes", "no", None

# Text, then the reading by pope, opera_pai, lmms_eval, vlmevalkit.
READINGS = [
    ("Yes", YES, YES, YES, YES),
    ("No", NO, NO, NO, NO),
    ("yes", YES, YES, YES, YES),
    ("Yes.", YES, YES, NEITHER, YES),
    ("No.", NO, NO, NEITHER, NO),
    (" no \n", NO, NO, NO, NO),
    ("NO", YES, NO, NO, NO),
    ("NO.", YES, NO, NEITHER, NO),
    ("No, there is no dog in the image.", NO, NO, NEITHER, NO),
    ("Yes, there is a dog. It is not small.", YES, NO, NEITHER, YES),
    ("There is a dog", YES, YES, NEITHER, NEITHER),
    ("There isn't a dog", YES, NO, NEITHER, NEITHER),
    ("There is not a dog", NO, NO, NEITHER, NEITHER),
    ("I do not know, yes or no", NO, NO, NEITHER, NEITHER),
    ("Nothing to see", YES, YES, NEITHER, NEITHER),
    ("no\nyes", YES, YES, NEITHER, NEITHER),
    ("None", YES, YES, NEITHER, NEITHER),
    ("", YES, YES, NEITHER, NEITHER),
]


@pytest.mark.parametrize(("text", "original", "opera_pai", "lmms_eval", "vlmevalkit"), READINGS)
def test_readings(text, original, opera_pai, lmms_eval, vlmevalkit):
    expected = {"pope": original, "opera_pai": opera_pai, "lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}
    for label in ("yes", "no"):
        assert {parser: pope.parse(text, label, parser).answer for parser in expected} == expected


@pytest.mark.parametrize(
    ("text", "label", "answer"),
    [
        ("Yes, it is", "yes", "yes"),
        ("I know this place", "no", "no"),
        ("I know this place", "yes", "no"),
        ("yes and no", "yes", "yes"),
        ("yes and no", "no", "no"),
        ("perhaps", "yes", "no"),
        ("perhaps", "no", "yes"),
    ],
)
def test_vcd_looks_for_the_label(text, label, answer):
    assert pope.parse(text, label, "vcd").answer == answer


@pytest.mark.parametrize("parser", pope.PARSERS)
def test_what_no_rule_recognises_is_counted(parser):
    for text, unparsed in (("Maybe a cat", 1.0), ("Yes", 0.0), ("no", 0.0)):
        assert pope.score(text, "yes", "random", parser).counts["random.unparsed"] == unparsed


def test_an_unknown_parser_names_the_nearest():
    with pytest.raises(UsageError) as caught:
        pope.parse("Yes", "yes", "lmm_eval")
    assert "lmms_eval" in caught.value.hint


def scored(rows, parser="pope"):
    """Records from (text, label, split)."""
    return [record(f"{i:05}", str(i // 6), pope.score(*row, parser)) for i, row in enumerate(rows)]


def values(rows, parser="pope"):
    records = scored(rows, parser)
    return {name: evaluate(pope.SCHEME, name, records) for name in pope.NAMES}


def test_metrics_by_hand():
    """Random split: 3 tp, 1 fn, 2 fp, 4 tn."""
    answers = [("Yes", "yes")] * 3 + [("No", "yes")] + [("Yes", "no")] * 2 + [("No", "no")] * 4
    got = values([(text, label, "random") for text, label in answers])
    expected = {"accuracy": 0.7, "precision": 0.6, "recall": 0.75, "f1": 2 * 0.6 * 0.75 / 1.35, "yes_ratio": 0.5}
    assert {name: got[f"random/{name}"].value for name in expected} == pytest.approx(expected)
    assert {name: got[name].value for name in expected} == pytest.approx(expected)
    assert got["random/f1"].n == 10
    assert got["popular/f1"].n == 0


def test_plain_names_average_the_splits_and_do_not_pool_them():
    rows = [("Yes", "yes", "random")] * 9 + [("No", "no", "random")] * 9
    rows += [("Yes", "yes", "adversarial"), ("Yes", "no", "adversarial")]
    got = values(rows)
    assert got["adversarial/f1"].value == pytest.approx(2 / 3)
    assert got["f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert got["accuracy"].value == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "flagged"),
    [("No", {"precision", "f1"}), ("Yes", set())],
)
def test_zero_over_zero_is_zero_and_flagged(text, flagged):
    got = values([(text, label, "random") for label in ("yes", "no")])
    assert {name for name in pope.BINARY if got[f"random/{name}"].undefined} == flagged
    assert {name for name in pope.BINARY if got[name].undefined} == flagged
    assert all(got[name].value == 0 for name in flagged)


def test_wrong_everywhere_is_zero_without_a_flag():
    got = values([("No", "yes", "random"), ("Yes", "no", "random")])
    assert [got[f"random/{name}"].value for name in pope.BINARY] == [0, 0, 0, 0, 0.5]
    assert not any(got[name].undefined for name in pope.BINARY)


def test_right_everywhere_is_one():
    rows = [(label.title(), label, split) for split in pope.SPLITS for label in ("yes", "no") for _ in range(3)]
    for parser in pope.PARSERS:
        got = values(rows, parser)
        assert all(got[name].value == 1 for name in ("accuracy", "f1", "precision", "recall"))
        assert got["yes_ratio"].value == 0.5
        assert got["n_unparsed"].value == 0


def test_lmms_eval_leaves_odd_answers_out_of_every_cell():
    rows = [("Yes", "yes", "random"), ("Yes.", "yes", "random"), ("No", "no", "random"), ("No.", "no", "random")]
    got = values(rows, "lmms_eval")
    assert got["random/accuracy"].value == 0.5
    assert got["random/recall"].value == 1.0
    assert got["random/yes_ratio"].value == 0.25
    assert got["n_unparsed"].value == 2


def test_vlmevalkit_takes_the_unknown_for_a_predicted_no_except_in_accuracy():
    rows = [("Yes", "yes", "random"), ("dog", "yes", "random"), ("dog", "no", "random")]
    got = values(rows, "vlmevalkit")
    assert got["random/accuracy"].value == pytest.approx(1 / 3)
    assert got["random/recall"].value == 0.5
    assert got["random/precision"].value == 1.0


@pytest.mark.parametrize("parser", pope.PARSERS)
def test_metrics_stay_in_range_and_ignore_the_order(parser):
    draw = random.Random(0)
    texts = [text for text, *_ in READINGS]
    rows = [(draw.choice(texts), draw.choice(("yes", "no")), draw.choice(pope.SPLITS)) for _ in range(300)]
    records = scored(rows, parser)
    first = {name: evaluate(pope.SCHEME, name, records) for name in pope.NAMES}
    assert all(0 <= value.value <= 1 for name, value in first.items() if name != "n_unparsed")
    draw.shuffle(records)
    assert {name: evaluate(pope.SCHEME, name, records) for name in pope.NAMES} == first
    for split in pope.SPLITS:
        accuracy = first[f"{split}/accuracy"].value
        mine = [entry["score"] for entry in records if f"{split}.n" in entry["counts"]]
        assert accuracy == pytest.approx(sum(mine) / len(mine))


def test_unknown_metrics_are_refused():
    for name in ("f2", "rare/f1", "random/chair_i"):
        with pytest.raises(ValueError, match=name):
            pope.metric(name)


def test_the_published_answer_file(shared):
    """LLaVA-1.5-7B on COCO random, scored by LLaVA's and VCD's own scripts."""
    labels = {
        row["question_id"]: row["label"] for row in map(json.loads, (shared / "pope/coco/coco_pope_random.json").open())
    }
    expected = json.loads((shared / "dev_cases/expected.json").read_text())["pope_llava15_7b_coco_random.jsonl"]
    answers = [json.loads(line) for line in (shared / "dev_cases/pope_llava15_7b_coco_random.jsonl").open()]
    for parser in pope.PARSERS:
        got = values([(row["text"], labels[row["question_id"]], "random") for row in answers], parser)
        assert {name: got[f"random/{name}"].value for name in pope.BINARY} == pytest.approx(
            {name: expected["llava_scorer"][name] for name in pope.BINARY}, abs=1e-12
        )
        assert got["random/f1"].value == pytest.approx(expected["vcd_scorer"]["F1"], abs=1e-12)
        assert got["n_unparsed"].value == expected["answers_not_exactly_yes_no"]
