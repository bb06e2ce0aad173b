"""`sinkbench leaderboard`: compare the runs below a folder."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkbench.cli import options
from sinkbench.cli.options import FILES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sinkbench.leaderboard.claims import Comparison


def leaderboard(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with run directories, at any depth; or a board that --json wrote.", metavar="DIR|BOARD.json"
        ),
    ],
    task: options.Tasks = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Method that the others are compared with. Default: greedy.", metavar="NAME"),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="scores, cost (time, memory, image tokens) or all. Default: scores, all in a wide terminal.",
            metavar="KIND",
        ),
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="Also show means over tasks, each method on the same tasks.")
    ] = False,
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
        typer.Option("--picture", help="Draw score over that cost: a PNG.", metavar="FILE", rich_help_panel=FILES),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write the board as JSON, compressed for NAME.gz.", metavar="FILE", rich_help_panel=FILES
        ),
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write it as Markdown.", metavar="FILE", rich_help_panel=FILES)
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write every metric as CSV.", metavar="FILE", rich_help_panel=FILES),
    ] = None,
    latex_file: Annotated[
        Path | None,
        typer.Option("--latex", help="Write tables for LaTeX (booktabs).", metavar="FILE", rich_help_panel=FILES),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Put 95 % intervals into the LaTeX tables.", rich_help_panel=FILES)
    ] = False,
) -> None:
    """Show every method's score, its paired difference from the baseline, and what it costs."""
    from sinkbench.cli.console import output_console
    from sinkbench.leaderboard import files, table
    from sinkbench.leaderboard import pareto as fronts
    from sinkbench.leaderboard.csv_file import to_csv
    from sinkbench.leaderboard.latex import to_latex

    _check_cost(pareto, picture)
    console = output_console()
    kind = _kind(columns, console.width)
    board = _board(source, [name.strip() for item in task or [] for name in item.split(",") if name.strip()], baseline)
    if not cost:
        for row in board["rows"]:
            row["cost"] |= {"answers_per_s": None, "relative_time": None}
    for rendered in [*table.rich_tables(board, kind), *(table.rich_averages(board) if average else ())]:
        console.print(rendered)
    for line in table.left_out(board) if average else ():
        console.print(line, style="yellow", highlight=False, markup=False)
    if average and not board.get("averages"):
        console.print("No mean: a model needs the baseline on two tasks or more.", style="yellow", highlight=False)
    console.print(f"{table.legend(board, kind, averages=average)} Bold: best.", style="dim", highlight=False)
    if pareto:
        console.print(
            _table(
                f"Not beaten in score and {pareto}",
                ("task", "model", "method", pareto, "score"),
                fronts.table(board, pareto),
            )
        )
    if retained:
        title = f"Retained of {board['baseline']}'s scores"
        console.print(_table(title, ("model", "method", "%", "tasks"), _retained(board)))
    if claims:
        _show_claims(console, board, claims)
    for run in board["unfinished"]:
        console.print(f"left out, {run['status']}: {run['path']}", style="yellow", highlight=False, markup=False)
    if picture and pareto:
        fronts.draw(board, pareto, picture)
        typer.echo(f"written: {picture}")
    if json_file:
        files.write_board(board, json_file)
    texts: dict[Path | None, Callable[[], str]] = {
        markdown_file: lambda: table.markdown(board, columns or "scores", averages=average),
        csv_file: lambda: to_csv(board),
        latex_file: lambda: to_latex(board, intervals=intervals),
    }
    for file, text in texts.items():
        if file:
            files.write_text(file, text())
    for written in (json_file, *texts):
        if written:
            typer.echo(f"written: {written}")


def _kind(columns: str | None, width: int) -> str:
    from sinkbench.errors import unknown_name
    from sinkbench.leaderboard.table import KINDS, WIDE

    if columns is not None and columns not in KINDS:
        raise unknown_name("kind of columns", columns, KINDS)
    return columns or ("all" if width >= WIDE else "scores")


def _board(source: Path, tasks: Sequence[str], baseline: str | None) -> dict[str, Any]:
    """Of a folder of runs, or a written one."""
    from sinkbench.errors import UsageError, unknown_name
    from sinkbench.leaderboard import board as boards
    from sinkbench.leaderboard.files import read_board

    if not source.is_file():
        return boards.build(source, baseline=baseline or "greedy", tasks=tasks)
    board = read_board(source)
    if baseline not in (None, board["baseline"]):
        raise UsageError(
            f"{source} compares with {board['baseline']}, not with {baseline}",
            "Differences need the answers: give the folder of the runs.",
        )
    known = {row["task"] for row in board["rows"]}
    for task in tasks:
        if task not in known:
            raise unknown_name("run of task", task, known)
    if tasks:
        board["rows"] = [row for row in board["rows"] if row["task"] in tasks]
        board["averages"] = [entry for entry in board.get("averages", ()) if entry["metrics"].keys() <= {*tasks}]
    return board


def _check_cost(pareto: str | None, picture: Path | None) -> None:
    from sinkbench.errors import UsageError, unknown_name
    from sinkbench.leaderboard.pareto import COSTS

    if pareto is not None and pareto not in COSTS:
        raise unknown_name("cost", pareto, COSTS)
    if picture and not pareto:
        raise UsageError("--picture draws score over a cost, and none is given", "Add for example --pareto macs.")


def _show_claims(console: "Console", board: dict[str, Any], file: Path) -> None:
    """Published figures and measured ones, a table for each source."""
    from itertools import groupby

    from sinkbench.leaderboard.claims import compare, read_claims

    kinds = {"yes": "read in the paper", "secondary": "quoted by another text", "no": "not verified"}
    titles = ("task", "metric", "method", "paper", "measured", "difference", "Δ paper", "Δ measured", "verdict")
    tables, stands_for = read_claims(file)
    comparisons = compare(board, tables, stands_for)
    for (source, verified), found in groupby(comparisons, key=lambda each: (each.source, each.verified)):
        title = f"Against published figures: {source} ({kinds[verified]})"
        lines = [_claim(each) for each in found]
        # Where only another model ran nothing is measured that could be compared.
        used = [index for index in range(len(titles)) if any(line[index] for line in lines)]
        shown = [[line[index] for index in used] for line in lines]
        console.print(_table(title, [titles[index] for index in used], shown))
    if any(each.tolerance for each in comparisons):
        console.print(
            "±: tolerance, as the claims have it, else half the measured value's 95 % interval: what another draw of "
            "as many questions explains.",
            style="dim",
            highlight=False,
        )
    if any(each.other_model for each in comparisons):
        console.print(
            "Another model: only the direction of a difference can be compared, so that there is no verdict.",
            style="dim",
            highlight=False,
        )


def _claim(each: "Comparison") -> tuple[str, ...]:
    difference = None if each.measured is None else each.measured - each.claimed
    tolerance = "" if each.tolerance is None else f" ±{each.tolerance:.3f}"
    return (
        each.task if each.other_task in (None, each.task) else f"{each.task} → {each.other_task}",
        each.metric,
        each.method,
        f"{each.claimed:.3f}",
        "" if each.measured is None else f"{each.measured:.3f}",
        _signed(difference) + tolerance,
        _signed(each.claimed_delta),
        _signed(each.measured_delta),
        each.verdict,
    )


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


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
