"""`sinkbench list`: what there is to choose from."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sinkbench.tasks import TaskInfo

app = typer.Typer(help="Show the models, methods and tasks by name.", no_args_is_help=True)


@app.command()
def models() -> None:
    """Model presets, and whether their weights are on this machine."""
    from sinkbench.adapters import model_names, resolve_model
    from sinkbench.cli.offline import model_is_here

    rows = []
    for name in model_names():
        preset = resolve_model(name)
        rows.append((name, preset.family, preset.path, "yes" if model_is_here(preset) else "no"))
    _show("Models", ("name", "family", "weights", "on this machine"), rows)
    typer.echo("A local folder, a GGUF file or a hub id works in their place: --model DIR")


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show this one in full: paper, parameters, profiles, values by model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that is known as JSON.")] = False,
) -> None:
    """Methods: what they do and touch, what they cost, and the paper they come from."""
    from sinkbench.calibration.registry import calibrator_class, calibrator_names
    from sinkbench.cli.console import output_console
    from sinkbench.cli.method_tables import show_method, show_methods, show_settings
    from sinkbench.methods import method_names
    from sinkbench.methods.describe import describe, in_order, parameters

    known = [describe(name)] if name else in_order(method_names())
    if as_json:
        described = [method.json() for method in known]
        typer.echo(json.dumps(described[0] if name else described, indent=2, ensure_ascii=False))
    elif name:
        show_method(known[0], output_console())
        if name in calibrator_names():
            show_settings(name, parameters(calibrator_class(name)), output_console())
    else:
        show_methods(known, output_console())


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="Show this one in full: data, parameters, metrics.")] = None,
) -> None:
    """Tasks, what they ask, and where their data come from."""
    from sinkbench.cli.offline import task_is_here
    from sinkbench.tasks import task_groups, task_info, task_names

    if name and name not in task_groups():
        return _show_task(name)
    shown = task_groups()[name] if name else task_names()
    rows = [(each, *_about(task_info(each)), "yes" if task_is_here(each) else "no") for each in shown]
    _show("Tasks", ("name", "what it asks", "data", "on this machine"), rows)
    if name:
        return None
    _show("Groups", ("name", "tasks"), [(group, ", ".join(members)) for group, members in task_groups().items()])
    typer.echo("`sinkbench list tasks NAME` shows one in full: parameters, prompts, parsers, metrics.")


def _about(info: "TaskInfo") -> tuple[str, str]:
    return info.summary, info.hub or ("shipped" if info.source == "scenes" else "--data-dir")


def _show_task(name: str) -> None:
    """One task, and what may be changed about it."""
    from rich.table import Table

    from sinkbench.cli.console import output_console
    from sinkbench.leaderboard.table import ARROWS
    from sinkbench.tasks import task_info

    info = task_info(name)
    summary, origin = _about(info)
    facts = {
        "asks": summary,
        "data": origin,
        "a folder holds": info.settings.get("about", ""),
        "answers": f"at most {info.generation['max_gen_toks']} tokens",
        "metrics": ", ".join(f"{metric} {ARROWS[direction]}".strip() for metric, direction in info.metrics.items()),
        "version": info.version,
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    for key, value in facts.items():
        if value:
            grid.add_row(key, value)
    output_console().print(grid)
    rows = [
        (f"{name}.{key}", str(value), ", ".join(map(str, info.choices[key])) or type(value).__name__)
        for key, value in info.params.items()
    ]
    _show("Parameters (--set NAME=VALUE)", ("name", "default", "values"), rows)


def _show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sinkbench.cli.console import output_console

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    output_console().print(table)
