"""`sinkbench sweep`: many runs from one file."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkbench.cli import options
from sinkbench.cli.failure import resumable

if TYPE_CHECKING:
    from sinkbench.sweep.run import Cell

EXECUTORS = ("local", "ray")


def sweep(
    config: Annotated[
        Path, typer.Argument(help="YAML file: what eval takes, and a grid of parameters.", metavar="CONFIG")
    ],
    model: options.Model = None,
    method: options.Methods = None,
    task: options.Tasks = None,
    assignments: options.Parameters = None,
    limit: options.Limit = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    executor: Annotated[
        str,
        typer.Option(
            "--executor",
            help="local: this process; ray: a worker on each GPU.",
            rich_help_panel=options.WHERE,
            metavar="NAME",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="A running Ray cluster (HOST:PORT or auto). Default: start Ray on this machine.",
            rich_help_panel=options.WHERE,
            metavar="ADDRESS",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Ray workers. Default: one on each GPU, or on each four CPUs without GPUs.",
            rich_help_panel=options.WHERE,
            metavar="N",
        ),
    ] = 0,
    output: options.Output = None,
    data_dir: options.DataDir = None,
    scale: options.Scale = "full",
    fresh: options.Fresh = False,
) -> None:
    """Run models × methods × tasks × parameters; what fails does not stop the rest.

    The same command again goes on where it was broken off: finished runs are reused, finished samples kept.
    """
    from sinkbench.cli.console import quiet_libraries
    from sinkbench.cli.merging import merged
    from sinkbench.cli.sweep_table import SweepTable, show_cells
    from sinkbench.errors import IncompleteError, UsageError, unknown_name
    from sinkbench.sweep.config import cells
    from sinkbench.sweep.run import sweep as run_cells

    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    if executor == "local" and (address or workers):
        raise UsageError("--address and --workers are for Ray", "Add --executor ray.")
    flags = {
        "model": model,
        "method": method,
        "task": task,
        "limit": limit,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "output": output,
        "data_dir": data_dir,
    }
    quiet_libraries()
    specs = cells(merged(config, flags, assignments or [], max_new_tokens, scale))
    with resumable(), ExitStack() as stack:
        pool = None
        if executor == "ray":
            from sinkbench.sweep.ray_workers import ray_workers

            pool = stack.enter_context(ray_workers(workers, address))
        table = stack.enter_context(SweepTable())
        done = run_cells(specs, workers=pool, watch=table, fresh=fresh)
    show_cells(done, specs[0].output)
    lacking = [cell for cell in done if cell.status in ("failed", "incomplete")]
    if lacking:
        raise IncompleteError(_told(lacking), "The same command again does what is left.")


def _told(lacking: "list[Cell]") -> str:
    failed = sum(cell.status == "failed" for cell in lacking)
    parts = (f"{failed} of the cells failed" if failed else "", f"{len(lacking) - failed} lack samples")
    return ", ".join(part for part, n in zip(parts, (failed, len(lacking) - failed), strict=True) if n)
