"""`sinkbench leaderboard`: compare the runs below a folder."""

from pathlib import Path
from typing import Annotated

import typer

from sinkbench.cli import options


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder with run directories, at any depth.", metavar="DIR")],
    task: options.Tasks = None,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Method that the others are compared with.", metavar="NAME")
    ] = "greedy",
    cost: Annotated[
        bool, typer.Option("--cost/--no-cost", help="Show times; leave them out where they cannot be compared.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the board as JSON.", metavar="FILE", rich_help_panel="Files")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write it as Markdown.", metavar="FILE", rich_help_panel="Files")
    ] = None,
) -> None:
    """Show every method's score, its paired difference from the baseline, and what it costs."""
    import json

    from sinkbench.cli.console import output_console
    from sinkbench.leaderboard import board as boards
    from sinkbench.leaderboard import table

    tasks = [name.strip() for item in task or [] for name in item.split(",") if name.strip()]
    board = boards.build(folder, baseline=baseline, tasks=tasks)
    if not cost:
        for row in board["rows"]:
            row["cost"] = dict.fromkeys(row["cost"])
    console = output_console()
    for rendered in table.rich_tables(board):
        console.print(rendered)
    console.print(f"{table.LEGEND} Bold: best.", style="dim", highlight=False)
    for run in board["unfinished"]:
        console.print(f"left out, {run['status']}: {run['path']}", style="yellow", highlight=False, markup=False)
    if json_file:
        _write(json_file, json.dumps(board, indent=2, ensure_ascii=False) + "\n")
    if markdown_file:
        _write(markdown_file, table.markdown(board))


def _write(path: Path, text: str) -> None:
    from sinkbench.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "Choose another file.") from error
    typer.echo(f"written: {path}")
