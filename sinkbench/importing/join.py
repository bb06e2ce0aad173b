"""The question of each answer: by id where ids are unique, else by image and text; never by position.

Ids repeat across the splits of POPE, files of one benchmark exist in several orders, and joining them by row gives
nonsense without any error (tasks.md §1). So whatever a file says beside the id, image or question, must agree.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.importing.columns import IDS, Answer, Chosen, image_name, plain, shortened, squeezed
from sinkbench.tasks.images import places
from sinkbench.tasks.layout import FAULT
from sinkbench.tasks.load import documents, request_id

WITHIN = "within"
"""Kind of id: the document's own without its category, the question number of one split of POPE."""

POSITIONS = ("id", "index", "idx", "sample_id")
"""Columns that count rows in many files, so that they are no question numbers unless the user says so."""

CONTRADICTION = "answered several times, with different texts"


@dataclass(frozen=True)
class Question:
    """A question of the task, as far as answers can be recognised by it.

    Attributes:
        id: The request's id.
        ids: By kind: the document's own id, its columns, and its id within its category.
        images: Names that its images go by.
        text: The bare question, `squeezed`; empty if the data have no such column.
        prompt: The whole prompt, `squeezed`.
        category: Lower-case, or empty.
        fault: Why it cannot be judged: its row in the data is broken.
    """

    id: str
    ids: Mapping[str, frozenset[str]]
    images: frozenset[str]
    text: str
    prompt: str
    category: str
    fault: str

    def asks(self, text: str) -> bool:
        """Whether a text is this question or holds it: an instruction or chat markup may stand around it."""
        return text in self.prompt or (self.text or self.prompt) in text


@dataclass
class Joined:
    """What became of the answers.

    Attributes:
        by: What they were joined by, in words.
        verified: What else agreed: "image", "text".
        texts: Answer by request id.
        unanswered: Ids of questions without an answer.
        null: Ids of questions whose answer is null.
        broken: Why a question cannot be judged, whatever the answer, by id.
        strangers: Answers to no question of the task.
        duplicates: Ids of questions that are answered more than once.
        contradictory: Those of them whose answers differ; they are not scored.
    """

    by: str
    verified: tuple[str, ...]
    texts: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    null: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    contradictory: list[str] = field(default_factory=list)

    def failures(self) -> dict[str, str]:
        """Why a question has no score, by request id."""
        reasons = dict.fromkeys(self.unanswered, "the file has no answer")
        reasons |= dict.fromkeys(self.null, "the file's answer is null")
        reasons |= dict.fromkeys(self.contradictory, CONTRADICTION)
        return reasons | self.broken

    def problems(self) -> dict[str, list[str]]:
        """What --partial would let pass: examples by kind, kinds without any left out."""
        kinds = {
            "questions without an answer": self.unanswered,
            "answers that are null": self.null,
            "answers without a question": self.strangers,
            "questions answered more than once": self.duplicates,
        }
        return {kind: found for kind, found in kinds.items() if found}


def task_questions(task: Any, settings: Mapping[str, Any], only: Mapping[str, str]) -> list[Question]:
    """The questions of a loaded task.

    Args:
        task: From `load_task`.
        settings: The task's metadata.
        only: Values by column; other questions are left out.

    Raises:
        UsageError: No question has these values, or there is no such column.
    """
    rows = documents(task)
    for column in only:
        if column not in rows.column_names:
            raise UsageError(
                f"the questions of {task.task_name} have no column {column!r}",
                f"Choose one of {', '.join(rows.column_names)}: --only COLUMN=VALUE.",
            )
    found = [
        _question(task, document, settings)
        for document in rows
        if all(str(document[column]) == value for column, value in only.items())
    ]
    if not found:
        wanted = ", ".join(f"{column}={value}" for column, value in only.items())
        column = next(iter(only), "id")
        known = sorted({str(value) for value in rows[column][:]})[:5]
        raise UsageError(
            f"no question of {task.task_name} has {wanted}", f"{column} is for example {', '.join(known)}."
        )
    return found


