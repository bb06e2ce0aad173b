"""Score a file of answers and write it down as a run that boards show beside measured ones."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.backend import LmEvalTask
from sinkbench.environment import environment
from sinkbench.errors import UsageError
from sinkbench.importing.columns import Chosen, ColumnNames, answers_of, choose, with_questions
from sinkbench.importing.formats import Sheet, read_answers
from sinkbench.importing.join import Joined, Question, join, task_questions
from sinkbench.record import SCHEMA_VERSION, UNSCORED, Record, touch
from sinkbench.store import Row, RunStore, check_writable
from sinkbench.tasks import check_data, documents, request_id, task_info

METHOD = "imported"
"""Name of a method that nobody names."""

_ENOUGH = 20
"""Answers from which on it is no accident that all of them are the references."""

_EXAMPLES = 3

Only = Mapping[str, str]
"""Values by column of the questions that a file answers; the others do not count as unanswered."""


@dataclass(frozen=True)
class Imported:
    """An import that came to its end.

    Attributes:
        directory: The run directory.
        record: The content of its run.json.
        notes: What the user should know about how answers were joined.
    """

    directory: Path
    record: Record
    notes: list[str]


def import_answers(
    task: str,
    file: Path,
    *,
    output: Path,
    data_dir: Path | None = None,
    params: Mapping[str, Any] | None = None,
    model: str | None = None,
    method: str | None = None,
    columns: ColumnNames | None = None,
    questions: Path | None = None,
    only: Only | None = None,
    partial: bool = False,
) -> Imported:
    """Score answers by the task's own rules and write a run directory.

    The same file scored in the same way has the same run id and replaces its earlier record.

    Args:
        task: Task name.
        file: See `formats.read_answers`.
        output: Folder below which the run directory is made.
        data_dir: Folder with the task's data; images are not needed. None takes the shipped data or the hub's.
        params: The task's parameters, keys without the task's name.
        model: What answered; by default the file's `model_id`, else its name.
        method: With which method; `METHOD` by default.
        columns: What the file's columns mean.
        questions: A file with id, image and question for answers that have an id only.
        only: See `Only`.
        partial: Score what can be scored where questions have no answer or several, or answers no question.

    Raises:
        UsageError: A file or column is wrong, answers cannot be joined, or there are gaps and `partial` is false.
    """
    given = params or {}
    info = task_info(task)
    settings = {**info.settings, **info.with_params(given)}
    sheet = read_answers(file)
    if questions is not None:
        sheet = with_questions(sheet, read_answers(questions))
    chosen = choose(sheet, columns or ColumnNames())
    answers = answers_of(sheet, chosen)
    check_writable(output)
    check_data(task, data_dir, given, images_needed=False)
    loaded = LmEvalTask(task, data_dir, given, images_needed=False)
    asked = task_questions(loaded.loaded, settings, only or {})
    joined = join(asked, answers, chosen)
    _check_whole(joined, partial, file)
    if chosen.guessed:
        _check_answers(joined, asked, loaded.loaded, chosen)
    metrics, scores = loaded.score(joined.texts)
    failures = joined.failures()
    about = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "format": sheet.format,
        "columns": chosen.to_json(),
        "joined_by": joined.by,
        "verified": list(joined.verified),
        "only": dict(only or {}),
        "n_answers": len(answers),
        "n_unanswered": len(joined.unanswered),
        "n_null": len(joined.null),
        "n_without_question": len(joined.strangers),
        "n_duplicates": len(joined.duplicates),
    }
    name, by = model or _model_of(sheet, file), method or METHOD
    described = {**loaded.describe(), "params": dict(given), "n_run": len(asked), "n_failed": len(failures)}
    spec = {
        **{"model": name, "method": by, "task": task, "data_dir": str(data_dir) if data_dir else None},
        **{"params": {f"{task}.{key}": value for key, value in given.items()}, "partial": partial},
        **{"generation": {}, "limit": None, "seed": None},
    }
    record = touch(_record(spec, described, about, metrics), "incomplete" if failures else "success")
    rows = _rows(task, asked, joined.texts, failures, scores)
    return Imported(_write(output, record, rows), record, _notes(joined, chosen))


def _check_whole(joined: Joined, partial: bool, file: Path) -> None:
    """Refuse gaps and surplus.

    Raises:
        UsageError: There are some, and `partial` is false; or nothing is left to be scored.
    """
    problems = joined.problems()
    shown = "; ".join(f"{len(found)} {kind}: {_some(found)}" for kind, found in problems.items())
    if not joined.texts:
        raise UsageError(f"{file} holds no answer that can be scored ({shown})", "Check the file and --data-dir.")
    if problems and not partial:
        raise UsageError(
            f"{file}, joined by {joined.by}: {shown}",
            "Mend the file; say with --only COLUMN=VALUE which questions it answers; or add --partial, which counts "
            "questions without one clear answer as failed samples and leaves the other answers out.",
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def _check_answers(joined: Joined, asked: Sequence[Question], task: Any, chosen: Chosen) -> None:
    """See that the column that was taken for the answers holds neither the questions nor the references.

    Raises:
        UsageError: It does.
    """
    words = {question.id: (question.text, question.prompt) for question in asked}
    if all(text in words[id] for id, text in joined.texts.items()):
        raise UsageError(
            f"column {chosen.answer!r} holds the questions, not the answers",
            "Name the answers' column: --answer COLUMN.",
        )
    if chosen.answer != "answer" or len(joined.texts) < _ENOUGH:
        return
    references = {request_id(task, document): str(task.doc_to_target(document)) for document in documents(task)}
    if all(text == references[id] for id, text in joined.texts.items()):
        raise UsageError(
            f"column 'answer' equals the reference in all {len(joined.texts)} rows, so that it seems to hold the "
            "references and not the model's answers",
            "Name the answers' column: --answer COLUMN; --answer answer if it is this one.",
        )


def _model_of(sheet: Sheet, file: Path) -> str:
    """LLaVA's files name the model in every row."""
    named = {row.get("model_id") for row in sheet.rows}
    (only,) = named if len(named) == 1 else (None,)
    return only if isinstance(only, str) and only else file.name.partition(".")[0]


