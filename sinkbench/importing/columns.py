"""What the columns of a file of answers mean, guessed from names that harnesses use or as the user says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from sinkbench.errors import UsageError

if TYPE_CHECKING:
    from sinkbench.importing.formats import Sheet

RESPONSE = "resps"
"""Column of the raw answer in rows made from logged samples."""

IDS = ("question_id", "id", "qid", "questionId", "index", "idx", "sample_id", "image_id")
IMAGES = ("image", "image_file", "image_path", "image_name", "image_source", "file_name", "img", "image_id")
QUESTIONS = ("question", "prompt", "query", "instruction", "text")
CATEGORIES = ("category", "split")
ANSWERS = (
    *(RESPONSE, "prediction", "predict", "pred", "response", "model_answer", "model_output", "output"),
    *("generated_text", "generation", "caption"),
)
OTHER_ANSWERS = ("answer", "text")
"""Taken where no column of `ANSWERS` is there: `answer` is the reference in many files, `text` the question in some."""

_LONGEST_NAME = 500
"""Characters of an image's name; more is an image in base64."""

_HINT = "Name them: --question-id COLUMN, --image COLUMN, --text COLUMN (the question), --answer COLUMN."


@dataclass(frozen=True)
class ColumnNames:
    """Columns of a file of answers; None: guess, empty: there is none.

    Attributes:
        question_id: Tells questions apart.
        image: Name or path of the image.
        text: The question or the whole prompt.
        answer: The model's answer.
    """

    question_id: str | None = None
    image: str | None = None
    text: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Chosen:
    """Columns that are read.

    Attributes:
        ids: Candidates, the likeliest first.
        image: Empty if there is none; likewise for `text` and `category`.
        text: The question or prompt.
        category: Split or category, which tells apart questions that are asked in several.
        answer: The answer.
        guessed: Nobody said which column holds the answers.
        named_id: Somebody said which column holds the ids.
    """

    ids: tuple[str, ...]
    image: str
    text: str
    category: str
    answer: str
    guessed: bool
    named_id: bool

    def to_json(self) -> dict[str, str]:
        """For run.json and for messages, without the ids, of which the join takes one at most."""
        named = {"image": self.image, "text": self.text, "category": self.category, "answer": self.answer}
        return {key: value for key, value in named.items() if value}


@dataclass(frozen=True)
class Answer:
    """One row of a file of answers.

    Attributes:
        number: Of the row, from 1.
        ids: By column; null ids are left out.
        image: Name without folder and ending; empty if unknown.
        text: Question or prompt, `squeezed`; empty if unknown.
        categories: Lower-case; VLMEvalKit joins several by commas.
        answer: None where the file has null.
    """

    number: int
    ids: Mapping[str, str]
    image: str
    text: str
    categories: frozenset[str]
    answer: str | None

    @property
    def name(self) -> str:
        """For messages."""
        known = next(iter(self.ids.values()), "") or " ".join(part for part in (self.image, self.text) if part)
        return f"row {self.number}{f' ({shortened(known)})' if known else ''}"


def choose(sheet: "Sheet", given: ColumnNames) -> Chosen:
    """Decide what each column means.

    Raises:
        UsageError: A column that the user names is not there, no column holds answers, or several may.
    """
    columns = sheet.columns
    for name in (given.question_id, given.image, given.text, given.answer):
        if name and name not in columns:
            raise UsageError(f"the answers have no column {name!r} (found: {', '.join(columns)})", _HINT)
    taken = {name for name in (given.question_id, given.image, given.text) if name}
    answer = given.answer or _answer_column([name for name in columns if name not in taken])
    rest = [name for name in columns if name != answer]
    ids = tuple(name for name in IDS if name in rest)
    return Chosen(
        ids=ids if given.question_id is None else (given.question_id,) if given.question_id else (),
        image=_image_column(sheet, rest) if given.image is None else given.image,
        text=_first(QUESTIONS, rest) if given.text is None else given.text,
        category=_first(CATEGORIES, rest),
        answer=answer,
        guessed=given.answer is None,
        named_id=bool(given.question_id),
    )