def _question(task: Any, document: Mapping[str, Any], settings: Mapping[str, Any]) -> Question:
    category = str(document.get("category") or "")
    own = str(document["id"])
    ids = {"": frozenset({own, request_id(task, document)}), WITHIN: frozenset({own.removeprefix(f"{category}-")})}
    named = [settings["id"]] if isinstance(settings.get("id"), str) else list(settings.get("id", ()))
    ids |= {
        name: frozenset({plain(document[name])})
        for name in dict.fromkeys([*IDS, *named])
        if name != "id" and document.get(name) is not None
    }
    names = [image_name(place) for place in places(document) if isinstance(place, str)]
    return Question(
        id=request_id(task, document),
        ids=ids,
        images=frozenset(key for name in [*names, image_name(document.get("cluster"))] for key in _image_keys(name)),
        text=squeezed(document.get("question")),
        prompt=squeezed(task.doc_to_text(document)),
        category=category.lower(),
        fault=str(document.get(FAULT) or ""),
    )


def _image_keys(name: str) -> list[str]:
    """A name, and its number where it ends in one: COCO_val2014_000000310196 also goes by 310196."""
    digits = name[len(name.rstrip("0123456789")) :]
    return [key for key in (name, f"#{int(digits)}" if digits else "") if key]


def _asked_image(answer: Answer) -> str:
    return f"#{int(answer.image)}" if answer.image.isdecimal() else answer.image


Candidates = list[list[Question]]
"""For each answer the questions that it may be an answer to."""


def join(questions: Sequence[Question], answers: Sequence[Answer], chosen: Chosen) -> Joined:
    """Find the question of each answer, in the way that finds most.

    Raises:
        UsageError: None is found in any way; or answers fit questions of several splits alike, and do not say which.
    """
    matcher = _Matcher(questions, answers)
    ways: list[tuple[str, tuple[str, ...], Candidates]] = []
    for column in chosen.ids:
        numbered = (WITHIN,) if chosen.named_id or column not in POSITIONS else ()
        for kind in dict.fromkeys(("", column, *numbered)):
            ways.append((column, matcher.verified(), matcher.by_id(column, kind)))
    if chosen.image and chosen.text:
        ways.append(("image and question", (), matcher.by_image_and_text()))
    if chosen.image and not chosen.text:
        ways.append(("image", (), matcher.by_image()))
    by, verified, found = max(ways, key=lambda way: sum(map(bool, way[2])), default=("", (), []))
    if not any(found):
        raise _nothing_found(questions, answers, chosen)
    return _resolve(questions, answers, found, Joined(by, verified))


