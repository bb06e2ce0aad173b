"""`sinkbench compare`: two runs, or two sets of runs, sample by sample."""

from pathlib import Path
from typing import Annotated, Any

import typer

FLIPS = 10
"""Flipped samples printed for each pair of runs."""

Flips = Annotated[
    int, typer.Option("--flips", min=0, help="Flipped samples to print for each pair of runs.", metavar="N")
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write the comparison as JSON, with every flipped sample.",
        metavar="FILE",
        rich_help_panel="Files",
    ),
]
Alpha = Annotated[
    float, typer.Option("--alpha", help="Level of the two-sided tests, over all pairs together.", metavar="A")
]
MaxFlips = Annotated[
    float | None,
    typer.Option(
        "--max-flips",
        help="Largest share (0 to 1) of a run's samples whose score may change either way.",
        metavar="SHARE",
    ),
]


def compare(
    first: Annotated[Path, typer.Argument(help="A run directory, a folder of runs, or a baseline.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="What is compared with it.", metavar="B")],
    flips: Flips = FLIPS,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Show every metric also where several pairs are compared.")
    ] = False,
    fail_if: Annotated[
        str | None,
        typer.Option(
            "--fail-if",
            help="different or worse: exit with 4 if B is, by the rule of `sinkbench regress`.",
            metavar="WHAT",
        ),
    ] = None,
    alpha: Alpha = 0.05,
    max_flips: MaxFlips = None,
    json_file: JsonFile = None,
) -> None:
    """Compare runs sample by sample: metrics with paired intervals and tests, and the samples that flipped.

    Two run directories are compared whatever made them, if they ask the same. Folders and baselines are paired by
    model, method, parameters and task.
    """
    from sinkbench.cli.comparison_tables import show
    from sinkbench.cli.console import output_console
    from sinkbench.errors import RegressionError, unknown_name
    from sinkbench.regression.cell import read_side
    from sinkbench.regression.pairing import pair_any
    from sinkbench.regression.verdict import compare_runs, failures

    if fail_if not in (None, "different", "worse"):
        raise unknown_name("value of --fail-if", fail_if, ("different", "worse"))
    check_shares(alpha, max_flips)
    sides = read_side(first), read_side(second)
    comparison = compare_runs(
        pair_any(sides[0].cells, sides[1].cells),
        sources=(str(first), str(second)),
        alpha=alpha,
        max_flips=max_flips,
    )
    _check_paired(comparison["cells"])
    console = output_console()
    show(console, comparison, flips=flips, metrics=metrics or len(comparison["cells"]) == 1)
    for name, side in zip("AB", sides, strict=True):
        for title, status in side.unfinished:
            console.print(f"{name}: left out, {status}: {title}", style="yellow", highlight=False, markup=False)
    if json_file:
        write_json(json_file, comparison)
    if fail_if and (found := failures(comparison, worse_only=fail_if == "worse")):
        raise RegressionError(summary(found), "Without --fail-if the same is only shown.")


def check_shares(alpha: float, max_flips: float | None) -> None:
    """Refuse what is no level and no share.

    Raises:
        UsageError: `alpha` is not between 0 and 1, or `max_flips` is.
    """
    from sinkbench.errors import UsageError

    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha} is no level of a test", "Give a number between 0 and 1, such as 0.05.")
    if max_flips is not None and not 0 <= max_flips <= 1:
        raise UsageError(f"--max-flips {max_flips} is no share", "Give a number from 0 to 1: 0.05 is 5 %.")


def write_json(path: Path, document: object) -> None:
    """Write a JSON file and say so.

    Raises:
        UsageError: It cannot be written.
    """
    import json

    from sinkbench.leaderboard.files import write_text

    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    typer.echo(f"written: {path}")


def summary(found: list[str], shown: int = 6) -> str:
    """The first findings, a line each, and how many more there are."""
    more = [f"and {len(found) - shown} more"] if len(found) > shown else []
    return "\n".join([*found[:shown], *more])


def _check_paired(cells: list[dict[str, Any]]) -> None:
    from sinkbench.errors import UsageError

    if not any(cell["n_pairs"] for cell in cells):
        why = "; ".join(problem for problem in cells[0]["problems"][:3])
        raise UsageError(f"A and B have no sample that could be paired: {why}", "Give runs that ask the same.")
