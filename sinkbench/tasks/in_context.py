"""In-context learning from folders in VL-ICL's layout: demonstrations from support.json, questions from query.json.

Each row has `image` (a name or a list of names), `question` and `answer` (an integer or a string). A task with a hidden
operator has three answers in a support row (for +, - and x) and `operator` in a query row. That is VL-ICL's layout
(ys-zong/VL-ICL, read from its loader); TrueMICL is laid out likewise, its fields are not verified.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.request import IMAGE_PLACEHOLDER
from sinkbench.tasks.layout import FAULT

OPERATORS = ("+", "-", "x")
"""In the order of a support row's three answers."""

_EXPECTED = "image (a name or a list of names), question (a string), answer (an integer or a string)"

Row = dict[str, Any]


def check_in_context(settings: Mapping[str, Any], data_dir: str | Path | None, task: str) -> None:
    """Make sure that the folders can be read and hold enough demonstrations.

    Raises:
        UsageError: They cannot or do not; names the file, the row and the keys found.
    """
    read_in_context(settings, data_dir, task)


def read_in_context(settings: Mapping[str, Any], data_dir: str | Path | None, task: str = "") -> list[Row]:
    """A document for each question, with its demonstrations.

    Demonstrations are drawn by a hash of task, question, seed and support row, so that those of fewer shots are among
    those of more; the question itself is none of them. `demos: fixed` draws the same ones for all questions of a task.

    Args:
        settings: `metadata` of the task's YAML with the task's parameters.
        data_dir: The folder that holds a folder for each task.
        task: For messages.

    Raises:
        UsageError: The data cannot be read.
    """
    task = task or settings.get("task", "this task")
    hint = f"Give `--data-dir` a folder with {settings['about']}."
    if data_dir is None:
        raise UsageError(f"{task} is read from a folder", hint)
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise UsageError(f"data folder {root} does not exist", hint)
    if settings["shots"] < 0:
        raise UsageError(
            f"{task}.shots must be 0 or more, not {settings['shots']}", f"For example `--set {task}.shots=4`."
        )
    documents: list[Row] = []
    for name, keywords in settings["folders"].items():
        episodes = _Episodes(name, _folder(root, name, keywords, hint), root, settings, hint)
        documents += [episodes.document(index) for index in range(len(episodes.queries))]
    return documents


def _folder(root: Path, name: str, keywords: Sequence[str], hint: str) -> Path:
    """The task's folder: the one of its name, else the only one whose name holds one of its keywords."""
    there = sorted(path.name for path in root.iterdir() if (path / "query.json").is_file())
    if name in there:
        return root / name
    fitting = [folder for folder in there if any(keyword in folder.lower() for keyword in keywords)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} folders that may be" if fitting else "no folder of"
        raise UsageError(
            f"{root} has {problem} {name} (found with a query.json: {', '.join(there) or 'none'})",
            f"{hint} Name the folder of {name} {name}.",
        )
    return root / fitting[0]


@dataclass(frozen=True)
class _Example:
    """A row as it is asked or shown."""

    question: str
    answer: str
    images: tuple[str, ...]


