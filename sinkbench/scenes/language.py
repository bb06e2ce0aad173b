"""Words for what a scene shows: articles, plurals, numbers, lists and captions."""

import random
import re
from collections.abc import Iterable, Sequence

from sinkbench.scenes.scene import Scene
from sinkbench.scenes.world import CATEGORIES, KINDS

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PAIRS = frozenset({"skis", "scissors"})
"""Names that are plural already: one of them takes no article in a caption."""
_FIRST_SENTENCE = 4
"""How many kinds of object the first sentence of a caption names at most."""


def words(text: str) -> list[str]:
    """Split text into tokens: runs of letters, runs of digits, and single punctuation marks; case is kept.

    White space, line breaks included, only separates. This is the tokenisation that `vocabulary()` lists.
    """
    return re.findall(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]", text)


def with_article(noun: str) -> str:
    """The noun with "a", or "an" before a vowel letter (POPE's rule)."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def some(category: str, count: int, colour: str = "") -> str:
    """A noun phrase such as "a red car", "two dogs" or "scissors"."""
    if count > 1:
        return f"{NUMBERS[count]} {CATEGORIES[category].plural}"
    noun = f"{colour} {category}".strip()
    return noun if category in PAIRS else with_article(noun)


def listed(phrases: Sequence[str]) -> str:
    """Phrases joined as in "one, two and three"."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def colour_of(scene: Scene, category: str) -> str:
    """The colour of the only object of a painted category, else ""."""
    looks = [o.look for o in scene.objects if o.category == category]
    return looks[0] if CATEGORIES[category].painted and len(looks) == 1 else ""


def most_typical_first(scene: Scene) -> list[str]:
    """The categories there, those that belong to this kind of scene first; strangers follow in alphabetical order."""
    typical = KINDS[scene.kind].weights
    return sorted(scene.counts, key=lambda name: (-typical.get(name, 0.0), name))


def caption(
    scene: Scene, rng: random.Random, *, absent: Iterable[str] = (), share: float = 1.0, colours: float = 0.5
) -> str:
    """Describe a scene in one to three sentences, the most typical objects named first.

    Args:
        scene: What to describe.
        rng: Decides which objects are left out, where absent ones are named and which colours are told.
        absent: Categories to name although they are not there.
        share: Share of the categories there to name, at least one.
        colours: Probability that the colour of a single painted object is told.
    """
    named = most_typical_first(scene)
    kept = set(rng.sample(named, max(1, round(share * len(named)))))
    phrases = [
        some(name, scene.counts[name], colour_of(scene, name) if rng.random() < colours else "")
        for name in named
        if name in kept
    ]
    for category in absent:
        # Never first: an invented object follows what was seen.
        phrases.insert(rng.randint(1, len(phrases)), some(category, 1))
    place = with_article(scene.kind)
    sentences = [f"{place[0].upper()}{place[1:]} with {listed(phrases[:_FIRST_SENTENCE])}."]
    if rest := phrases[_FIRST_SENTENCE:]:
        verb = "are" if rest[0].split()[0] in NUMBERS or rest[0] in PAIRS else "is"
        sentences.append(f"There {verb} also {listed(rest)}.")
    if scene.sign is not None:
        sentences.append(f"A sign says {scene.sign.text}.")
    return " ".join(sentences)
