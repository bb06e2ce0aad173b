"""CHAIR: which objects does a caption name that the image does not show?

Rohrbach et al., "Object Hallucination in Image Captioning" (EMNLP 2018). A caption becomes a list of mentioned objects
(lemmas, two-word names merged, synonyms mapped to their category) that is compared with the objects of the image.
By default the quirks of the published scorer are kept, because published numbers contain them.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache

from sinkbench.scoring.lemmatize import get_lemmatizer
from sinkbench.scoring.metric import Array, Metric, Part, Scheme, Score, quotient, ratio, total

NAMES = ("chair_i", "chair_s", "recall", "precision", "f1", "length", "n_unparsed")

_TWO_WORD_NAMES = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, laptop computer, stove top oven, "
    "home plate, train track"
)
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"


def _double_words() -> dict[str, str]:
    """What two neighbouring words become."""
    table = {name: name for name in _TWO_WORD_NAMES.split(", ")}
    table |= {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS.split()}
    table |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    # pattern's singular of "glass" is "glas".
    return table | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


DOUBLE_WORDS = _double_words()


def read_synonyms(table: str, *, strict: bool = False) -> dict[str, str]:
    """Parse a synonyms table: one category a line, its name first, entries separated by ", ".

    Args:
        table: The file's text.
        strict: Strip every entry and lower its case. The published scorer does neither, so that an entry after a
            double space ("scooter,  motor bike") or in upper case ("iPhone") never matches.

    Returns:
        From each entry to the category's name.
    """
    categories: dict[str, str] = {}
    for line in table.splitlines():
        entries = line.strip().split(", ")
        if strict:
            entries = [entry.strip().lower() for entry in entries]
        categories |= {entry: entries[0] for entry in entries if entry}
    return categories


@dataclass(frozen=True)
class Mentions:
    """The objects that a caption names.

    Attributes:
        words: As they stand in the caption after lemmatising and merging; repeats are kept.
        objects: The category of each word.
        length: Number of tokens of the caption, merged names counted once, punctuation included.
    """

    words: tuple[str, ...]
    objects: tuple[str, ...]
    length: int


class MentionFinder:
    """CHAIR's text pipeline for one synonyms table.

    Args:
        synonyms: Text of the synonyms table.
        lemmatizer: "nltk" (the published scorers' current form) or "simplemma" (no data to download).
        strict_synonyms: Read the table without the published scorer's quirks.
        further: Categories beside those of the table, each its own only name; one of two words is merged as
            `DOUBLE_WORDS` are, and longer ones are never found.

    Raises:
        UsageError: There is no such lemmatizer.
    """

    def __init__(
        self, synonyms: str, lemmatizer: str = "nltk", *, strict_synonyms: bool = False, further: Iterable[str] = ()
    ) -> None:
        own = {name: name for name in further}
        self._categories = read_synonyms(synonyms, strict=strict_synonyms) | own
        self._double_words = DOUBLE_WORDS | {name: name for name in own if len(name.split()) == 2}
        self._lemmas = get_lemmatizer(lemmatizer)
        self._keep = frozenset(word for entry in (*self._categories, *self._double_words) for word in entry.split())

    def find(self, caption: str) -> Mentions:
        """The objects that a caption names, in order."""
        words = merge_double_words(self._lemmas(caption, self._keep), self._double_words)
        length = len(words)
        if "toilet" in words and "seat" in words:
            # "seat" is a synonym of chair, and that of a toilet is none.
            words = [word for word in words if word != "seat"]
        named = tuple(word for word in words if word in self._categories)
        return Mentions(named, tuple(self._categories[word] for word in named), length)

    def category(self, name: str) -> str:
        """The category of an entry of the table; a name that is none stands for itself."""
        return self._categories.get(name, name)


def merge_double_words(words: list[str], table: Mapping[str, str] = DOUBLE_WORDS) -> list[str]:
    """Replace two neighbouring words by their entry in a table, from left to right without overlap."""
    merged, position = [], 0
    while position < len(words):
        pair = " ".join(words[position : position + 2])
        found = table.get(pair)
        merged.append(found or words[position])
        position += 2 if found else 1
    return merged


def drop_incomplete_sentence(caption: str) -> str:
    """Cut what follows the last full stop, exclamation or question mark (a caption that ran into its token limit).

    A caption without a finished sentence is left as it is: an empty one would count as free of hallucination.
    """
    finished = re.match(r".*[.!?][\"'”’)]*(?=\s|$)", caption.rstrip(), re.DOTALL)
    return finished.group() if finished else caption


def hallucinated(mentions: Mentions, truth: Set[str]) -> list[tuple[str, str]]:
    """The mentioned (word, category) pairs whose category is not in the image, in order, repeats kept."""
    pairs = zip(mentions.words, mentions.objects, strict=True)
    return [(word, category) for word, category in pairs if category not in truth]


def score(mentions: Mentions, truth: Iterable[str]) -> Score:
    """Compare a caption's objects with those of its image.

    The score of the sample alone is 1 for a caption without hallucinated object, as in 1 - CHAIR_s.

    Args:
        mentions: From `MentionFinder.find`.
        truth: Categories in the image: annotated ones and those that its reference captions name.
    """
    present = frozenset(truth)
    wrong = hallucinated(mentions, present)
    distinct = set(mentions.objects)
    return Score(
        parsed={"mentioned": list(mentions.objects), "hallucinated": [list(pair) for pair in wrong]},
        score=float(not wrong),
        counts={
            "captions": 1.0,
            "hallucinating": float(bool(wrong)),
            "hallucinated": float(len(wrong)),
            "mentions": float(len(mentions.objects)),
            "found": float(len(distinct & present)),
            "distinct": float(len(distinct)),
            "truth": float(len(present)),
            "tokens": float(mentions.length),
            "unparsed": float(mentions.length == 0),
        },
    )


def f1(sums: Array) -> Array:
    """Harmonic mean of micro precision and recall (PAI) from sums of (found, distinct, truth), (..., 3) -> (...)."""
    found, distinct, truth = sums[..., 0], sums[..., 1], sums[..., 2]
    return ratio(2 * found, (distinct + truth) * ((distinct > 0) & (truth > 0)))


_METRICS = {
    "chair_s": Metric("chair_s", (Part(("hallucinating", "captions"), quotient, "captions"),), "mean"),
    "chair_i": Metric("chair_i", (Part(("hallucinated", "mentions"), quotient, "captions"),)),
    "recall": Metric("recall", (Part(("found", "truth"), quotient, "captions"),)),
    "precision": Metric("precision", (Part(("found", "distinct"), quotient, "captions"),)),
    "f1": Metric("f1", (Part(("found", "distinct", "truth"), f1, "captions"),)),
    "length": Metric("length", (Part(("tokens", "captions"), quotient, "captions"),), "mean"),
    "n_unparsed": Metric("n_unparsed", (Part(("unparsed",), total, "captions"),), "count"),
}


def metric(name: str) -> Metric:
    """A metric by its name; lower is better for `chair_s` and `chair_i`, `length` is in tokens.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in _METRICS:
        raise ValueError(f"CHAIR has no metric {name!r}")
    return _METRICS[name]


SCHEME = Scheme(metric)


@cache
def mention_finder(
    synonyms: str, lemmatizer: str, strict_synonyms: bool, further: tuple[str, ...] = ()
) -> MentionFinder:
    """A `MentionFinder` that is built once for the same table and settings."""
    return MentionFinder(synonyms, lemmatizer, strict_synonyms=strict_synonyms, further=further)
