"""Multiple-choice questions in words: options as lines, options read out of a question, rotations of a question."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.scoring.multiple_choice import LETTERS, ROTATION, options_of

LETTER = "Answer with the option's letter from the given choices directly."
"""LLaVA-1.5's request for a letter, which lmms-eval took over."""

LETTER_CN = "请直接回答选项字母。"

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_LINE = re.compile(r"^\s*([A-J])[.)]\s+(.+?)\s*$", re.MULTILINE)
_BRACKETED = re.compile(r"\(([a-jA-J])\)")


def option_lines(options: Mapping[str, str]) -> str:
    """Options one a line: "A. red"."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def options_in(question: str) -> dict[str, str]:
    """The options that a question lists one a line ("A. red"), letter to text; empty if it lists none."""
    return dict(_LINE.findall(question))


def bracketed_options(text: str) -> dict[str, str]:
    """The options of "(a) Open (b) Closed", letter in upper case to text."""
    parts = _BRACKETED.split(text)
    return {letter.upper(): option.strip() for letter, option in zip(parts[1::2], parts[2::2], strict=True)}


def is_chinese(text: str) -> bool:
    """Whether a text holds a Chinese character."""
    return _CHINESE.search(text) is not None


def mmbench_prompt(row: Mapping[str, Any], profile: str, language: str) -> str:
    """MMBench's question under a prompt profile, without the image.

    Args:
        row: question, hint (None or "nan" if there is none) and A to D.
        profile: "original" (LLaVA), "lmms-eval", "vlmevalkit" (its generic prompt) or "vlmevalkit-llava" (that of its
            adapter for LLaVA).
        language: "en" or "cn".
    """
    hint, question = _text(row.get("hint")), _text(row.get("question"))
    lines = option_lines(options_of(row))
    if profile == "vlmevalkit":
        told = f"Hint: {hint}\n" if hint else ""
        asked = f"{told}Question: {question}\nOptions:\n{lines}\n"
        return f"{asked}Please select the correct answer from the options above. \n"
    if profile == "lmms-eval":
        suffix = {"en": LETTER, "cn": "请直接使用所提供的选项字母作为答案回答。"}[language]
        told = f"{hint} " if hint else ""
        return f"{told}{question} There are several options:\n{lines}\n\n{suffix}"
    asked = f"{hint}\n{question}\n{lines}" if hint else f"{question}\n{lines}"
    chinese = is_chinese(asked) if profile == "vlmevalkit-llava" else language == "cn"
    return f"{asked}\n{LETTER_CN if chinese else LETTER}"


def _text(value: Any) -> str:
    """A cell's text; pandas left "nan" where MMBench's copies have none."""
    return "" if value is None or str(value) == "nan" else str(value)


def with_rotations(data: Any, task: str) -> Any:
    """MMBench's rows with the rotations of a question together, as the first n rows then hold whole questions.

    A question has as many rotations as rows, and never fewer than options: a table of unrotated rows alone has no
    circular accuracy. Questions are the clusters.

    Args:
        data: A `datasets.Dataset` with index, A to D and cluster.
        task: For messages.

    Returns:
        The same with a column rotations.

    Raises:
        UsageError: An index is no whole number.
    """
    questions = [_question(index, task) for index in data["index"][:]]
    n_rows = Counter(questions)
    texts = data.select_columns([letter for letter in LETTERS if letter in data.column_names])
    n_options = [len(options_of(row)) for row in texts]
    rotations = [max(n_rows[question], n) for question, n in zip(questions, n_options, strict=True)]
    data = data.remove_columns("cluster").add_column("cluster", [str(question) for question in questions])
    data = data.add_column("rotations", rotations)
    return data.select(sorted(range(len(data)), key=lambda row: (questions[row], row)))


def _question(index: Any, task: str) -> int:
    """Number of a row's question; -1 for a row without index, whose sample fails."""
    if index is None:
        return -1
    try:
        return int(index) % ROTATION
    except ValueError as error:
        raise UsageError(
            f"{task}: index {index!r} is no whole number",
            "MMBench numbers its rows: question + 1000000 * rotation. Is this its table?",
        ) from error


def mmvp_pairs(data: Any) -> Any:
    """MMVP's rows with their number from 1, and the pair 1 and 2, 3 and 4, … as cluster.

    Args:
        data: A `datasets.Dataset`; where it has no column index, rows are taken in order.

    Returns:
        The same with a column number, in the order of the numbers.

    Raises:
        UsageError: The indices are not whole numbers from 1, each once.
    """
    numbers = list(range(1, len(data) + 1))
    if "index" in data.column_names:
        numbers = _numbers(data["index"][:])
    data = data.remove_columns("cluster").add_column("cluster", [f"pair {(number + 1) // 2}" for number in numbers])
    return data.add_column("number", numbers).select(sorted(range(len(data)), key=numbers.__getitem__))


def _numbers(indices: list[Any]) -> list[int]:
    hint = "MMVP numbers its questions from 1 to 300. Leave the column out to take the rows in order."
    try:
        numbers = [int(index) for index in indices]
    except (TypeError, ValueError) as error:
        raise UsageError("mmvp: column index must hold whole numbers", hint) from error
    if min(numbers) < 1 or len({*numbers}) < len(numbers):
        raise UsageError("mmvp: column index must hold whole numbers from 1, each once", hint)
    return numbers
