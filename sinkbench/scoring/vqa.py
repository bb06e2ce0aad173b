"""VQA accuracy (TextVQA, VQAv2, VizWiz and kin) with the EvalAI answer processor.

Accuracy after Antol et al., "VQA: Visual Question Answering" (ICCV 2015): an answer is fully right when three of the
other annotators gave it. The processor keeps the quirks of the evaluation servers' code, since published numbers do.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from sinkbench.errors import unknown_name
from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total

NAMES = ("vqa_accuracy", "n_unparsed")

ANSWER_TYPES = ("yes/no", "number", "other")
"""VQAv2's types of questions, over each of which its release reports the accuracy too."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""In the order in which it is replaced."""

ARTICLES = frozenset({"a", "an", "the"})

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Spellings that lack one apostrophe, with their correct form.

    The servers' table turns "somebody'd" the wrong way round; its entries for "I" are in upper case and never match.
    """
    table = {"somebody'd": "somebodyd"}
    for word in _CONTRACTED.split():
        table |= {word[:i] + word[i + 1 :]: word for i, sign in enumerate(word) if sign == "'"}
    return table


CONTRACTIONS = _contractions()

_DIGIT_COMMA_DIGIT = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_BETWEEN_WORDS = re.compile(r"(?<!\d)\.(?!\d)")
_MAX_PERIODS = 32
"""The servers pass `re.UNICODE` (32) where `re.sub` takes the number of replacements."""


def strip_punctuation(text: str, *, both_sides: bool = False) -> str:
    """Delete punctuation, or put a space where it joins two words.

    A sign is deleted everywhere if the text has it next to a space, or has a number with a comma in it; otherwise it
    becomes a space. A period goes unless a digit follows.

    Args:
        text: Any text.
        both_sides: VLMEvalKit's rule for periods: one that follows a digit stays too.
    """
    joined = _DIGIT_COMMA_DIGIT.search(text) is not None
    stripped = text
    for sign in PUNCTUATION:
        deleted = joined or f"{sign} " in text or f" {sign}" in text
        stripped = stripped.replace(sign, "" if deleted else " ")
    return (_PERIOD_BETWEEN_WORDS if both_sides else _PERIOD).sub("", stripped, count=_MAX_PERIODS)


def _normalise_words(text: str) -> str:
    """Lower-case words; number words as digits, articles dropped, apostrophes put back."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def evalai(text: str) -> str:
    """Normalise an answer as the EvalAI server does (TextVQA's and LLaVA's m4c evaluator)."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _normalise_words(strip_punctuation(_one_line(words)))


def vlmevalkit(text: str) -> str:
    """Normalise an answer as VLMEvalKit does: without the first word steps, periods between words only."""
    return _normalise_words(strip_punctuation(_one_line(text), both_sides=True))


def lmms_eval(text: str) -> str:
    """Normalise an answer as lmms-eval does for VQAv2: the EvalAI processor without its first word steps."""
    return _normalise_words(strip_punctuation(_one_line(text)))


PARSERS: dict[str, Callable[[str], str]] = {"evalai": evalai, "lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}
"""How texts are normalised before they are compared, by name."""


def vqa_accuracy(prediction: str, references: Sequence[str], normalise: Callable[[str], str] = evalai) -> float:
    """Soft accuracy of an answer against the annotators' answers, both normalised here.

    mean over i of min(1, #{j != i: reference_j = prediction} / 3): each annotator is left out once.

    Args:
        prediction: The model's answer.
        references: The annotators' answers, usually ten; not changed.
        normalise: A value of `PARSERS`.

    Raises:
        ValueError: There is no reference.
    """
    if not references:
        raise ValueError("VQA accuracy needs at least one reference answer")
    answer = normalise(prediction)
    matches = [normalise(reference) == answer for reference in references]
    agreeing = sum(matches)
    return sum(min(1.0, (agreeing - match) / 3) for match in matches) / len(matches)


def names(categories: Iterable[str] = ()) -> tuple[str, ...]:
    """Every metric that a task with these types of questions reports."""
    return ("vqa_accuracy", *(f"{category}/vqa_accuracy" for category in categories), "n_unparsed")


def score(text: str, references: Sequence[str], parser: str = "evalai", category: str = "") -> Score:
    """Judge one answer; a blank one is wrong and counted as unparsed.

    "A" is not blank: it normalises to nothing, as does the reference "a", and the two agree.

    Args:
        text: The model's answer.
        references: The annotators' answers.
        parser: A key of `PARSERS`.
        category: The type of the question; empty where the task has none.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    blank = not text.strip()
    accuracy = 0.0 if blank else vqa_accuracy(text, references, PARSERS[parser])
    counts = {"n": 1.0, "accuracy": accuracy}
    within = {f"{category}.{name}": value for name, value in counts.items()} if category else {}
    return Score(
        parsed=None if blank else PARSERS[parser](text),
        score=accuracy,
        counts={**counts, "unparsed": float(blank), **within},
    )


@cache
def metric(name: str) -> Metric:
    """A metric by its name; a type of questions as prefix restricts the accuracy to it ("yes/no/vqa_accuracy").

    Raises:
        ValueError: There is no such metric.
    """
    category, _, base = name.rpartition("/")
    if base == "vqa_accuracy":
        right, n = (f"{category}.{column}" if category else column for column in ("accuracy", "n"))
        return Metric(name, (Part((right, n), quotient, n),), "mean")
    if name == "n_unparsed":
        return Metric(name, (Part(("unparsed",), total, "n"),), "count")
    raise ValueError(f"VQA accuracy has no metric {name!r}")


SCHEME = Scheme(metric)
