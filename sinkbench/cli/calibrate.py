"""`sinkbench calibrate`: measure on a model what a method needs to know of it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkbench.cli import options

if TYPE_CHECKING:
    from sinkbench.calibration.artefact import Calibration
    from sinkbench.calibration.base import Progress
    from sinkbench.calibration.run import Outcome, Settings

TASK_HELP = "Whose questions to learn from, never those it evaluates: Scenes are rendered anew."


def calibrate(
    method: Annotated[
        str,
        typer.Argument(metavar="METHOD", help="`sinkbench list methods` says which need it, and shows one's settings."),
    ],
    model: options.Model = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help=TASK_HELP, rich_help_panel=options.WHAT, metavar="NAME")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of the calibration, or a parameter of the method; repeatable.",
            rich_help_panel=options.WHAT,
            metavar="METHOD.NAME=VALUE",
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", min=1, help="Scenes to render.", rich_help_panel=options.WHAT, metavar="N")
    ] = 40,
    seed: Annotated[
        int,
        typer.Option("--seed", help="Decides the scenes and all draws.", rich_help_panel=options.WHAT, metavar="S"),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-L",
            min=1,
            help="Learn from the first N questions only.",
            rich_help_panel=options.WHAT,
            metavar="N",
        ),
    ] = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            min=1,
            help="Most samples a batch. Default: automatic.",
            rich_help_panel=options.WHERE,
            metavar="N",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            help="Folder with data to learn from, instead of rendering.",
            rich_help_panel=options.FILES,
            metavar="DIR",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write. Default: where runs of this user look for it.",
            rich_help_panel=options.FILES,
            metavar="FILE",
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw the evidence.", rich_help_panel=options.FILES)
    ] = True,
) -> None:
    """Measure on a model what a method needs to know of it, and keep it for `sinkbench eval`.

    What is found is written with the model's fingerprint, the data, the settings and the code behind it. The questions
    that a task evaluates are refused, here and when a run would ask what was learned from.
    """
    from sinkbench.cli.console import message_console, quiet_libraries

    quiet_libraries()
    from sinkbench.calibration.registry import calibrator_class
    from sinkbench.cli.assignments import parse_assignments
    from sinkbench.errors import UsageError

    calibrator_class(method)
    if model is None:
        raise UsageError("no model is given", "Add --model NAME; `sinkbench list models` shows them all.")
    from sinkbench.calibration.run import Settings, calibrate

    settings = Settings(
        method=method,
        model=model,
        task=task,
        params=parse_assignments(assignments or []),
        n=n,
        seed=seed,
        data_dir=data_dir,
        limit=limit,
        output=output,
        pictures=pictures,
        device=device or "auto",
        dtype=dtype or "auto",
        batch_size=batch_size or "auto",
    )
    console = message_console()
    with _bar() as progress:
        outcome = calibrate(settings, lambda line: console.print(line, highlight=False, markup=False), progress)
    _show(outcome, settings)


@contextmanager
def _bar() -> "Iterator[Progress]":
    """A bar on a terminal, a line now and then in a log."""
    import time

    from rich.progress import Progress as Bar

    from sinkbench.cli.console import message_console
    from sinkbench.cli.progress import LOG_INTERVAL

    console = message_console()
    last = time.monotonic()
    with Bar(console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("Calibrating", total=None)

        def progress(done: int, total: int) -> None:
            nonlocal last
            bar.update(row, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last >= LOG_INTERVAL:
                last = time.monotonic()
                console.print(f"{done}/{total} done", highlight=False)

        yield progress


def _show(outcome: "Outcome", settings: "Settings") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sinkbench.cli.console import output_console

    console, calibration = output_console(), outcome.calibration
    if outcome.table:
        header, *rows = outcome.table
        title = f"{calibration.method} on {calibration.model['name']}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for column in header:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    lines = [f"{name}: {value}" for name, value in calibration.params.items()]
    lines.append(f"Written to {outcome.file}" + (f", drawn in {outcome.picture.name}." if outcome.picture else "."))
    lines.append(f"Next: {shlex.join(_next(calibration, settings))}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _next(calibration: "Calibration", settings: "Settings") -> list[str]:
    """A command that uses it, beside the method for whose scores it is, as that was."""
    from sinkbench.cli.method_tables import as_typed

    method, scoring = calibration.method, calibration.scoring
    command = ["sinkbench", "eval", "--model", settings.model]
    command += ["--method", f"{scoring}+{method}" if scoring else method, "--task", settings.task or "scenes_pope"]
    if settings.output is not None:
        command += ["--set", f"{method}.calibration={settings.output}"]
    for key, value in settings.params.items():
        if scoring and key.startswith(f"{scoring}."):
            command += ["--set", f"{key}={as_typed(value)}"]
    return command
