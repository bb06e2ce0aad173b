"""From a caption to lemmas: the first two steps of CHAIR's text pipeline, in two named forms."""

import re
from collections.abc import Callable, Set
from functools import cache
from typing import Any

from sinkbench.errors import UsageError, unknown_name

Lemmatizer = Callable[[str, Set[str]], list[str]]
"""From a caption and the words that must stay as they are to one lemma a token."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")


@cache
def _wordnet() -> Any:
    from nltk.stem import WordNetLemmatizer

    return WordNetLemmatizer()


@cache
def _wordnet_lemma(word: str, pos: str) -> str:
    lemma: str = _wordnet().lemmatize(word, pos)
    return lemma


def _tagged(text: str) -> list[tuple[str, str]]:
    """Words with their parts of speech.

    Raises:
        UsageError: NLTK's data are not installed.
    """
    import nltk

    try:
        tagged: list[tuple[str, str]] = nltk.pos_tag(nltk.word_tokenize(text))
        _wordnet_lemma("dogs", "n")
    except LookupError as error:
        raise UsageError(
            "NLTK's data are not on this machine, and the nltk lemmatizer needs them",
            "Run `sinkbench data nltk`, or `sinkbench data nltk --from FILE` with an archive of them; CHAIR can do "
            "without: `--set TASK.lemmatizer=simplemma`, which gives slightly other numbers.",
        ) from error
    return tagged


def nltk_lemmas(caption: str, keep: Set[str]) -> list[str]:
    """NLTK's tokenizer and tagger, then the WordNet lemma for the tag; what OPERA, PAI and lmms-eval use.

    The published scorers know no words to keep, so `keep` is not looked at.

    Raises:
        UsageError: NLTK's data are not installed.
    """
    # WordNet's names for adjective, verb, noun and adverb; every other tag counts as a noun.
    parts = {"J": "a", "V": "v", "R": "r"}
    return [_wordnet_lemma(word, parts.get(tag[:1], "n")) for word, tag in _tagged(caption.lower())]


def nltk_nouns(text: str) -> list[str]:
    """Lemmas of the nouns, repeats kept, in the case of the text; the first step of AMBER's generative scores.

    Raises:
        UsageError: NLTK's data are not installed.
    """
    return [_wordnet_lemma(word, "n") for word, tag in _tagged(text) if tag.startswith("NN")]


@cache
def _simplemma_lemma(word: str) -> str:
    import simplemma

    return str(simplemma.lemmatize(word, lang="en")).lower()


def simplemma_lemmas(caption: str, keep: Set[str]) -> list[str]:
    """Words and signs by a regular expression, then simplemma's dictionary lemma; needs no downloaded data.

    simplemma knows no parts of speech ("parking" becomes "park"), hence the words to keep.
    """
    tokens = _WORD.findall(caption.lower())
    return [token if token in keep else _simplemma_lemma(token) for token in tokens]


LEMMATIZERS: dict[str, Lemmatizer] = {"nltk": nltk_lemmas, "simplemma": simplemma_lemmas}


def get_lemmatizer(name: str) -> Lemmatizer:
    """A lemmatizer by its name.

    Raises:
        UsageError: There is no such lemmatizer.
    """
    if name not in LEMMATIZERS:
        raise unknown_name("lemmatizer", name, LEMMATIZERS)
    return LEMMATIZERS[name]
