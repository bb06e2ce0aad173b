"""A comparison on the console and as Markdown."""

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sinkbench.leaderboard.table import ARROWS, interval, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_TEXT = 60
"""Characters of a question or answer on the console."""

_CONTEXT = 25
"""Characters before the first difference of two answers."""

_DIFFERENCES = 8
"""Differences that are printed."""

_STYLES = {"worse": "red", "changed": "red", "incomparable": "red", "better": "green"}
_WAYS = {"better": "▲", "worse": "▼", "other": "●"}

LEGEND = (
    "p: two-sided, adjusted over all cells (Holm). flips: samples whose score rose ▲, fell ▼, or whose counts alone "
    "changed ●. reworded: other words, same score. within: no more flips than chance makes."
)

Comparison = Mapping[str, Any]
Cell = Mapping[str, Any]


def show(console: "Console", comparison: Comparison, *, flips: int, metrics: bool) -> None:
    """Print differences, a table of cells a task or one of metrics a cell, problems and flipped samples.

    Args:
        console: Where.
        comparison: schemas/comparison.schema.json.
        flips: Flipped samples shown for each cell.
        metrics: Show every metric of every cell.
    """
    _differences(console, comparison["differences"], f"A: {comparison['first']}\nB: {comparison['second']}")
    cells = comparison["cells"]
    if metrics:
        for cell in cells:
            console.print(_metric_table(cell))
            _line(console, _in_words(cell))
    else:
        for task, group in groupby(sorted(cells, key=lambda cell: str(cell["task"])), key=lambda cell: cell["task"]):
            console.print(_cell_table(task, list(group)))
        _line(console, LEGEND, style="dim")
    for cell in cells:
        if cell["differences"]:
            _differences(console, cell["differences"], f"{cell['title']} differs in")
        for problem in cell["problems"]:
            _line(console, f"{cell['title']}: {problem}", style="yellow")
        if cell["flips"] and flips:
            console.print(_flip_table(cell, flips))
            if len(cell["flips"]) > flips:
                _line(console, f"{len(cell['flips']) - flips} more: --flips {len(cell['flips'])}, or --json FILE.")
    for entry in comparison["missing"]:
        _line(console, f"{entry['title']}: missing ({entry['reason']})", style="yellow")
    for title in comparison["new"]:
        _line(console, f"{title}: in B only", style="dim")


def markdown(comparison: Comparison, failures: Sequence[str], flips: int) -> str:
    """A summary for a page of continuous integration; answers are escaped.

    Args:
        comparison: schemas/comparison.schema.json.
        failures: What made the check fail.
        flips: Flipped samples shown for each cell.
    """
    cells = comparison["cells"]
    head = f"**{len(failures)} findings**" if failures else "no score moved"
    lines = [f"### sinkbench regress: {head}", "", *(f"- {_escaped(text)}" for text in failures), ""]
    lines += _piped(("cell", "metric", "baseline", "now", "Δ", "95 % CI", "p", "n", "flips", "reworded", "verdict"))
    for cell in cells:
        values = _values(cell)
        shown = (cell["title"], cell["headline"], *values, str(cell["n_reworded"]), cell["verdict"])
        lines.append(f"| {' | '.join(map(_escaped, shown))} |")
    for cell in cells:
        if cell["flips"] and flips:
            summary = f"{cell['title']}: {len(cell['flips'])} flipped samples"
            lines += ["", f"<details><summary>{_escaped(summary)}</summary>", ""]
            lines += _piped(("", "id", "question", "reference", "baseline", "now"))
            lines += [f"| {' | '.join(map(_escaped, row))} |" for row in _flip_rows(cell, flips)]
            lines += ["", "</details>"]
    return "\n".join([*lines, "", ""])