def _answer_column(columns: Sequence[str]) -> str:
    likely = [name for name in ANSWERS if name in columns]
    if len(likely) > 1 and likely[0] != RESPONSE:
        raise UsageError(
            f"columns {' and '.join(likely)} may both hold the answers", f"Say which: --answer {likely[0]}."
        )
    found = likely[:1] or [name for name in OTHER_ANSWERS if name in columns][:1]
    if not found:
        raise UsageError(f"no column is known to hold answers (found: {', '.join(columns)})", _HINT)
    return found[0]


def _first(known: Sequence[str], columns: Sequence[str]) -> str:
    return next((name for name in known if name in columns), "")


def _image_column(sheet: "Sheet", columns: Sequence[str]) -> str:
    """The first that holds names: beside the image itself, data often have a column that says where it is from."""
    known = (name for name in IMAGES if name in columns)
    return next((name for name in known if any(image_name(row.get(name)) for row in sheet.rows)), "")


def answers_of(sheet: "Sheet", chosen: Chosen) -> list[Answer]:
    """The rows, with their columns read.

    Raises:
        UsageError: An answer is no text.
    """
    found = []
    for number, row in enumerate(sheet.rows, start=1):
        ids = {name: plain(row[name]) for name in chosen.ids if row.get(name) is not None}
        found.append(
            Answer(
                number=number,
                ids=ids,
                image=image_name(row.get(chosen.image)),
                text=squeezed(row.get(chosen.text)),
                categories=frozenset(part for part in _parts(row.get(chosen.category)) if part),
                answer=_answer_text(row.get(chosen.answer), number, chosen.answer),
            )
        )
    return found


def with_questions(sheet: "Sheet", questions: "Sheet") -> "Sheet":
    """Rows of answers that carry an id only, with image, question and category from the file that was asked.

    Columns that the answers have themselves are kept.

    Raises:
        UsageError: No id column tells the questions apart and is among the answers' columns.
    """
    from sinkbench.importing.formats import Sheet

    for name in (name for name in IDS if name in questions.columns and name in sheet.columns):
        by_id = {plain(row.get(name)): row for row in questions.rows}
        if len(by_id) == len(questions.rows):
            break
    else:
        raise UsageError(
            "no column of the questions tells them apart and is a column of the answers, too "
            f"(questions: {', '.join(questions.columns)}; answers: {', '.join(sheet.columns)})",
            "Give the question file that the answers were made from, with unique ids.",
        )
    columns = {
        "image": _image_column(questions, questions.columns),
        "prompt": _first(QUESTIONS, questions.columns),
        "category": _first(CATEGORIES, questions.columns),
    }
    rows = []
    for row in sheet.rows:
        asked = by_id.get(plain(row.get(name)), {})
        known = {key: asked[column] for key, column in columns.items() if column and asked.get(column) is not None}
        rows.append({**known, **row})
    return Sheet(rows, sheet.format)


def _answer_text(value: Any, number: int, column: str) -> str | None:
    """An answer as text that can be written to a file: lone surrogates, which JSON can express, are replaced."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, (list, dict)):
        raise UsageError(f"row {number}: column {column!r} holds {type(value).__name__}, not an answer", _HINT)
    return plain(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(value: Any) -> str:
    """A cell as text; Excel makes 17.0 of 17."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def image_name(value: Any) -> str:
    """An image's name without folder and ending; empty where a cell holds something else, such as the image itself."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or len(str(value)) > _LONGEST_NAME:
        return ""
    if re.fullmatch("[0-9a-f]{64}", str(value)):  # lm-eval logs hashes of images.
        return ""
    name = PurePosixPath(str(value).replace("\\", "/")).name
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.isalnum() and len(ending) <= 4 and stem else name


def squeezed(value: Any) -> str:
    """A question without image placeholders, white space as single blanks."""
    return " ".join(value.replace("<image>", " ").split()) if isinstance(value, str) else ""


def shortened(text: str, length: int = 60) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _parts(value: Any) -> list[str]:
    return [part.strip().lower() for part in value.split(",")] if isinstance(value, str) else []
