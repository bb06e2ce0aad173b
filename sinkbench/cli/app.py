"""The root of the command tree."""

import platform
from typing import Annotated

import typer

from sinkbench import __version__
from sinkbench.cli import (
    assets,
    bench,
    calibrate,
    compare,
    data,
    doctor,
    evaluate,
    inspect,
    leaderboard,
    listing,
    regress,
    report,
    scenes,
    score,
    sweep,
)

app = typer.Typer(
    name="sinkbench",
    help="Compare training-free interventions on vision-language models: model x method x task.",
    epilog="Start here: sinkbench eval --model tiny-llava --method var --task scenes_pope",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("eval")(evaluate.evaluate)
app.command("sweep")(sweep.sweep)
app.add_typer(listing.app, name="list")
app.command("calibrate")(calibrate.calibrate)
app.command("score")(score.score)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("compare")(compare.compare)
app.command("regress")(regress.regress)
app.command("report")(report.report)
app.add_typer(inspect.app, name="inspect")
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(scenes.app, name="scenes")
app.add_typer(assets.app, name="assets")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sinkbench {__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before every command."""