def _cell_table(task: str, cells: Sequence[Cell]) -> "Table":
    metric = next((found for cell in cells if (found := cell["metrics"].get(cell["headline"]))), None)
    arrow = ARROWS[metric["direction"]] if metric else ""
    table = _table(f"{task}: {cells[0]['headline']} {arrow}".strip())
    table.add_column("model")
    table.add_column("method")
    for column in ("A", "B", "Δ", "Δ 95 % CI", "p", "n", "flips", "reworded"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for cell in cells:
        verdict = f"{cell['verdict']}{' !' if cell['problems'] else ''}"
        row = (cell["model"], cell["method"], *_values(cell), str(cell["n_reworded"]), verdict)
        table.add_row(*_plain(row), style=_STYLES.get(cell["verdict"]))
    return table


def _metric_table(cell: Cell) -> "Table":
    table = _table(cell["title"])
    table.add_column("metric", no_wrap=True)
    for column in ("A", "B", "Δ", "Δ 95 % CI", "p", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, metric in cell["metrics"].items():
        row = (
            f"{name} {ARROWS[metric['direction']]}".strip(),
            *(number(metric[side]) for side in ("first", "second")),
            *(_signed(metric["delta"]), interval(metric["ci95"]), _p(metric["p"]), str(metric["n_pairs"])),
        )
        table.add_row(*_plain(row), style="bold" if name == cell["headline"] else None)
    return table


def _flip_table(cell: Cell, flips: int) -> "Table":
    table = _table(f"{cell['title']}: {len(cell['flips'])} flipped")
    for column in ("", "id", "question", "reference", "A", "B"):
        table.add_column(column, no_wrap=column in ("", "id"))
    for row in _flip_rows(cell, flips):
        table.add_row(*_plain(row))
    return table


def _flip_rows(cell: Cell, flips: int) -> Iterator[tuple[str, ...]]:
    order = {"worse": 0, "better": 1, "other": 2}
    for flip in sorted(cell["flips"], key=lambda flip: order[flip["way"]])[:flips]:
        answers = _where_they_part(flip["first"], flip["second"])
        words = (flip["question"] or "", " / ".join(flip["targets"]), *answers)
        yield _WAYS[flip["way"]], flip["id"], *map(_short, words)


def _values(cell: Cell) -> tuple[str, ...]:
    """Headline of A and B, difference, interval, p, pairs and flips."""
    flips = f"▲{cell['n_better']} ▼{cell['n_worse']}{f' ●{count}' if (count := cell['n_other']) else ''}"
    metric = cell["metrics"].get(cell["headline"])
    if metric is None:
        return ("–", "–", "", "", "", str(cell["n_pairs"]), flips)
    values = (number(metric["first"]), number(metric["second"]), _signed(metric["delta"]), interval(metric["ci95"]))
    return (*values, _p(cell["p_holm"]), str(cell["n_pairs"]), flips)


def _in_words(cell: Cell) -> str:
    kinds = (
        ("n_changed", "not paired: the question or its image differs"),
        ("n_only_first", "in A only"),
        ("n_only_second", "in B only"),
        ("n_failed_first", "failed in A"),
        ("n_failed_second", "failed in B"),
        ("n_unscored", "without a score"),
        ("n_reworded", "worded differently, same score"),
    )
    parts = [f"{cell[key]} {words}" for key, words in kinds if cell[key]]
    flips = f"{cell['n_better']} better in B ▲, {cell['n_worse']} worse ▼, {cell['n_other']} in counts only ●"
    p = f", {cell['headline']} p {_p(cell['p_holm'])} (Holm)" if cell["p_holm"] is not None else ""
    paired = f"{cell['n_pairs']} pairs; flipped: {flips}"
    return f"{cell['verdict']}{p}. {'; '.join([paired, *parts])}."


def _differences(console: "Console", entries: Sequence[Mapping[str, Any]], title: str) -> None:
    _line(console, title)
    for entry in entries[:_DIFFERENCES]:
        first, second = ("–" if entry[side] is None else _short(str(entry[side])) for side in ("first", "second"))
        _line(console, f"  {entry['what']}: {first} → {second}", style="dim")
    if len(entries) > _DIFFERENCES:
        _line(console, f"  and {len(entries) - _DIFFERENCES} more differences: --json FILE", style="dim")


def _table(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)


def _plain(cells: Sequence[str]) -> list[Any]:
    from rich.text import Text

    return [Text(cell) for cell in cells]


def _line(console: "Console", text: str, style: str | None = None) -> None:
    console.print(text, style=style, highlight=False, markup=False)


def _where_they_part(first: str, second: str) -> tuple[str, str]:
    """Two long answers from shortly before the first letter in which they differ."""
    differing = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    start = next(differing, min(len(first), len(second))) - _CONTEXT
    if start <= 0 or max(len(first), len(second)) <= _TEXT:
        return first, second
    return f"…{first[start:]}", f"…{second[start:]}"


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _TEXT else f"{words[: _TEXT - 1]}…"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _piped(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |", f"|{' --- |' * len(cells)}"]


def _escaped(text: str) -> str:
    """As text in a cell of a Markdown table, whatever a model wrote."""
    plain = html.escape(" ".join(text.split()))
    return "".join(f"&#{ord(sign)};" if sign in "|`*_[]~\\!" else sign for sign in plain)
