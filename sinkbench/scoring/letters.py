"""From an answer to the letter of the option that it chooses: the rules of published harnesses, by name.

Harnesses differ in how strictly they read, so that a score means something only together with its rule. A rule that
cannot decide gives None: the answer is wrong and counted as unparsed. No rule draws a random letter.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from sinkbench.errors import unknown_name

ALPHABET = "ABCDEFGHIJ"

REFUSED = "Z"

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)

Options = Mapping[str, str]
"""Letter to text; the text is empty where only the letters are known."""

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# A lower-case letter counts at the end only: "the answer is a dog" chooses no option A.
_ANSWER_IS = re.compile(r"\b[Aa]nswer\s+is\s*:?\s*[*(]*(?:([A-Z])\b|([a-z])\W*$)")
_TAIL = 4

# The last sign is any character in LLaVA's pattern too: its period is not escaped.
_SCIENCEQA_PHRASE = re.compile(r"The answer is ([A-Z]).")
_LEADING = re.compile(r"[(\s]*([A-Za-z])")
_MMSTAR_LEADS = ("", "(", "option ", "the answer is ")


def lettered(texts: Iterable[str]) -> dict[str, str]:
    """Options from their texts in order, at most ten."""
    return dict(zip(ALPHABET, map(str, texts), strict=False))


def extract_letter(answer: str, options: Options) -> str | None:
    """The option that an answer chooses, by VLMEvalKit's rules without a judge model.

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


def _option_by_text(answer: str, options: Options) -> str | None:
    lowered = answer.lower()
    if len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    named = [letter for letter, text in options.items() if text.strip() and text.lower() in lowered]
    return named[0] if len(named) == 1 else None


def _first_letter(answer: str, options: Options) -> str | None:
    """lmms-eval's SEED-Bench: the first character, whatever follows ("Apple" chooses A)."""
    return answer[0] if answer and answer[0] in options else None


def _leading_letter(answer: str, options: Options) -> str | None:
    """lmms-eval's CV-Bench: the first character after brackets and spaces, in either case ("It" chooses I)."""
    found = _LEADING.match(answer)
    return found[1].upper() if found and found[1].upper() in options else None


def _llava_scienceqa(answer: str, options: Options) -> str | None:
    """LLaVA's ScienceQA: the letter alone; the letter, a period and a space first; "The answer is X." once."""
    if answer in options:
        return answer
    if answer[:1] in options and answer[1:3] == ". ":
        return answer[0]
    named = _SCIENCEQA_PHRASE.findall(answer)
    return named[0] if len(named) == 1 and named[0] in options else None


def _lmms_eval_scienceqa(answer: str, options: Options) -> str | None:
    """lmms-eval's ScienceQA: the letter alone, or first and followed by a period."""
    return answer[0] if answer[:1] in options and answer[1:2] in ("", ".") else None


def _mmstar(answer: str, options: Options) -> str | None:
    """MMStar's own: in either case, the first character, or that after "(", "option " or "the answer is "."""
    lowered = answer.lower().replace("\n", " ")
    for lead in _MMSTAR_LEADS:
        letter = lowered[len(lead) : len(lead) + 1].upper()
        if lowered.startswith(lead) and letter in options:
            return letter
    return None


PARSERS: dict[str, Callable[[str, Options], str | None]] = {
    "vlmevalkit": extract_letter,
    "first_letter": _first_letter,
    "leading_letter": _leading_letter,
    "llava_scienceqa": _llava_scienceqa,
    "lmms_eval_scienceqa": _lmms_eval_scienceqa,
    "mmstar": _mmstar,
}


def parse(text: str, options: Options, parser: str = "vlmevalkit") -> str | None:
    """Read an answer by a named rule.

    Args:
        text: The model's answer; spaces around it do not count.
        options: Letter to text.
        parser: A key of `PARSERS`.

    Returns:
        A letter of `options`, "Z" for a refusal that the rule knows, None when the rule leaves it open.

    Raises:
        UsageError: The parser is unknown.
    """
    if parser not in PARSERS:
        raise unknown_name("parser", parser, PARSERS)
    return PARSERS[parser](text.strip(), options)
