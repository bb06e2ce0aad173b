"""Multiple choice: which option did the answer choose, and is the choice stable when the options rotate?

Circular evaluation after Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?" (ECCV 2024): a question
counts only if it is answered rightly under every rotation of its options. Letters are extracted by VLMEvalKit's rules
without a judge model; an answer that they cannot resolve is wrong, never a random letter.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache

from sinkbench.scoring.metric import Metric, Part, Record, Scheme, Score, Unit, quotient, record_units, total

LETTERS = "ABCD"
ROTATION = 1_000_000
"""Row index = question + rotation * ROTATION."""

REFUSED = "Z"

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# A lower-case letter counts at the end only: "the answer is a dog" chooses no option A.
_ANSWER_IS = re.compile(r"\b[Aa]nswer\s+is\s*:?\s*[*(]*(?:([A-Z])\b|([a-z])\W*$)")
_TAIL = 4


def names(categories: Iterable[str] = ()) -> tuple[str, ...]:
    """Every metric that a multiple-choice task with these categories reports."""
    return ("accuracy", "vanilla_accuracy", *(f"{category}/accuracy" for category in categories), "n_unparsed")


def options_of(row: Mapping[str, object]) -> dict[str, str]:
    """The options of a row, letter to text, without those that are absent (empty, None or "nan")."""
    found = {letter: str(row.get(letter) or "") for letter in LETTERS}
    return {letter: text for letter, text in found.items() if text and text != "nan"}


def extract_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The option that an answer chooses.

    In order: a refusal; the only option letter among the words, if it stands among the last four; a lone Z; a phrase
    like "the answer is B"; the only option whose text the answer holds, if the answer is not much longer than them.

    Args:
        answer: The model's answer.
        options: Letter to text.

    Returns:
        A letter of `options`, "Z" for a refusal, None when the rules leave it open.
    """
    if any(refusal in answer for refusal in REFUSALS):
        return REFUSED
    words = answer.translate(_SEPARATORS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and _stands_for_option(letters[0], words):
        return letters[0]
    if not letters and REFUSED in words:
        return REFUSED
    phrase = _ANSWER_IS.search(answer)
    if phrase and (letter := (phrase[1] or phrase[2]).upper()) in options:
        return letter
    return _option_by_text(answer, options)


def _stands_for_option(letter: str, words: list[str]) -> bool:
    """Whether a letter among the words is a choice: near the end, and not an article ("A man rides a horse")."""
    first = words.index(letter)
    if letter == "A" and len(words) > 3 and first < len(words) - 1:
        return False
    return first >= len(words) - _TAIL


def _option_by_text(answer: str, options: Mapping[str, str]) -> str | None:
    lowered = answer.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


def score(text: str, answer: str, options: Mapping[str, str], index: int, category: str) -> Score:
    """Judge one row, that is, one rotation of a question.

    Args:
        text: The model's answer.
        answer: The right letter.
        options: Letter to text; their number is the number of rotations.
        index: Question number + rotation * 1 000 000.
        category: The row's category.
    """
    chosen = extract_letter(text, options)
    correct = float(chosen == answer)
    unparsed = float(chosen is None or chosen == REFUSED)
    counts = {"rows": 1.0, "correct": correct, "unparsed": unparsed}
    if index < ROTATION:
        counts |= {"base": 1.0, "base_correct": correct}
    return Score(
        parsed=chosen,
        score=correct,
        counts={f"{scope}.{name}": value for scope in ("all", category) for name, value in counts.items()},
        group=(str(index % ROTATION), len(options)),
    )


def circular_units(records: Iterable[Record]) -> list[Unit]:
    """The rows, and one unit for each question that all of its rotations were answered for.

    A question with a failed or left-out rotation cannot be judged: it is in no group, rather than wrong.
    """
    rows = list(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        if row["group"] is not None:
            groups[row["group"][0]].append(row)
    complete = [group for group in groups.values() if group[0]["group"] and len(group) == group[0]["group"][1]]
    return [*record_units(rows), *map(_group_unit, complete)]


def _group_unit(group: list[Record]) -> Unit:
    correct = float(all(row["score"] == 1.0 for row in group))
    scopes = [column.removesuffix(".rows") for column in group[0]["counts"] if column.endswith(".rows")]
    counts = {f"{scope}.{name}": value for scope in scopes for name, value in (("groups", 1.0), ("right", correct))}
    return Unit(group[0]["cluster"], counts)


@cache
def metric(name: str) -> Metric:
    """A metric by its name.

    "accuracy" is circular, "vanilla_accuracy" looks at the unrotated rows only, "row_accuracy" at every row; a category
    as prefix restricts it.

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    scope = category or "all"
    columns = {
        "accuracy": ("right", "groups"),
        "vanilla_accuracy": ("base_correct", "base"),
        "row_accuracy": ("correct", "rows"),
    }
    if base == "n_unparsed":
        return Metric(name, (Part((f"{scope}.unparsed",), total, f"{scope}.rows"),), "count")
    if base not in columns:
        raise ValueError(f"multiple choice has no metric {name!r}")
    right, rows = (f"{scope}.{column}" for column in columns[base])
    return Metric(name, (Part((right, rows), quotient, rows),), "mean")


SCHEME = Scheme(metric, circular_units)
