"""`sinkbench score`: answers that were made elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from sinkbench.cli import options

JOIN = "How answers find their questions"


def score(
    task: Annotated[str, typer.Argument(help="Task whose questions were answered.", metavar="TASK")],
    answers: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, JSON, TSV, CSV or Excel; LLaVA's, VLMEvalKit's, lm-eval's and lmms-eval's files.",
            metavar="ANSWERS",
        ),
    ],
    data_dir: options.DataDir = None,
    output: options.Output = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="What answered. Default: as the file says.", metavar="NAME")
    ] = None,
    method_name: Annotated[
        str | None, typer.Option("--method-name", help="With which method. Default: imported.", metavar="NAME")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of the task, repeatable.", metavar="TASK.PARAM=VALUE"),
    ] = None,
    question_id: Annotated[
        str | None,
        typer.Option(
            "--question-id", help="Column of the question's id; '' for none.", metavar="COLUMN", rich_help_panel=JOIN
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", help="Column of the image's name; '' for none.", metavar="COLUMN", rich_help_panel=JOIN
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text", help="Column of the question or prompt; '' for none.", metavar="COLUMN", rich_help_panel=JOIN
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", help="Column of the answer.", metavar="COLUMN", rich_help_panel=JOIN)
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help="The question file that was asked, where the answers hold nothing but its ids.",
            metavar="FILE",
            rich_help_panel=JOIN,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="The questions that were asked, where not all were; repeatable.",
            metavar="COLUMN=VALUE",
            rich_help_panel=JOIN,
        ),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Score what can be scored; the rest is counted.", rich_help_panel=JOIN),
    ] = False,
) -> None:
    """Score a file of answers by a task's own rules.

    Writes a run directory that `sinkbench leaderboard` shows beside measured runs, marked as imported. Answers find
    their questions by id where ids are unique, else by image and question; never by their position.
    """
    from sinkbench.cli.assignments import task_params
    from sinkbench.cli.console import message_console, quiet_libraries
    from sinkbench.cli.tables import show_outcomes
    from sinkbench.importing import ColumnNames, import_answers
    from sinkbench.runner import Outcome

    quiet_libraries()
    imported = import_answers(
        task,
        answers,
        output=output or Path("runs"),
        data_dir=data_dir,
        params=task_params(task, assignments or []),
        model=model_name,
        method=method_name,
        columns=ColumnNames(question_id, image, text, answer),
        questions=questions,
        only=_only(only or []),
        partial=partial,
    )
    for note in imported.notes:
        message_console().print(note, highlight=False, markup=False, soft_wrap=True)
    show_outcomes([Outcome(imported.directory, imported.record)])


def _only(given: list[str]) -> dict[str, str]:
    from sinkbench.errors import UsageError

    values = {}
    for condition in given:
        column, equals, value = condition.partition("=")
        if not (column and equals):
            raise UsageError(
                f"--only {condition!r} is not of the form COLUMN=VALUE", "For example: --only category=random"
            )
        values[column.strip()] = value.strip()
    return values
