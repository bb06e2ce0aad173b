"""`sinkbench leaderboard`: compare the runs below a folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkbench.cli import options

if TYPE_CHECKING:
    from rich.table import Table


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder with run directories, at any depth.", metavar="DIR")],
    task: options.Tasks = None,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Method that the others are compared with.", metavar="NAME")
    ] = "greedy",
    cost: Annotated[
        bool, typer.Option("--cost/--no-cost", help="Show times; leave them out where they cannot be compared.")
    ] = True,
    pareto: Annotated[
        str | None,
        typer.Option(
            "--pareto",
            help="Also show which runs no other beats in score and cost: time, macs, kv or tokens.",
            metavar="COST",
        ),
    ] = None,
    retained: Annotated[
        bool, typer.Option("--retained", help="Also show how much of the baseline's scores each method keeps.")
    ] = False,
    claims: Annotated[
        Path | None,
        typer.Option("--claims", help="Also show published figures, from a file of configs/papers.", metavar="FILE"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="Draw score over that cost: a PNG.", metavar="FILE", rich_help_panel="Files"),
    ] = None,
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
    from sinkbench.leaderboard import pareto as fronts
    from sinkbench.leaderboard import table

    _check_cost(pareto, picture)
    tasks = [name.strip() for item in task or [] for name in item.split(",") if name.strip()]
    board = boards.build(folder, baseline=baseline, tasks=tasks)
    if not cost:
        for row in board["rows"]:
            row["cost"] |= {"answers_per_s": None, "relative_time": None}
    console = output_console()
    for rendered in table.rich_tables(board):
        console.print(rendered)
    console.print(f"{table.legend(board)} Bold: best.", style="dim", highlight=False)
    if pareto:
        console.print(
            _table(
                f"Not beaten in score and {pareto}",
                ("task", "model", "method", pareto, "score"),
                fronts.table(board, pareto),
            )
        )
    if retained:
        console.print(_table(f"Retained of {baseline}'s scores", ("model", "method", "%", "tasks"), _retained(board)))
    if claims:
        columns = ("task", "method", "metric", "published", "measured", "difference", "read in")
        console.print(_table("Against published figures", columns, _claimed(board, claims)))
    for run in board["unfinished"]:
        console.print(f"left out, {run['status']}: {run['path']}", style="yellow", highlight=False, markup=False)
    if picture and pareto:
        fronts.draw(board, pareto, picture)
        typer.echo(f"written: {picture}")
    if json_file:
        _write(json_file, json.dumps(board, indent=2, ensure_ascii=False) + "\n")
    if markdown_file:
        _write(markdown_file, table.markdown(board))


def _check_cost(pareto: str | None, picture: Path | None) -> None:
    from sinkbench.errors import UsageError, unknown_name
    from sinkbench.leaderboard.pareto import COSTS

    if pareto is not None and pareto not in COSTS:
        raise unknown_name("cost", pareto, COSTS)
    if picture and not pareto:
        raise UsageError("--picture draws score over a cost, and none is given", "Add for example --pareto macs.")


def _claimed(board: dict[str, Any], file: Path) -> list[tuple[str, ...]]:
    from sinkbench.leaderboard.claims import compare, read_claims

    kinds = {"yes": "the paper", "secondary": "another text", "no": "not verified"}
    lines: list[tuple[str, ...]] = []
    for found in compare(board, read_claims(file)):
        measured, difference = (
            ("not run", "")
            if found.measured is None
            else (f"{found.measured:.3f}", f"{found.measured - found.claimed:+.3f}")
        )
        lines.append(
            (
                found.task,
                found.method,
                found.metric,
                f"{found.claimed:.3f}",
                measured,
                difference,
                kinds[found.verified],
            )
        )
    return lines


def _retained(board: dict[str, Any]) -> list[tuple[str, ...]]:
    from sinkbench.leaderboard.retained import retained

    return [
        (entry["model"], entry["label"], f"{entry['percent']:.1f}", ", ".join(entry["tasks"]))
        for entry in retained(board)
    ]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(escape(column))
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _write(path: Path, text: str) -> None:
    from sinkbench.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "Choose another file.") from error
    typer.echo(f"written: {path}")
