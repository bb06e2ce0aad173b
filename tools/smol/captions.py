"""Captions of Scenes in fluent English, in many sentence plans.

Objects are named by COCO's names and plurals only and no other noun is one of CHAIR's, so that its word lists find
exactly the categories that a caption is to name.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from sinkbench.scenes.language import colour_of, listed, most_typical_first, with_article
from sinkbench.scenes.questions import facts
from sinkbench.scenes.scene import Scene
from smol.nouns import SUBJECTS, capitalised, some

_SENTENCES = 4
"""A caption has so many sentences at most, and two at least."""
_CROWD = 4
"""How many phrases a sentence lists at most, unless there are too many for all sentences."""
_SHORT = 6
"""How many phrases a short caption lists at most."""
_COLOUR_SHARE = 0.5
_TYPICAL_SHARE = 0.6
"""Share of captions that name typical objects first; the others name them in random order."""
_CORNER_SHARE = 0.35
"""Share of captions with a sentence about one corner, and of first objects in a sentence whose corner is told."""
_ALONE_SHARE = 0.4
"""Share of captions whose first sentence tells the place only."""

_PREPOSITIONS = {"street": "on", "beach": "on", "farm": "on", "savanna": "on", "mountain": "on", "airport": "at"}
"""Kinds of scene that one is not "in"."""

# Fields: place "a beach", at_place "on a beach", list; be agrees with the list's first phrase, are with all of it.
_PLACE_WITH_OBJECTS = (
    "{place} with {list}.",
    "The image shows {place} with {list}.",
    "This is {place} with {list}.",
    "This is a picture of {place} with {list}.",
    "There {be} {list} {at_place}.",
    "{at_place}, there {be} {list}.",
    "{at_place}, we can see {list}.",
    "{list} can be seen {at_place}.",
    "{list} {are} {at_place}.",
    "The picture captures {list} {at_place}.",
    "In this view of {place}, there {be} {list}.",
    "The scene is {place} that contains {list}.",
    "We see {place} with {list}.",
    "The photo shows {list} {at_place}.",
)
_PLACE = (
    "The image shows {place}.",
    "This is {place}.",
    "The scene is set {at_place}.",
    "The picture was taken {at_place}.",
    "We are looking at {place}.",
    "The image depicts {place}.",
    "This looks like {place}.",
    "{place} is shown here.",
    "The setting of this picture is {place}.",
)
_OBJECTS = (
    "There {be} {list}.",
    "It contains {list}.",
    "We can see {list}.",
    "{list} {are} visible.",
    "In it there {be} {list}.",
    "One can make out {list}.",
    "{list} can be seen there.",
    "Here we find {list}.",
)
_MORE_OBJECTS = (
    "There {be} also {list}.",
    "{list} can be seen as well.",
    "In addition, there {be} {list}.",
    "The scene also includes {list}.",
    "Besides that, {list} {are} visible.",
    "We also see {list}.",
    "Elsewhere there {be} {list}.",
    "The rest of the scene contains {list}.",
    "I also notice {list}.",
    "{list} {are} there too.",
    "Furthermore, the image includes {list}.",
    "Apart from that there {be} {list}.",
)
_CORNER = (
    "In the {corner} corner there {be} {list}.",
    "At the {corner} we see {list}.",
    "{list} {are} in the {corner} corner.",
    "The {corner} corner holds {list}.",
    "{list} can be seen at the {corner} of the image.",
)
_IN_CORNER = ("in the {corner} corner", "at the {corner}", "in the {corner} of the image")
_SIGN = (
    "A sign says {word}.",
    'A sign reads "{word}".',
    "There is a sign with the word {word} on it.",
    'A sign with the word "{word}" is visible.',
    "The word {word} is written on a sign.",
    'The text on the sign is "{word}".',
    "We can read {word} on a sign.",
)


class _Phrase(NamedTuple):
    text: str
    several: bool
    corner: str = ""


def caption(scene: Scene, rng: random.Random, *, absent: Iterable[str] = ()) -> str:
    """Describe a scene in two to four sentences that name each category once.

    Args:
        scene: What to describe.
        rng: Decides the sentence plan, the order and which colours and corners are told.
        absent: Categories to name although they are not there, never first.
    """
    phrases = _phrases(scene, rng)
    extras = []  # sentences about something other than a list of objects
    if len(phrases) > 1 and rng.random() < _CORNER_SHARE and (placed := [p for p in phrases if p.corner]):
        phrase = rng.choice(placed)
        phrases.remove(phrase)
        extras.append(_about([phrase], _CORNER, rng, corner=phrase.corner))
    for category in absent:
        phrases.insert(rng.randint(1, len(phrases)), _Phrase(some(category, 1), several=False))
    if scene.sign is not None:
        extras.append(capitalised(rng.choice(_SIGN).format(word=scene.sign.text)))

    room = _SENTENCES - len(extras)
    alone = len(phrases) <= _CROWD * (room - 1) and rng.random() < _ALONE_SHARE
    most = min(room - alone, len(phrases))
    least = min(max(ceil(len(phrases) / _CROWD), 2 - alone - len(extras)), most)
    if least + alone + len(extras) < 2:
        alone = True  # a single phrase and nothing else to tell
    groups = _split(phrases, rng.randint(least, most))
    place = {"place": with_article(scene.kind), "at_place": at_place(scene.kind)}
    if alone:
        sentences = [capitalised(rng.choice(_PLACE).format(**place)), _about(groups[0], _OBJECTS, rng)]
    else:
        sentences = [_about(groups[0], _PLACE_WITH_OBJECTS, rng, **place)]
    more = rng.sample(_MORE_OBJECTS, len(groups) - 1)
    sentences += [_about(group, (template,), rng) for group, template in zip(groups[1:], more, strict=True)]
    for extra in extras:
        sentences.insert(rng.randint(1 + alone, len(sentences)), extra)
    return " ".join(sentences)


def short_captions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """One plain sentence about a scene as the answer to an empty question, for training the projector.

    It names six categories at most, none that are absent.
    """
    phrases = _phrases(scene, rng)[:_SHORT]
    place = {"place": with_article(scene.kind), "at_place": at_place(scene.kind)}
    return [("", _about(phrases, _PLACE_WITH_OBJECTS, rng, **place))]


def at_place(kind: str) -> str:
    """A phrase such as "in a park" or "on a beach"."""
    return f"{_PREPOSITIONS.get(kind, 'in')} {with_article(kind)}"


def _phrases(scene: Scene, rng: random.Random) -> list[_Phrase]:
    """One phrase a category there, in the order in which they are to be told."""
    corners = {SUBJECTS[fact.question]: fact.answer for fact in facts(scene) if fact.topic == "position"}
    counts, names = scene.counts, most_typical_first(scene)
    if rng.random() >= _TYPICAL_SHARE:
        rng.shuffle(names)
    phrases = []
    for name in names:
        colour = colour_of(scene, name) if rng.random() < _COLOUR_SHARE else ""
        phrases.append(_Phrase(some(name, counts[name], colour), counts[name] > 1, corners.get(name, "")))
    return phrases


def _split(phrases: list[_Phrase], n: int) -> list[list[_Phrase]]:
    """Cut into `n` groups of nearly equal size."""
    cuts = [len(phrases) * k // n for k in range(n + 1)]
    return [phrases[start:stop] for start, stop in pairwise(cuts)]


def _about(phrases: Sequence[_Phrase], templates: Sequence[str], rng: random.Random, **fields: str) -> str:
    texts = [phrase.text for phrase in phrases]
    corner = phrases[0].corner
    if corner and "corner" not in fields and rng.random() < _CORNER_SHARE:
        # Only the first can have a place added: after a later one it would seem to hold for all before.
        texts[0] += " " + rng.choice(_IN_CORNER).format(corner=corner)
    be = "are" if phrases[0].several else "is"
    are = "are" if len(phrases) > 1 else be
    return capitalised(rng.choice(templates).format(list=listed(texts), be=be, are=are, **fields))
