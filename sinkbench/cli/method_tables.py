"""What `sinkbench list methods` prints: all of them in a few lines each, or one in full."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sinkbench.methods.facts import COSTS

if TYPE_CHECKING:
    from sinkbench.methods.describe import Description, Parameter, Values
    from sinkbench.methods.facts import Paper

TABLE_WIDTH = 150
"""Columns of text from which the methods fit into a table; on a narrower console each is a paragraph."""

WIDTHS = {"family": 13, "touches": 20, "calibration": 20, "profiles": 16}
"""Most columns of text for what would crowd out the summaries."""


MEANT = ("type", "default", "meaning")
"""Columns of parameters behind their name."""


def show_methods(known: Sequence["Description"], console: Console) -> None:
    """Print methods in the order given, and what their costs mean."""
    console.print(_table_of(known) if console.width >= TABLE_WIDTH else _paragraphs(known))
    _plain(console, *(f"{cost}: {meaning}" for cost, meaning in COSTS.items() if any(m.cost == cost for m in known)))
    _plain(console, *(f"{m.name} is a plug-in, of {m.distribution}." for m in known if m.distribution))
    _plain(console, "Compose with +, as in var+pai. Parameters, profiles and sources: sinkbench list methods NAME")


def show_method(method: "Description", console: Console) -> None:
    """Print one method with its paper, its parameters and their values by profile and model, with sources."""
    paper = method.paper
    facts = {
        "family": method.family,
        "paper": _citation(paper) if paper else "",
        "code": paper.code if paper else "",
        "touches": method.touches,
        "cost": f"{method.cost}: {COSTS[method.cost]}" if method.cost else "",
        "calibration": method.calibration,
        "calibrated for": ", ".join(_calibrated(method)),
        "plug-in": method.distribution,
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    for key, value in facts.items():
        if value:
            grid.add_row(key, Text(value))
    console.print(Text.assemble((method.name, "bold"), f": {method.summary}\n"))
    console.print(grid)
    for title, columns, rows in (
        (f"--set {method.name}.PARAM=VALUE", ("parameter", *MEANT), _parameter_rows(method.parameters)),
        (f"--set {method.name}.profile=NAME", ("profile", "values", "source"), _value_rows(method.profiles)),
        ("Values by model, unless others are given", ("model", "values", "source"), _value_rows(method.models)),
    ):
        if rows:
            console.print()
            console.print(_table(title, columns, rows))


def show_settings(name: str, settings: Sequence["Parameter"], console: Console) -> None:
    """Print the settings of a method's calibration."""
    console.print()
    title = f"sinkbench calibrate {name} --set {name}.SETTING=VALUE"
    console.print(_table(title, ("setting", *MEANT), _parameter_rows(settings)))


def as_typed(value: Any) -> str:
    """A parameter's value as one types it behind `--set NAME.PARAM=`; empty for None, which no parameter takes."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_typed, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'


def _table_of(known: Iterable["Description"]) -> Table:
    columns = ("name", "family", "arXiv or venue", "touches", "cost", "calibration", "profiles", "what it does")
    rows = [
        (
            method.name,
            method.family,
            _short(method.paper).removeprefix("arXiv "),
            method.touches.replace("; ", "\n"),
            method.cost,
            method.calibration,
            _profiles(method),
            method.summary,
        )
        for method in known
    ]
    table = _table("Methods", columns, rows)
    table.pad_edge = False
    table.padding = (0, 1, 0, 0)
    for column in table.columns:
        column.max_width = WIDTHS.get(str(column.header))
    return table


def _paragraphs(known: Iterable["Description"]) -> Table:
    grid = Table.grid(padding=(0, 2, 1, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column()
    for method in known:
        facts = {
            "": method.family,
            "paper:": _short(method.paper),
            "touches:": method.touches,
            "cost:": method.cost,
            "calibration:": method.calibration,
            "profiles:": _profiles(method),
        }
        line = " · ".join(f"{key} {value}".strip() for key, value in facts.items() if value)
        grid.add_row(method.name, Text.assemble(method.summary, "\n", (line, "dim")))
    return grid


def _calibrated(method: "Description") -> list[str]:
    """The models with a calibration, and in brackets the methods for whose scores it is."""
    scoring = {model: f" ({', '.join(names)})" for model, names in method.calibrated_for.items()}
    return [f"{model}{scoring.get(model, '')}" for model in method.calibrated]


def _short(paper: "Paper | None") -> str:
    """The arXiv number, or the venue of a paper that has none."""
    if paper is None:
        return ""
    return f"arXiv {paper.arxiv}" if paper.arxiv else paper.venue


def _citation(paper: "Paper") -> str:
    number = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    return f"{paper.authors}: {paper.title}, {paper.venue}{number}"


def _profiles(method: "Description") -> str:
    return ", ".join(profile.name for profile in method.profiles)


def _parameter_rows(parameters: Iterable["Parameter"]) -> list[tuple[str, ...]]:
    return [(each.name, each.kind, as_typed(each.default), each.meaning) for each in parameters]


def _value_rows(sets: Iterable["Values"]) -> list[tuple[str, ...]]:
    return [
        (each.name, ", ".join(f"{name}={as_typed(value)}" for name, value in each.params.items()), each.source)
        for each in sets
    ]


def _table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is never broken. Cells are no markup: `[]` is a default."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _plain(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)
