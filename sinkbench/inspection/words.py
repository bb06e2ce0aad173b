"""Kinds of words in the user's text: stop words, punctuation, content words."""

import re
from collections.abc import Iterator

from torch import Tensor

from sinkbench.engine.prompt import Prompt

KINDS = ("stop", "punctuation", "content")

_LISTED = """
    a an the this that these those i you he she it we they me him her us them my your his its our their mine
    yours and or but nor so if then than as of at by for with about against between into through during before
    after above below to from up down in out on off over under again there here when where why how what which
    who whom whose all any both each few more most other some such no not only own same too very can could will
    would shall should may might must do does did doing have has had having am is are was were be been being
"""

STOP_WORDS = frozenset(_LISTED.split())
"""English function words: articles, pronouns, conjunctions, prepositions, auxiliaries and common adverbs."""

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_SIGN = re.compile(r"[^\w\s]")


def mark_words(prompt: Prompt) -> dict[str, Tensor]:
    """(L,) bool for each of `KINDS`: the tokens of the user's words of this kind, and of none before it."""
    stop = prompt.mark(lambda text: _words(text, True))
    punctuation = prompt.mark(_signs) & ~stop
    content = prompt.mark(lambda text: _words(text, False)) & ~stop & ~punctuation
    return {"stop": stop, "punctuation": punctuation, "content": content}


def _words(text: str, stop: bool) -> Iterator[tuple[int, int]]:
    for match in _WORD.finditer(text):
        if (match.group().lower() in STOP_WORDS) is stop:
            yield match.span()


def _signs(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _SIGN.finditer(text))
