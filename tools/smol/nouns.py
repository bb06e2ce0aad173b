"""Noun phrases for the categories of Scenes, and which category a question of Scenes asks about."""

from functools import cache

from sinkbench.scenes.language import NUMBERS, with_article
from sinkbench.scenes.questions import is_there
from sinkbench.scenes.world import CATEGORIES

_COUNTED_BY = {"skis": "pair", "scissors": "pair", "broccoli": "piece"}
"""Names that take neither article nor number by themselves."""
_PLURALS = {"tv": "tv sets"}
"""Plurals other than COCO's: simplemma, one of CHAIR's lemmatizers, does not know "tvs"."""


def capitalised(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def singular(category: str) -> str:
    """What one of them is called after "a", "one", "the" and "no"."""
    unit = _COUNTED_BY.get(category)
    return f"{unit} of {category}" if unit else category


def plural(category: str) -> str:
    """What several of them are called after a number, "any" and "no"."""
    unit = _COUNTED_BY.get(category)
    return f"{unit}s of {category}" if unit else _PLURALS.get(category, CATEGORIES[category].plural)


def counted(category: str, count: int) -> str:
    """A phrase such as "one dog", "two dogs" or "one pair of skis"."""
    return f"{NUMBERS[count]} {singular(category) if count == 1 else plural(category)}"


def some(category: str, count: int, colour: str = "") -> str:
    """A phrase such as "a red car", "two dogs" or "a pair of skis"; several have no colour."""
    return counted(category, count) if count > 1 else with_article(f"{colour} {singular(category)}".strip())


@cache
def forms(category: str, count: int) -> dict[str, str]:
    """The fields that templates about a category take; a count of 0 means that it is not there.

    Returns:
        `noun` and `plural`; `a`, `the`, `some` and `counted` are phrases, `be` is the verb that `some` asks for.
    """
    noun = singular(category)
    return {
        "noun": noun,
        "plural": plural(category),
        "a": with_article(noun),
        "the": f"the {noun}",
        "some": some(category, count),
        "counted": counted(category, count),
        "be": "are" if count > 1 else "is",
    }


PRESENCE: dict[str, str] = {is_there(name): name for name in CATEGORIES}
"""From POPE's question to its category."""
SUBJECTS: dict[str, str] = {
    question: name
    for name, category in CATEGORIES.items()
    for question in (
        f"How many {category.plural} are there in the image?",
        f"Where is the {name} in the image?",
        f"What color is the {name}?",
    )
}
"""From the question of a fact to the category that it is about; the place's is about none."""
