"""Are two words near to each other? The last step of AMBER's generative scores, in two named forms."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from sinkbench.errors import UsageError, unknown_name

Similarity = Callable[[str, str], bool]

MODEL = "en_core_web_lg"
THRESHOLD = 0.8
"""AMBER's; a pair counts when it is above."""


@cache
def _vectors() -> Any:
    """The spaCy pipeline with word vectors.

    Raises:
        UsageError: spaCy or the vectors are not installed.
    """
    try:
        return import_module("spacy").load(MODEL)
    except (ImportError, OSError) as error:
        raise UsageError(
            f"AMBER's scores need spaCy and its word vectors {MODEL}, and they are not on this machine",
            f"`pip install spacy && python -m spacy download {MODEL}`; or judge by AMBER's word lists alone, which "
            "counts near words as made up and is another metric: `--set amber_g.similarity=lists`.",
        ) from error


@cache
def _vector(word: str) -> Any:
    return _vectors()(word)


@cache
def spacy_similar(first: str, second: str) -> bool:
    """Whether the cosine of the words' vectors is above AMBER's threshold."""
    return float(_vector(first).similarity(_vector(second))) > THRESHOLD


def get_similarity(name: str) -> Similarity | None:
    """A measure by its name: "spacy", or "lists" for none beside AMBER's word lists.

    Raises:
        UsageError: There is no such measure, or what it needs is not installed.
    """
    if name == "lists":
        return None
    if name != "spacy":
        raise unknown_name("similarity", name, ("spacy", "lists"))
    _vectors()
    return spacy_similar
