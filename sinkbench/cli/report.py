"""`sinkbench report`: the runs below a folder as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from sinkbench.cli import options

_LARGE = 20 * 2**20
"""Bytes from which on a page is slow to open and to send."""


def report(
    folder: Annotated[Path, typer.Argument(help="Folder with run directories, at any depth.", metavar="DIR")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file to write.", metavar="FILE", rich_help_panel=options.FILES)
    ] = Path("report.html"),
    task: options.Tasks = None,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Method that the others are compared with.", metavar="NAME")
    ] = "greedy",
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=0, help="Most samples of a task and model; those that methods answer unlike come first."
        ),
    ] = 60,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Embed the samples' images.")] = True,
    attention: Annotated[
        list[Path] | None,
        typer.Option(
            "--attention",
            help="Folder that `sinkbench inspect sample -M ...` wrote, at any depth; repeatable.",
            metavar="DIR",
            rich_help_panel=options.FILES,
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Of the page.")] = "sinkbench report",
) -> None:
    """Write one HTML file with the board, its plots and a sample browser; it needs no network."""
    from sinkbench.leaderboard.report import page
    from sinkbench.leaderboard.report.data import Settings, collect

    tasks = tuple(name.strip() for item in task or [] for name in item.split(",") if name.strip())
    page.check_target(output)
    found = collect(Settings(folder, baseline, tasks, samples, images, tuple(attention or ()), title))
    size = page.write(page.render(found), output)
    for reason in found.missing.values():
        typer.echo(f"no image: {reason}", err=True)
    if found.unmatched:
        typer.echo(f"--attention: no run has the sample of {found.unmatched} of the views", err=True)
    shown = sum(len(group["items"]) for group in found.groups)
    typer.echo(
        f"written: {output}, {_megabytes(size)}: {len(found.board['rows'])} runs, {shown} samples, "
        f"{len(found.images)} pictures."
    )
    if size > _LARGE:
        typer.echo("It is large: fewer --samples, or --no-images, make it smaller.", err=True)
    typer.echo(f"Open it in a browser: {output.absolute().as_uri()}")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{max(size // 1024, 1)} kB"
