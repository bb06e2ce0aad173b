"""Words with content in hand-made sentences."""

import pytest

from sinkbench.errors import UsageError
from sinkbench.methods.content_words import content_words, require_tagger


def words(text: str, last_only: bool = False) -> list[str]:
    return [text[begin:end] for begin, end in content_words(text, last_only)]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("Is there a dog in the image?", "Is dog image"),
        ("Are the two dogs there red?", "two dogs red"),
        ("What do you see?", "see"),
        ("Does the man have a hat?", "man have hat"),
        ("Has the dog been fed?", "dog fed"),
        ("Please describe this image in detail.", "describe image detail"),
        ("How many red cars are parked near the two tall buildings?", "How many red cars parked two tall buildings"),
        ("What color is the man's shirt?", "color man shirt"),
        ("Don't you see 3 stop signs? They are not red.", "see 3 stop signs red"),
        ("There’s a very old zebra.", "very old zebra"),
        ("Could it be of them?", ""),
        (" ?! ", ""),
        ("", ""),
    ],
)
def test_content_words_of_a_sentence(text, content):
    assert words(text) == content.split()


def test_of_equal_words_the_last_one_can_be_kept():
    text = "Is the red car near the red bus or the Red car?"
    assert words(text).count("red") == 2
    kept = [(text[begin:end], begin) for begin, end in content_words(text, last_only=True)]
    assert kept == [("red", 24), ("bus", 28), ("Red", 39), ("car", 43)]


def test_a_missing_tagger_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr("sinkbench.methods.content_words.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="textblob is not installed") as caught:
        require_tagger("gift.content=pos")
    assert "pip install textblob" in caught.value.hint
    assert "--set gift.content=all" in caught.value.hint
