"""Letters by the rules of published harnesses."""

import pytest
from choice_data import NASTY

from sinkbench.errors import UsageError
from sinkbench.scoring.letters import PARSERS, lettered, parse

OPTIONS = {"A": "red", "B": "green", "C": "blue", "D": "black"}


@pytest.mark.parametrize(
    ("parser", "answer", "letter"),
    [
        ("first_letter", "B", "B"),
        ("first_letter", " B. green", "B"),
        ("first_letter", "Blue", "B"),
        ("first_letter", "b", None),
        ("first_letter", "(B)", None),
        ("first_letter", "The answer is B", None),
        ("leading_letter", "(b) green", "B"),
        ("leading_letter", "C", "C"),
        ("leading_letter", "A man", "A"),
        ("leading_letter", "It is blue", None),
        ("leading_letter", "black", "B"),
        ("leading_letter", "1. B", None),
        ("llava_scienceqa", "B", "B"),
        ("llava_scienceqa", "B. green", "B"),
        ("llava_scienceqa", "B.", None),
        ("llava_scienceqa", "b", None),
        ("llava_scienceqa", "The answer is C.", "C"),
        ("llava_scienceqa", "I think. The answer is C, since", "C"),
        ("llava_scienceqa", "The answer is C. The answer is D.", None),
        ("llava_scienceqa", "The answer is C", None),
        ("llava_scienceqa", "E. none", None),
        ("llava_scienceqa", "green", None),
        ("lmms_eval_scienceqa", "B.", "B"),
        ("lmms_eval_scienceqa", "B.green", "B"),
        ("lmms_eval_scienceqa", "B", "B"),
        ("lmms_eval_scienceqa", "B green", None),
        ("lmms_eval_scienceqa", "The answer is C.", None),
        ("mmstar", "b", "B"),
        ("mmstar", "(C) blue", "C"),
        ("mmstar", "Option D", "D"),
        ("mmstar", "The answer is A", "A"),
        ("mmstar", "The answer: A", None),
        ("mmstar", "dog", "D"),
        ("mmstar", "E", None),
        ("vlmevalkit", "The answer is (B).", "B"),
        ("vlmevalkit", "it is blue", "C"),
        ("vlmevalkit", "Z", "Z"),
    ],
)
def test_rules(parser, answer, letter):
    assert parse(answer, OPTIONS, parser) == letter


@pytest.mark.parametrize("parser", PARSERS)
def test_a_letter_is_one_of_the_options_or_none(parser):
    for options in (OPTIONS, {"A": "yes", "B": "no"}, dict.fromkeys("ABCD", ""), {}):
        for answer in (*NASTY, *OPTIONS):
            assert parse(answer, options, parser) in (None, "Z", *options)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("letter", OPTIONS)
def test_every_rule_knows_a_plain_letter(parser, letter):
    assert parse(letter, OPTIONS, parser) == letter
    assert parse(f"{letter}\n", dict.fromkeys(OPTIONS, ""), parser) == letter


def test_no_option_is_chosen_by_an_empty_text():
    assert parse("", {"A": ""}) is None
    assert parse("perhaps", {"A": "", "B": " "}) is None


def test_options_from_their_texts():
    assert lettered(["red", 3]) == {"A": "red", "B": "3"}
    assert list(lettered("abcdefghijkl")) == list("ABCDEFGHIJ")


def test_an_unknown_rule_suggests_the_nearest():
    with pytest.raises(UsageError) as caught:
        parse("A", OPTIONS, "vlmeval")
    assert "vlmevalkit" in caught.value.hint
