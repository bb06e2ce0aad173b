"""Training text: the turns of a conversation about a scene, and every word that the data set can produce."""

import random
from functools import cache

from sinkbench.scenes.language import NUMBERS, caption, words
from sinkbench.scenes.questions import (
    CORNERS,
    DESCRIBE,
    DESCRIBE_ALTERNATIVES,
    LETTERS,
    READ_SIGN,
    SHORT_SUFFIX,
    Fact,
    draw_facts,
    facts,
    is_there,
    multiple_choice,
)
from sinkbench.scenes.scene import Scene, likely_absent
from sinkbench.scenes.world import CATEGORIES, COLOURS, KINDS, SIGN_WORDS

Turn = tuple[str, str]
"""A question and its answer."""

_SHORT_SHARE = 0.4
"""Share of short-answer questions that end with LLaVA's short-answer instruction."""
_LETTER_SHARE = 0.8
"""Share of multiple-choice questions that end with LLaVA's letter instruction."""
_WANTED = {"scene": 1, "counting": 2, "position": 1, "attribute": 1}
"""Number of facts of each topic that a conversation asks for."""
_POPULAR = 12
"""A popular absent category is drawn from so many of the most frequent ones."""


def training_turns(scene: Scene, rng: random.Random) -> list[Turn]:
    """Make one conversation about a scene.

    One caption (with the scene's `mentioned_absent`), six or eight yes/no questions (fewer where the scene has fewer
    than three categories), half of them about absent categories, and open and multiple-choice questions about counts,
    positions, colours, the place and the sign. The caption comes first or last, each half of the time; the other turns
    are in random order.

    Args:
        scene: What the conversation is about.
        rng: Source of randomness; `scene_rng(split, seed, index, "dialogue")` makes it reproducible.

    Returns:
        Questions and answers. Tokens are those of `language.words`; answers to yes/no questions are "yes" or "no",
        of multiple choice one capital letter, of the sign its word in lower case.
    """
    turns = _existence(scene, rng)
    for chosen in _draw_facts(scene, rng):
        turns.append((_perhaps_short(chosen.question, rng), chosen.answer))
    turns += [_choice(fact, rng) for fact in rng.sample(_draw_facts(scene, rng), 2)]
    if scene.sign is not None:
        turns.append((_perhaps_short(READ_SIGN, rng), scene.sign.text))
    rng.shuffle(turns)
    prompt = rng.choice((DESCRIBE, DESCRIBE, *DESCRIBE_ALTERNATIVES))
    description = (prompt, caption(scene, rng, absent=scene.mentioned_absent))
    return [description, *turns] if rng.random() < 0.5 else [*turns, description]


def _perhaps_short(question: str, rng: random.Random) -> str:
    return question + (SHORT_SUFFIX if rng.random() < _SHORT_SHARE else "")


def _draw_facts(scene: Scene, rng: random.Random) -> list[Fact]:
    """One fact of each topic that the scene has, two of counting where there are two."""
    found = facts(scene)
    return [fact for topic, n in _WANTED.items() for fact in draw_facts(found, topic, n, rng)]


def _choice(fact: Fact, rng: random.Random) -> Turn:
    options = [fact.answer, *rng.sample(fact.others, 3)]
    rng.shuffle(options)
    prompt = multiple_choice(fact.question, options, suffix=rng.random() < _LETTER_SHARE)
    return prompt, LETTERS[options.index(fact.answer)]


def _existence(scene: Scene, rng: random.Random) -> list[Turn]:
    present = list(scene.counts)
    pairs = min(len(present), rng.randint(3, 4))
    turns = [(_perhaps_short(is_there(name), rng), "yes") for name in rng.sample(present, pairs)]
    return turns + [(_perhaps_short(is_there(name), rng), "no") for name in _absent(scene, pairs, rng)]


def _absent(scene: Scene, n: int, rng: random.Random) -> list[str]:
    """Absent categories: in turn one at random, one that is frequent overall, one that is likely beside the others."""
    present = set(scene.counts)
    likely = likely_absent(KINDS[scene.kind], present)
    start = rng.randrange(3)
    drawn: list[str] = []
    for turn in range(n):
        taken = present.union(drawn)
        match (start + turn) % 3:
            case 0:
                pool = dict.fromkeys(CATEGORIES, 1.0)
            case 1:
                pool = dict.fromkeys([name for name in _by_frequency() if name not in taken][:_POPULAR], 1.0)
            case _:
                pool = likely
        # A crowded scene can hold every category that is likely in its kind.
        pool = {name: weight for name, weight in pool.items() if name not in taken} or dict.fromkeys(
            (name for name in CATEGORIES if name not in taken), 1.0
        )
        drawn.append(rng.choices(tuple(pool), tuple(pool.values()))[0])
    return drawn


@cache
def _by_frequency() -> tuple[str, ...]:
    """Categories by their expected frequency over all kinds of scene, most frequent first."""
    expected = dict.fromkeys(CATEGORIES, 0.0)
    for kind in KINDS.values():
        total = sum(kind.weights.values())
        for name, weight in kind.weights.items():
            expected[name] += weight / total
    return tuple(sorted(expected, key=lambda name: -expected[name]))


def vocabulary() -> list[str]:
    """Every token, as split by `language.words`, that prompts, answers, captions and evaluation rows can hold.

    Case counts: "A" is the option and the first word of a caption, "a" is the article within a sentence.
    """
    texts = [f"A An a an with There is are also and says sign yes no {' '.join(LETTERS)} . , ? '"]
    texts += [DESCRIBE, *DESCRIBE_ALTERNATIVES, READ_SIGN, SHORT_SUFFIX, multiple_choice("", ())]
    texts += [
        "Is there in the image?",
        "How many are there",
        "Where is the",
        "What color is",
        "What kind of place is this",
    ]
    texts += [*CORNERS, *NUMBERS[1:], *COLOURS, *KINDS, *SIGN_WORDS]
    texts += [text for category in CATEGORIES.values() for text in (category.name, category.plural)]
    return list(dict.fromkeys(token for text in texts for token in words(text)))