class _Episodes:
    """The questions of one folder and their demonstrations.

    Raises:
        UsageError: A file or row is not as expected, or there are too few rows to demonstrate with.
    """

    def __init__(self, name: str, folder: Path, root: Path, settings: Mapping[str, Any], hint: str) -> None:
        self.name, self.folder, self.root, self.settings, self.hint = name, folder, root, settings, hint
        self.support = self._rows("support.json") if settings["shots"] else []
        self.queries = self._rows("query.json")
        for number, row in enumerate(self.support, start=1):
            self._check(row, f"{folder / 'support.json'}, row {number}", demonstrates=True)
        for number, row in enumerate(self.queries, start=1):
            self._check(row, f"{folder / 'query.json'}, row {number}", demonstrates=False)
        shown = [image for row in (*self.support, *self.queries) for image in _images(row)]
        if shown and not any(self._found(image) for image in dict.fromkeys(shown)):
            raise UsageError(f"none of the {len({*shown})} images is in {root} (looked for {min(shown)})", hint)

    def document(self, index: int) -> Row:
        """The question with that index."""
        query, settings = self.queries[index], self.settings
        chosen = self._chosen(index)
        with_images = settings["condition"] != "no-image"
        demos = [self._demo(self.support[row], query, with_images) for row in chosen]
        asked = _Example(str(query["question"]), str(query["answer"]), _images(query))
        names = [name for example in (*demos, asked) for name in example.images]
        text, turns = _PROFILES[settings["prompt"]](demos, asked, settings["instruction"])
        null = next((column for column in ("image", "question", "answer") if query[column] is None), None)
        return {
            "id": f"{self.name}-{index}",
            "cluster": f"{self.name}: {' '.join(asked.images)}",
            FAULT: f"{null} is null" if null else "",
            "folder": self.name,
            "question": asked.question,
            "answer": asked.answer,
            "images": names,
            "shown": chosen,
            "text": text,
            "turns": turns,
            "image_paths": [str(self._found(name) or self.root / name) for name in names],
        }

    def _rows(self, name: str) -> list[Row]:
        path = self.folder / name
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}", self.hint) from error
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise UsageError(f"{path}: expected a list of JSON objects", self.hint)
        return rows

    def _check(self, row: Row, where: str, demonstrates: bool) -> None:
        """See that a row has one of the known shapes; a null of a question is left to its sample."""
        known = {"image": _is_image, "question": lambda value: isinstance(value, str), "answer": _is_answer}
        for column, fits in known.items():
            value = row.get(column, ...)
            null = value is None and not demonstrates
            several = column == "answer" and demonstrates and _is_list_of(value, _is_answer, len(OPERATORS))
            if not (null or several or fits(value)):
                raise UsageError(
                    f"{where}: {column!r} is {'missing' if value is ... else 'unknown in shape'} (found: "
                    f"{', '.join(row)}; expected: {_EXPECTED})",
                    self.hint,
                )
        if not demonstrates and self._has_operator() and row.get("operator") not in OPERATORS:
            raise UsageError(
                f"{where}: 'operator' must be one of {', '.join(OPERATORS)}, since the rows of support.json have an "
                f"answer for each (found: {', '.join(row)})",
                self.hint,
            )

    def _has_operator(self) -> bool:
        return any(isinstance(row.get("answer"), list) for row in self.support)

    def _chosen(self, index: int) -> list[int]:
        """Indices of the support rows to show, in the order in which they are shown."""
        shots, fixed = self.settings["shots"], self.settings["demos"] == "fixed"
        barred = self.queries if fixed else [self.queries[index]]
        same = {(_images(row), row["question"]) for row in barred}
        usable = [number for number, row in enumerate(self.support) if (_images(row), row["question"]) not in same]
        if len(usable) < shots:
            raise UsageError(
                f"{self.folder / 'support.json'} has {len(usable)} rows to show that are not asked, fewer than {shots}",
                f"Set shots to {len(usable)} or less.",
            )
        key = f"{self.name}/{'fixed' if fixed else index}/{self.settings['seed']}"
        return sorted(usable, key=partial(_draw, key))[:shots]

    def _demo(self, row: Row, query: Row, with_images: bool) -> _Example:
        answer = row["answer"]
        if isinstance(answer, list):
            answer = answer[OPERATORS.index(query["operator"])]
        return _Example(row["question"], str(answer), _images(row) if with_images else ())

    def _found(self, name: str) -> Path | None:
        return next((path for base in (self.root, self.folder) if (path := base / name).is_file()), None)


def _draw(key: str, row: int) -> bytes:
    return hashlib.sha256(f"{key}/{row}".encode()).digest()


def _images(row: Row) -> tuple[str, ...]:
    image = row["image"]
    return () if image is None else (image,) if isinstance(image, str) else tuple(image)


def _is_image(value: Any) -> bool:
    return _is_name(value) or (isinstance(value, list) and bool(value) and all(map(_is_name, value)))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_answer(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def _is_list_of(value: Any, fits: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(fits, value))


def _vl_icl(demos: Sequence[_Example], asked: _Example, instruction: str) -> tuple[str, list[dict[str, str]]]:
    """One user turn, as VL-ICL asks LLaVA; without an instruction, its default, the text begins with a line break."""
    shown = [f"{_placeholders(demo)}{demo.question}\nAnswer: {demo.answer}\n" for demo in demos]
    return f"{instruction}\n{''.join(shown)}{_placeholders(asked)}{asked.question}\nAnswer:", []


def _chat_turns(demos: Sequence[_Example], asked: _Example, instruction: str) -> tuple[str, list[dict[str, str]]]:
    """Demonstrations as turns of user and assistant; the instruction opens the first one. Our own profile."""
    users = [f"{_placeholders(example)}{example.question}" for example in (*demos, asked)]
    if instruction:
        users[0] = f"{instruction}\n{users[0]}"
    turns: list[dict[str, str]] = []
    for user, demo in zip(users, demos, strict=False):
        turns += [{"role": "user", "text": user}, {"role": "assistant", "text": demo.answer}]
    return users[-1], turns


def _placeholders(example: _Example) -> str:
    return f"{IMAGE_PLACEHOLDER}\n" * len(example.images)


_PROFILES = {"vl_icl": _vl_icl, "chat_turns": _chat_turns}
