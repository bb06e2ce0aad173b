"""The wording of every question, and the facts of a scene that have one right answer.

Evaluation rows and training dialogues both take their words from here, so that a model is asked what it was taught.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sinkbench.scenes.language import NUMBERS, colour_of, with_article
from sinkbench.scenes.scene import SIZE, Scene
from sinkbench.scenes.world import CATEGORIES, COLOURS, KINDS

DESCRIBE = "Please describe this image in detail."
"""OPERA's and lmms-eval's CHAIR prompt."""
DESCRIBE_ALTERNATIVES = ("Please help me describe the image in detail.", "Describe this image.")
"""PAI's CHAIR prompt and AMBER's."""
READ_SIGN = "What is written on the sign?"
SHORT_SUFFIX = "\nAnswer the question using a single word or phrase."
"""LLaVA-1.5's instruction for short answers."""
LETTER_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
"""LLaVA-1.5's instruction for multiple choice."""
LETTERS = "ABCD"
CORNERS = ("top left", "top right", "bottom left", "bottom right")
_MIDDLE = 16
"""An object within this distance, px, of a middle line is in no corner."""
_ONE_WEIGHT = 0.12
"""Weight of a count of one against other counts when facts are drawn."""
_MAX_COUNT = 6
"""Largest number offered among the options of a counting question."""


@dataclass(frozen=True)
class Fact:
    """A question about a scene with one right answer.

    Attributes:
        topic: "counting", "position", "attribute" or "scene".
        question: The question.
        answer: The right answer.
        others: Wrong answers of the same sort, at least three, nearest first where there is an order.
    """

    topic: str
    question: str
    answer: str
    others: tuple[str, ...]


def is_there(category: str) -> str:
    """POPE's question."""
    return f"Is there {with_article(category)} in the image?"


def multiple_choice(question: str, options: Sequence[str], *, suffix: bool = True) -> str:
    """The prompt of a multiple-choice question in LLaVA-1.5's form, without hint."""
    lines = [question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))]
    return "\n".join(lines) + (LETTER_SUFFIX if suffix else "")


def facts(scene: Scene) -> list[Fact]:
    """Every fact of a scene, in the order scene, counting, position, attribute."""
    found = [_place_fact(scene)]
    found += [_count_fact(name, count) for name, count in scene.counts.items()]
    singles = [o for o in scene.objects if scene.counts[o.category] == 1]
    for thing in singles:
        if min(abs(thing.x - SIZE / 2), abs(thing.y - SIZE / 2)) >= _MIDDLE:
            corner = CORNERS[2 * (thing.y > SIZE / 2) + (thing.x > SIZE / 2)]
            question = f"Where is the {thing.category} in the image?"
            found.append(Fact("position", question, corner, tuple(c for c in CORNERS if c != corner)))
    for thing in singles:
        if colour := colour_of(scene, thing.category):
            question = f"What color is the {thing.category}?"
            found.append(Fact("attribute", question, colour, tuple(c for c in COLOURS if c != colour)))
    return found


def draw_facts(found: Sequence[Fact], topic: str, n: int, rng: random.Random) -> list[Fact]:
    """Draw up to `n` different facts of one topic; counts of one, the commonest by far, are drawn less often."""
    pool = [fact for fact in found if fact.topic == topic]
    # Weighted sampling without replacement: the n largest of u**(1/weight) (Efraimidis and Spirakis, 2006).
    keys = {fact: rng.random() ** (1 / (_ONE_WEIGHT if fact.answer == "one" else 1.0)) for fact in pool}
    return sorted(pool, key=lambda fact: -keys[fact])[:n]


def _place_fact(scene: Scene) -> Fact:
    return Fact("scene", "What kind of place is this?", scene.kind, tuple(k for k in KINDS if k != scene.kind))


def _count_fact(category: str, count: int) -> Fact:
    near = sorted((n for n in range(1, _MAX_COUNT + 1) if n != count), key=lambda n: (abs(n - count), n))
    question = f"How many {CATEGORIES[category].plural} are there in the image?"
    return Fact("counting", question, NUMBERS[count], tuple(NUMBERS[n] for n in near))
