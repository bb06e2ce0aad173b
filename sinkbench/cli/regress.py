"""`sinkbench regress`: run what a baseline names, and fail if a score moved beyond what pairing allows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkbench.cli import options
from sinkbench.cli.compare import FLIPS, Alpha, Flips, JsonFile, MaxFlips, check_shares, summary, write_json
from sinkbench.cli.failure import resumable

if TYPE_CHECKING:
    from sinkbench.regression.pairing import Pairing

OUTPUT = Path("runs/regress")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""Names the file that GitHub Actions shows on a job's page."""

CHECK = "Check against a baseline"
WRITE = "Write a baseline"


def regress(
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Run what this file names and compare.", metavar="FILE", rich_help_panel=CHECK),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            help="Run what --config and the options below say, and write it here; .gz compresses.",
            metavar="FILE",
            rich_help_panel=WRITE,
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", help="Take the runs of this folder instead of running anything.", metavar="DIR"),
    ] = None,
    alpha: Alpha = 0.05,
    max_flips: MaxFlips = None,
    flips: Flips = FLIPS,
    allow_dirty: Annotated[
        bool,
        typer.Option("--allow-dirty", help="Write also where the source differs from git.", rich_help_panel=WRITE),
    ] = False,
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
    config: options.Config = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the runs, one below it a commit.", metavar="DIR", rich_help_panel="Files"
        ),
    ] = OUTPUT,
    data_dir: options.DataDir = None,
    fresh: options.Fresh = False,
    json_file: JsonFile = None,
) -> None:
    """Run again what a baseline file names, and compare sample by sample; exit with 4 if a score moved.

    A broken-off check goes on where it was, but only on the same clean commit with the same package versions.
    """
    from sinkbench.cli.console import quiet_libraries
    from sinkbench.errors import UsageError

    if (baseline is None) == (write is None):
        raise UsageError(
            "give either --baseline FILE, to check, or --write FILE, to make one",
            "For example: sinkbench regress --write base.json.gz -m tiny-llava -M greedy,var -t scenes_pope -L 90",
        )
    quiet_libraries()
    given = {
        **{"model": model, "method": method, "task": task, "limit": limit, "seed": seed, "dtype": dtype},
        **{"device": device, "data_dir": data_dir},
        "batch_size": batch_size,
    }
    if write is not None:
        _write(write, runs, config, given, assignments or [], max_new_tokens, output, fresh, allow_dirty)
        return
    assert baseline is not None
    check_shares(alpha, max_flips)
    _refuse_settings({**given, "data_dir": None}, config=config, set=assignments, max_new_tokens=max_new_tokens)
    pairing, reasons, folder = _runs_for(baseline, runs, output, data_dir, fresh)
    _report(baseline, folder, pairing, reasons, alpha, max_flips, flips, json_file)


def _write(
    write: Path,
    runs: Path | None,
    config: Path | None,
    given: dict[str, Any],
    assignments: list[str],
    max_new_tokens: int | None,
    output: Path,
    fresh: bool,
    allow_dirty: bool,
) -> None:
    from sinkbench import runner
    from sinkbench.cli.merging import merged
    from sinkbench.cli.progress import ConsoleReporter
    from sinkbench.environment import git_state
    from sinkbench.regression.baseline import check_clean, write_baseline
    from sinkbench.regression.cell import read_side, side_of_runs
    from sinkbench.regression.rerun import place
    from sinkbench.spec import expand

    if runs is not None:
        _refuse_settings(given, config=config, set=assignments, max_new_tokens=max_new_tokens)
        side = read_side(runs)
    else:
        if not allow_dirty:
            check_clean(git_state()[1], str(write))
        settings = merged(config, given, assignments, max_new_tokens)
        folder, forget = place(output)
        # Not where a check looks: it would find these runs finished, and compare them with themselves.
        folder = folder.with_name(f"{folder.name}-baseline")
        specs = expand({**settings, "output": folder})
        with resumable(), ConsoleReporter() as reporter:
            outcomes = runner.run(specs, reporter=reporter, fresh=fresh or forget)
        side = side_of_runs(str(folder), [(outcome.directory, outcome.record) for outcome in outcomes])
    size = write_baseline(write, side, allow_dirty=allow_dirty)
    n_samples = sum(len(cell.samples) for cell in side.cells)
    typer.echo(f"written: {write} ({len(side.cells)} runs, {n_samples} samples, {size / 1024:.0f} KiB)")
    typer.echo(f"Next: sinkbench regress --baseline {write}")


def _runs_for(
    baseline: Path, runs: Path | None, output: Path, data_dir: Path | None, fresh: bool
) -> tuple["Pairing", dict[str, str], Path]:
    """The baseline's runs with those to compare, why others are missing, and where the runs lie."""
    from sinkbench.cli.progress import ConsoleReporter
    from sinkbench.regression.baseline import read_baseline
    from sinkbench.regression.cell import read_side
    from sinkbench.regression.pairing import pair
    from sinkbench.regression.rerun import place, rerun

    cells = read_baseline(baseline)
    if runs is not None:
        side = read_side(runs)
        pairing = pair(cells, side.cells)
        unfinished = dict(side.unfinished)
        missing = {
            cell.record["run_id"]: f"unfinished: {unfinished[cell.title]}"
            for cell in pairing.only_first
            if cell.title in unfinished
        }
        return pairing, missing, runs
    folder, forget = place(output)
    with resumable(), ConsoleReporter() as reporter:
        pairing, reasons = rerun(cells, folder, data_dir=data_dir, fresh=fresh or forget, reporter=reporter)
    return pairing, reasons, folder


def _report(
    baseline: Path,
    folder: Path,
    pairing: "Pairing",
    reasons: dict[str, str],
    alpha: float,
    max_flips: float | None,
    flips: int,
    json_file: Path | None,
) -> None:
    """Show the comparison, write it where it is wanted, and fail if something moved."""
    import os

    from sinkbench.cli.comparison_tables import markdown, show
    from sinkbench.cli.console import output_console
    from sinkbench.errors import RegressionError
    from sinkbench.regression.verdict import compare_runs, failures, only_better

    comparison = compare_runs(
        pairing,
        sources=(str(baseline), str(folder)),
        names=("the baseline", "this run"),
        alpha=alpha,
        max_flips=max_flips,
        reasons=reasons,
    )
    show(output_console(), comparison, flips=flips, metrics=False)
    found = failures(comparison)
    if json_file:
        write_json(json_file, comparison)
    if page := os.environ.get(STEP_SUMMARY):
        with open(page, "a", encoding="utf-8") as file:
            file.write(markdown(comparison, found, flips))
    if not found:
        same = all(cell["verdict"] == "identical" for cell in comparison["cells"])
        typer.echo("All answers are identical." if same else "No score moved beyond what pairing allows.")
        return
    again = f"sinkbench regress --write {baseline} --runs {folder}"
    if only_better(comparison):
        raise RegressionError(summary(found), f"An improvement. If it is intended, make it the baseline: {again}")
    raise RegressionError(
        summary(found), f"The flipped samples are above; --json FILE keeps all. If the change is intended: {again}"
    )


def _refuse_settings(given: dict[str, Any], **others: Any) -> None:
    """What runs is said already, by the baseline or by --runs.

    Raises:
        UsageError: Something else says it too.
    """
    from sinkbench.errors import UsageError

    named = [name for name, value in {**given, **others}.items() if value not in (None, [])]
    if named:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        raise UsageError(
            f"{options}: the baseline, or --runs, already says what runs",
            "Leave it out; with --write FILE, and without --runs, such options say what the new baseline holds.",
        )
