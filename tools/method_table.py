"""Make README.md's table of methods and docs/methods.md from their classes: `python tools/method_table.py --write`."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import marked  # noqa: E402

from sinkbench.methods import builtin_names  # noqa: E402
from sinkbench.methods.describe import Description, Parameter, in_order  # noqa: E402
from sinkbench.methods.facts import COSTS, Paper  # noqa: E402

README = REPOSITORY / "README.md"
PAGE = REPOSITORY / "docs" / "methods.md"
BEGIN = "<!-- methods: made by `python tools/method_table.py --write` -->"
END = "<!-- /methods -->"
COLUMNS: dict[str, Callable[[Description], str]] = {
    "method": lambda method: f"`{method.name}`",
    "family": lambda method: method.family,
    "what it does": lambda method: method.summary,
    "paper": lambda method: _citation(method.paper) if method.paper else "",
    "cost": lambda method: method.cost,
}


def table() -> str:
    """The methods that come with sinkbench as a Markdown table, and what their costs mean."""
    methods = in_order(builtin_names())
    lines = _markdown(COLUMNS, ([cell(method) for cell in COLUMNS.values()] for method in methods))
    costs = "; ".join(f"*{cost}*, {COSTS[cost]}" for cost in COSTS if any(method.cost == cost for method in methods))
    return "\n".join([*lines, "", f"Cost beside the plain model: {costs}."])


def page() -> str:
    """The methods one by one, each with its paper and parameters."""
    return "\n\n".join(map(_section, in_order(builtin_names())))


def _section(method: Description) -> str:
    touches = "touches nothing" if method.touches == "nothing" else method.touches
    facts = [f"{method.family}; {touches}; cost: {method.cost}"]
    if method.calibration:
        facts.append(f"needs a calibration: {method.calibration}")
    parts = [f"## {method.name}", f"{method.summary[0].upper()}{method.summary[1:]}.", f"*{'; '.join(facts)}.*"]
    if method.paper:
        parts.append(_reference(method.paper))
    if method.parameters:
        parts.append("\n".join(_markdown(("parameter", "default", "meaning"), map(_parameter, method.parameters))))
    if method.profiles:
        parts.append("Profiles: " + ", ".join(f"`{profile.name}`" for profile in method.profiles) + ".")
    return "\n\n".join(parts)


def _reference(paper: Paper) -> str:
    parts = [f"{paper.authors}, “{paper.title}”, {paper.venue}"]
    if paper.arxiv:
        parts.append(f"[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})")
    if paper.code:
        parts.append(f"code: `{paper.code}`")
    return "; ".join(parts) + "."


def _parameter(parameter: Parameter) -> tuple[str, str, str]:
    default = "" if parameter.default in (None, "", ()) else f"`{parameter.default}`"
    return f"`{parameter.name}`", default, parameter.meaning.replace("<", "&lt;")


def _citation(paper: Paper) -> str:
    text = f"{paper.authors}, {paper.venue}"
    return f"[{text}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else text


def _markdown(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    columns = tuple(columns)
    every = [columns, ("---",) * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in every]


DOCUMENTS = {README: table, PAGE: page}
"""What stands between the markers of each document."""


def insert(text: str, made: Callable[[], str] = table) -> str:
    """A document with the table, or what else is `made`, in its place; see `marked.insert`."""
    return marked.insert(text, BEGIN, END, made())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into the documents; else the table is printed")
    if not parser.parse_args().write:
        print(table())
        return
    for document, made in DOCUMENTS.items():
        document.write_text(insert(document.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