def _record(
    spec: Mapping[str, Any], task: Mapping[str, Any], about: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Record:
    """run.json of the import, without status; everything about how the answers came to be is unknown."""
    deciding = {
        "imported": {key: about[key] for key in ("sha256", "columns", "joined_by", "only")},
        "spec": {key: spec[key] for key in ("model", "method", "params", "partial")},
        "task": {key: task[key] for key in ("name", "version", "fingerprint")},
    }
    record: Record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest(),
        "status": "started",
        "stage": "score",
        "spec": dict(spec),
        "model": {
            **{"name": spec["model"], "id": spec["model"], "revision": "", "fingerprint": ""},
            **{"dtype": None, "device": None, "options": {}, "sink_dims": []},
        },
        "method": {"name": spec["method"], "params": {}, "paper": None, "profile": None},
        "task": dict(task),
        "imported": dict(about),
        "metrics": dict(metrics),
        "efficiency": {},
        "env": environment(),
        "paper": None,
    }
    touched = touch(record, "started")
    return {**touched, "created": touched["updated"]}


def _rows(
    task: str,
    asked: Sequence[Question],
    texts: Mapping[str, str],
    failures: Mapping[str, str],
    scores: Mapping[str, Mapping[str, Any]],
) -> Iterator[Row]:
    """Lines of samples.jsonl; what only an engine knows is null."""
    unknown = ("prompt_hash", "image_hash", "tokens", "prompt_tokens", "visual_tokens", "visual_tokens_kept")
    for question in asked:
        error = failures.get(question.id, "")
        yield {
            "id": question.id,
            "task": task,
            **dict.fromkeys(unknown),
            "text": None if error else texts[question.id],
            **UNSCORED,
            **({} if error else scores[question.id]),
            "finish": "error" if error else None,
            "error": error,
        }


def _write(output: Path, record: Record, rows: Iterator[Row]) -> Path:
    parts = (record["model"]["name"], record["method"]["name"], record["task"]["name"])
    stem = "__".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)
    store = RunStore(output / f"{stem}__{record['run_id'][:8]}")
    with store.locked():
        store.clear()
        store.replace_samples(rows)
        store.write_run(record)
    return store.directory


def _notes(joined: Joined, chosen: Chosen) -> list[str]:
    """How the answers were read and joined, and what was passed over."""
    checked = f"; {' and '.join(joined.verified)} agree" if joined.verified else ""
    notes = [f"Answers from column {chosen.answer}, joined by {joined.by}{checked}."]
    if joined.by in chosen.ids and not joined.verified:
        notes.append(
            "The file says nothing but ids, so that nobody can check that it answers these questions: "
            "--questions FILE names images and questions."
        )
    if joined.broken:
        notes.append(f"{len(joined.broken)} rows of the data are broken and not scored: {_some(list(joined.broken))}.")
    return [*notes, *(f"{len(found)} {kind}: {_some(found)}." for kind, found in joined.problems().items())]