class _Matcher:
    """Finds questions by what an answer says.

    Args:
        questions: Of the task.
        answers: Of the file.
    """

    def __init__(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        self.questions, self.answers = questions, answers
        self._by_image: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            for image in question.images:
                self._by_image[image].append(question)
        # Data with embedded images may call them otherwise than the answers do, which then says nothing.
        self._images_known = any(_asked_image(answer) in self._by_image for answer in answers)
        self._categories = {question.category for question in questions}

    def verified(self) -> tuple[str, ...]:
        """What is checked beside the id."""
        texts = any(answer.text for answer in self.answers)
        return tuple(name for name, known in (("image", self._images_known), ("text", texts)) if known)

    def by_id(self, column: str, kind: str) -> Candidates:
        """Questions whose id of a kind is that of a column; none where several are, or where image or text differ."""
        known: dict[str, list[Question]] = defaultdict(list)
        for question in self.questions:
            for id in question.ids.get(kind, ()):
                known[id].append(question)

        def one(answer: Answer) -> list[Question]:
            found = self._of_category(answer, known.get(answer.ids.get(column, ""), []))
            return found if len(found) == 1 and self._agrees(answer, found[0]) else []

        return self._each(one)

    def by_image_and_text(self) -> Candidates:
        """Questions about the image with the same words: the question, the prompt, or the question in another prompt.

        There are several where splits share a question.
        """

        def same(answer: Answer) -> list[Question]:
            about = self._by_image.get(_asked_image(answer), []) if answer.image and answer.text else []
            exact = [question for question in about if answer.text in (question.text, question.prompt)]
            held = [question for question in about if question.text and question.text in answer.text]
            longest = max((len(question.text) for question in held), default=0)
            return self._of_category(answer, exact or [one for one in held if len(one.text) == longest])

        return self._each(same)

    def by_image(self) -> Candidates:
        """Questions about the image, where it has one only: captions."""

        def only(answer: Answer) -> list[Question]:
            found = self._of_category(answer, self._by_image.get(_asked_image(answer), []))
            return found if len(found) == 1 else []

        return self._each(only)

    def _each(self, match: Callable[[Answer], list[Question]]) -> Candidates:
        return [match(answer) for answer in self.answers]

    def _of_category(self, answer: Answer, found: list[Question]) -> list[Question]:
        """Those of the answer's category or split, if it names one that the task has."""
        if not answer.categories & self._categories:
            return found
        return [question for question in found if question.category in answer.categories]

    def _agrees(self, answer: Answer, question: Question) -> bool:
        if self._images_known and answer.image and _asked_image(answer) not in question.images:
            return False
        return not answer.text or question.asks(answer.text)


def _resolve(questions: Sequence[Question], answers: Sequence[Answer], found: Candidates, joined: Joined) -> Joined:
    """Give each question its answer, and sort out what has none or several."""
    groups: dict[tuple[str, ...], list[Answer]] = defaultdict(list)
    for answer, candidates in zip(answers, found, strict=True):
        if candidates:
            groups[tuple(question.id for question in candidates)].append(answer)
        else:
            joined.strangers.append(answer.name)
    given: dict[str, set[str | None]] = defaultdict(set)
    spread = 0
    for ids, several in groups.items():
        for id in ids:
            given[id] |= {answer.answer for answer in several}
        spread += len(several) < len(ids)
        if len(several) > len(ids):
            joined.duplicates += ids
    for question in questions:
        _settle(question, given.get(question.id), joined)
    if spread and joined.unanswered:
        raise _which_split(questions, spread)
    return joined


def _settle(question: Question, given: set[str | None] | None, joined: Joined) -> None:
    if question.fault:
        joined.broken[question.id] = question.fault
    elif not given:
        joined.unanswered.append(question.id)
    elif len(given) > 1:
        joined.contradictory.append(question.id)
        if question.id not in joined.duplicates:
            joined.duplicates.append(question.id)
    else:
        (text,) = given
        if text is None:
            joined.null.append(question.id)
        else:
            joined.texts[question.id] = text


def _which_split(questions: Iterable[Question], n: int) -> UsageError:
    category = next((question.category for question in questions if question.category), "random")
    return UsageError(
        f"{n} answers fit questions of several categories alike, and the file does not say of which it holds answers",
        f"Say which: --only category={category}; or add a column `category` to the answers.",
    )


def _nothing_found(questions: Sequence[Question], answers: Sequence[Answer], chosen: Chosen) -> UsageError:
    """Says what the file and the task call a question, and what to try."""
    asked, answer = questions[0], answers[0]
    taken = [*chosen.ids, *(name for name in (chosen.image, chosen.text) if name)]
    says = [*answer.ids.values(), *(part for part in (answer.image, shortened(answer.text)) if part)]
    columns = f"read {', '.join(taken)}: for example {', '.join(says)}" if taken else "read no id, image or question"
    text = shortened(asked.text or asked.prompt)
    return UsageError(
        f"no answer belongs to a question of the task ({columns}; a question is {asked.id}, "
        f"image {max(asked.images, default='unnamed')}, {text!r}). Ids alone do not tell questions apart where they "
        "repeat across splits, and an answer whose image or text differs from its id's question does not count.",
        "Name the columns: --question-id COLUMN, --image COLUMN, --text COLUMN; or give the file that was asked: "
        "--questions FILE; or one split: --only category=random.",
    )
