"""AMBER's generative scores: CHAIR, Cover, Hal and Cog of a description.

Wang et al., "An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation" (arXiv 2311.07397). The nouns
of a response that stand in AMBER's vocabulary are compared with what annotators saw in the image (truth) and with what
they expect models to make up there (hallu), by word lists and then by word vectors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total
from sinkbench.scoring.similar import Similarity

NAMES = ("chair", "cover", "hal", "cog", "n_unparsed")


@dataclass(frozen=True)
class Words:
    """AMBER's word lists.

    Attributes:
        related: Words that stand for an annotated one.
        safe: Words that are right for every image.
        vocabulary: Every word that is judged.
    """

    related: Mapping[str, Sequence[str]]
    safe: frozenset[str]
    vocabulary: frozenset[str]


def join_words(relation: Mapping[str, Sequence[str]], safe: Sequence[str]) -> str:
    """Both lists in one text for `read_words`."""
    return json.dumps([relation, [word.strip() for word in safe if word.strip()]], sort_keys=True)


@cache
def read_words(text: str) -> Words:
    """Read what `join_words` wrote."""
    related, safe = json.loads(text)
    vocabulary = frozenset(related) | {word for words in related.values() for word in words}
    return Words(related, frozenset(safe), vocabulary)


class _Annotated:
    """Annotated words, and which of them a response touches.

    A noun is looked for among all related words first and then among the words themselves, as in the released scorer:
    a word that is both marks the one that it stands for.
    """

    def __init__(self, words: Sequence[str], related: Mapping[str, Sequence[str]]) -> None:
        self._places = [(name, index) for index, word in enumerate(words) for name in related.get(word, ())]
        self._places += [(word, index) for index, word in enumerate(words)]
        self.touched: set[int] = set()

    def touch(self, noun: str, similar: Similarity | None = None) -> bool:
        """Mark the first word that the noun is, or is similar to; whether there is one."""
        for name, index in self._places:
            if similar(noun, name) if similar else noun == name:
                self.touched.add(index)
                return True
        return False


def score(
    nouns: Sequence[str], truth: Sequence[str], hallu: Sequence[str], words: Words, similar: Similarity | None
) -> Score:
    """Judge a response.

    The score of the sample alone is 1 for a response that makes nothing up. An empty response makes nothing up either
    (AMBER's rule); it is counted as unparsed, as is one without nouns.

    Args:
        nouns: `lemmatize.nltk_nouns` of the response.
        truth: What is in the image; repeats count in Cover's denominator, as in the released scorer.
        hallu: What annotators expect models to make up.
        words: AMBER's lists.
        similar: Tells near words, which count as the annotated ones; None leaves this step out.
    """
    judged = [noun for noun in nouns if noun in words.vocabulary]
    shown, foreseen = _Annotated(truth, words.related), _Annotated(hallu, words.related)
    wrong = []
    for noun in judged:
        if noun in words.safe or shown.touch(noun):
            continue
        foreseen.touch(noun)
        if similar:
            foreseen.touch(noun, similar)
            if shown.touch(noun, similar):
                continue
        wrong.append(noun)
    return Score(
        parsed={"mentioned": judged, "hallucinated": wrong},
        score=float(not wrong),
        counts={
            "responses": 1.0,
            "hallucinating": float(bool(wrong)),
            "hallucinated": float(len(wrong)),
            "nouns": float(len(judged)),
            "covered": float(len(shown.touched)),
            "truth": float(len(truth)),
            "foreseen": float(len(foreseen.touched)),
            "hallu": float(len(hallu)),
            "unparsed": float(not nouns),
        },
    )


_METRICS = {
    "chair": Metric("chair", (Part(("hallucinated", "nouns"), quotient, "responses"),)),
    "cover": Metric("cover", (Part(("covered", "truth"), quotient, "responses"),)),
    "hal": Metric("hal", (Part(("hallucinating", "responses"), quotient, "responses"),), "mean"),
    "cog": Metric("cog", (Part(("foreseen", "hallu"), quotient, "responses"),)),
    "n_unparsed": Metric("n_unparsed", (Part(("unparsed",), total, "responses"),), "count"),
}


def metric(name: str) -> Metric:
    """A metric by its name; lower is better for all but `cover`.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in _METRICS:
        raise ValueError(f"AMBER has no generative metric {name!r}")
    return _METRICS[name]


SCHEME = Scheme(metric)
