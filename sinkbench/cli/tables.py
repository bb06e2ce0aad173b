"""What `sinkbench eval` prints when it is done: metrics with intervals, where the files are, what to type next."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sinkbench.cli.console import output_console
from sinkbench.leaderboard.table import ARROWS, interval, number

if TYPE_CHECKING:
    from sinkbench.runner import Outcome


def show_outcomes(outcomes: Sequence["Outcome"], console: Console | None = None) -> None:
    """Print one table a run, and the next command."""
    console = console or output_console()
    for outcome in outcomes:
        if outcome.record["metrics"]:
            console.print(_table(outcome.record))
        finished = "finished before: " if outcome.reused else ""
        _plain(console, f"{finished}{_summary(outcome.record)} Files: {outcome.directory}/")
    for command in _next_commands(outcomes):
        _plain(console, f"Next: {command}")


def _table(record: Mapping[str, Any]) -> Table:
    """Metrics as rows; splits and categories ("adversarial/f1") as columns beside the overall value."""
    task, metrics = record["task"], record["metrics"]
    splits = list(dict.fromkeys(name.rpartition("/")[0] for name in metrics if "/" in name))
    title = f"{record['model']['name']} × {record['method']['name']} × {task['name']}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for column in ("value", "95 % CI", "n", *splits):
        table.add_column(column, justify="right", no_wrap=True)
    for base in dict.fromkeys(name.rpartition("/")[2] for name in metrics):
        cells = [_value(metrics.get(f"{split}/{base}")) for split in splits]
        overall = metrics.get(base)
        direction = (overall or next(metrics[name] for name in metrics if name.endswith(f"/{base}")))["direction"]
        table.add_row(
            f"{base} {ARROWS[direction]}".strip(),
            _value(overall),
            interval(overall["ci95"]) if overall else "",
            str(overall["n"]) if overall else "",
            *cells,
            style="bold" if base == task["headline"] else None,
        )
    return table


def _value(metric: Mapping[str, Any] | None) -> str:
    return number(metric["value"]) if metric else ""


def _summary(record: Mapping[str, Any]) -> str:
    task, speed = record["task"], record["efficiency"].get("answers_per_s")
    if record["stage"] in ("none", "prepare"):
        return f"prepared, {task['n_run']} questions."
    parts = [record["status"], f"{task['n_run'] - task['n_failed']} of {task['n_run']} answered"]
    if judge := task.get("judge"):
        parts.append(f"{task['n_run'] - task['n_failed'] - judge['n_unjudged']} judged by {judge['model']}")
    elif record["stage"] == "score" and not record["metrics"]:
        parts.append("no score: nobody judged the answers")
    if speed:
        parts.append(f"{speed:.1f} answers/s")
    if record["env"]["git"]["dirty"]:
        parts.append("dirty source tree")
    return f"{', '.join(parts)}."


def _next_commands(outcomes: Sequence["Outcome"]) -> list[str]:
    if not outcomes:
        return []
    record, output = outcomes[-1].record, outcomes[-1].directory.parent
    if record["stage"] == "score" and not record["metrics"]:
        return [_judge_command(record)]
    if not record["metrics"]:
        return [f"the same command with --stage {'score' if record['stage'] == 'answer' else 'answer'}"]
    board = f"sinkbench leaderboard {output}"
    if "imported" in record:
        return [f"{board} --baseline {record['method']['name']}"]
    if len(outcomes) > 1:
        return [board]
    spec = record["spec"]
    other = "var" if spec["method"] == "greedy" else "greedy"
    limit = f" -L {spec['limit']}" if spec["limit"] else ""
    return [f"sinkbench eval -m {spec['model']} -M {other} -t {spec['task']}{limit} -o {output}", board]


def _judge_command(record: Mapping[str, Any]) -> str:
    """What to type for the score of a task that needs a judge and had none."""
    task = record["task"]["name"]
    return f"for a score, the same command with --set {task}.judge=URL --set {task}.judge_model=NAME"


def _plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
