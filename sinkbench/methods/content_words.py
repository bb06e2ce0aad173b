"""Which words of an English sentence carry content, by their part of speech."""

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from sinkbench.errors import UsageError

_WORD = re.compile(r"\w+?(?=n['’]t\b)|n['’]t\b|['’]\w+|\w+|[^\w\s]", re.IGNORECASE)
"""Words as the Penn Treebank splits them: "don't" is two, and so is "man's"."""

_OPEN_CLASSES = {"NN": "NOUN", "NNP": "PROPN", "VB": "VERB", "JJ": "ADJ", "RB": "ADV", "WRB": "ADV", "CD": "NUM"}
"""Universal parts of speech with content, by the beginning of the Penn tag; the last that fits holds."""

_BE = {"be", "am", "is", "are", "was", "were", "been", "being", "'s", "'m", "'re"}
_DO = {"do", "does", "did"}
_HAVE = {"have", "has", "had", "having"}
_NO_CONTENT = {"not", "n't", "please"}
"""Particles and an interjection that the Penn tags hide among adverbs and verbs."""


def require_tagger(asker: str) -> None:
    """Check that the tagger is installed, before anything heavy is loaded.

    Args:
        asker: The parameter that needs it, as "method.param=value".

    Raises:
        UsageError: It is not; the hint says what to install.
    """
    if find_spec("textblob") is None:
        raise UsageError(
            f"{asker} needs a part-of-speech tagger, and the package textblob is not installed",
            f"Run `pip install textblob`, or pass --set {asker.partition('=')[0]}=all to use every word.",
        )


@lru_cache(maxsize=4096)
def content_words(text: str, last_only: bool = False) -> tuple[tuple[int, int], ...]:
    """Where the nouns, verbs, adjectives, adverbs and numerals of an English text are.

    The tagger is Brill's in TextBlob; auxiliaries are told from verbs by Universal Dependencies' rules, as far as tags
    alone can tell. GIFT's authors use spaCy, whose tags come from a parser; the two differ on some words.

    Args:
        text: Any text; the cache is by its value.
        last_only: Of words with equal form and part of speech, the last one only.

    Returns:
        Characters [begin, end) of each word, in order.
    """
    from textblob.en import parser

    found = list(_WORD.finditer(text))
    words = [match.group().replace("’", "'") for match in found]
    tags = [tag for _, tag in parser.find_tags(words)]
    spans: dict[object, tuple[int, int]] = {}
    for index, match in enumerate(found):
        part = _part_of_speech(words, tags, index)
        if part:
            spans[(words[index], part) if last_only else index] = match.span()
    return tuple(sorted(spans.values()))


def _part_of_speech(words: Sequence[str], tags: Sequence[str], index: int) -> str | None:
    """NOUN, PROPN, VERB, ADJ, ADV or NUM, or None for a word without content."""
    word, tag = words[index].lower(), tags[index]
    if not any(character.isalnum() for character in word) or word in _NO_CONTENT or tag == "POS":
        return None
    if _is_auxiliary(word, tags, index):
        return None
    return next((part for start, part in reversed(_OPEN_CLASSES.items()) if tag.startswith(start)), None)


def _is_auxiliary(word: str, tags: Sequence[str], index: int) -> bool:
    """Forms of be, except beside an existential "there"; do and have, where the verb that they help follows."""
    if word in _BE:
        return "EX" not in tags[max(index - 1, 0) : index + 2]
    later = tags[index + 1 :]
    clause = later[: later.index(".")] if "." in later else later
    helped = {"VB", "VBP"} if word in _DO else {"VBN", "VBD"} if word in _HAVE else set()
    return bool(helped & set(clause))
