"""`sinkbench data`: what tasks and scorers need on this machine, and on machines without a network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkbench.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinkbench.tasks.checkup import Checkup

app = typer.Typer(
    help="Data of tasks and scorers: check them, export them for an offline machine.", no_args_is_help=True
)

SHOWN = 20
"""Broken rows and missing images that are named; the others are counted."""

Task = Annotated[str, typer.Argument(help="Task name; `sinkbench list tasks` shows them.", metavar="TASK")]
Parameters = Annotated[
    list[str] | None, typer.Option("--set", help="A parameter of the task, repeatable.", metavar="TASK.PARAM=VALUE")
]


@app.command()
def check(
    task: Task,
    data_dir: options.DataDir = None,
    assignments: Parameters = None,
    images: Annotated[bool, typer.Option("--images", help="Decode every image, too.")] = False,
) -> None:
    """Say what there is of a task's data, what is missing, and which rows are broken. Nothing is downloaded."""
    from rich.progress import Progress

    from sinkbench.cli.assignments import task_params
    from sinkbench.cli.console import message_console, quiet_libraries
    from sinkbench.errors import UsageError
    from sinkbench.tasks.checkup import check_up

    quiet_libraries()
    console = message_console()
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        row = bar.add_task("Looking at rows")
        found = check_up(
            task,
            data_dir,
            task_params(task, assignments or []),
            decode=images,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
        )
    for line in _described(found):
        typer.echo(line)
    if not found.is_whole:
        raise UsageError(f"the data of {task} are not whole: {_summary(found)}", _advice(found))


@app.command()
def export(
    task: Task,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; empty or absent.", metavar="DIR")],
    assignments: Parameters = None,
) -> None:
    """Write a task's data from the hub or its cache into a folder that `--data-dir` takes on an offline machine.

    The same command again takes up an export that was broken off.
    """
    from sinkbench.cli.assignments import task_params
    from sinkbench.cli.console import message_console, quiet_libraries
    from sinkbench.tasks.export import MANIFEST, export_data

    quiet_libraries()
    console = message_console()
    done = export_data(
        task,
        out,
        task_params(task, assignments or []),
        say=lambda line: console.print(f"copying {line}", highlight=False, soft_wrap=True),
    )
    held = done.manifest
    state = "written" if done.n_copied else "was whole already"
    typer.echo(f"{held['n_rows']} rows of {held['hub']} at {held['revision']} in {out} ({state}; {MANIFEST}).")
    typer.echo(f"Copy the folder, then: sinkbench eval -m MODEL -t {task} --data-dir DIR")


@app.command()
def nltk(
    source: Annotated[
        Path | None,
        typer.Option("--from", help="An archive (tar or zip) of NLTK's data instead of the network.", metavar="FILE"),
    ] = None,
) -> None:
    """Fetch what the nltk lemmatizer needs (tokenizer, tagger, WordNet), and print the folder that holds it."""
    from sinkbench.language_data import fetch_nltk

    typer.echo(fetch_nltk(source))


def _described(found: "Checkup") -> list[str]:
    """The report, line by line."""
    lines = [f"folder: {found.place}"]
    for name, rows, size in found.files[:SHOWN]:
        lines.append(f"file: {name}, {f'{rows} rows, ' if rows is not None else ''}{size / 1e6:.1f} MB")
    if len(found.files) > SHOWN:
        lines.append(f"file: and {len(found.files) - SHOWN} more")
    if found.fingerprint:
        lines.append(f"rows: {found.n_rows}")
    for column, counts in found.values.items():
        lines.append(f"{column}: {', '.join(f'{value} {n}' for value, n in counts.items())}")
    if found.n_images:
        there = found.n_images - len(found.missing)
        decoded = f", {there - len(found.undecodable)} decoded" if found.decoded else ""
        lines.append(f"images: {there} of {found.n_images} are there{decoded}")
    lines += _named("error", found.errors)
    lines += _named("broken row", [f"{id}: {reason}" for id, reason in found.broken.items()])
    lines += _named("missing image", found.missing)
    lines += _named("undecodable image", [f"{name}: {flaw}" for name, flaw in found.undecodable.items()])
    return [*lines, f"fingerprint: {found.fingerprint}"] if found.fingerprint else lines


def _named(kind: str, items: "Sequence[str]") -> list[str]:
    more = len(items) - SHOWN
    return [f"{kind}: {item}" for item in items[:SHOWN]] + ([f"{kind}: and {more} more"] if more > 0 else [])


def _summary(found: "Checkup") -> str:
    counts = {
        "errors": found.errors,
        "broken rows": found.broken,
        "missing images": found.missing,
        "undecodable images": found.undecodable,
    }
    return ", ".join(f"{len(items)} {kind}" for kind, items in counts.items() if items)


def _advice(found: "Checkup") -> str:
    if found.errors:
        return "Mend what the report names, or get the data anew: sinkbench data export TASK --out DIR"
    if found.missing and len(found.missing) == found.n_images:
        return "A run refuses a folder without any of its images: put them into it, or into images/ within it."
    return "A run counts these samples as failed and goes on; put the files into the folder to have them answered."
