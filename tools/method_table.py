"""Make README.md's table of methods from their classes: `python tools/method_table.py --write`."""

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import marked  # noqa: E402

from sinkbench.methods import builtin_names  # noqa: E402
from sinkbench.methods.describe import Description, in_order  # noqa: E402
from sinkbench.methods.facts import COSTS, Paper  # noqa: E402

README = REPOSITORY / "README.md"
BEGIN = "<!-- methods: made by `python tools/method_table.py --write` -->"
END = "<!-- /methods -->"
COLUMNS = ("method", "family", "what it does", "paper", "touches", "cost", "calibration", "profiles")


def table() -> str:
    """The methods that come with sinkbench as a Markdown table, and what their costs mean."""
    methods = in_order(builtin_names())
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, methods)]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    costs = "; ".join(f"*{cost}*, {COSTS[cost]}" for cost in COSTS if any(method.cost == cost for method in methods))
    return "\n".join([*lines, "", f"Cost beside the plain model: {costs}."])


def _row(method: Description) -> tuple[str, ...]:
    return (
        f"`{method.name}`",
        method.family,
        method.summary,
        _citation(method.paper) if method.paper else "",
        method.touches,
        method.cost,
        method.calibration,
        ", ".join(profile.name for profile in method.profiles),
    )


def _citation(paper: Paper) -> str:
    text = f"{paper.authors}, {paper.venue}"
    return f"[{text}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else text


def insert(text: str) -> str:
    """A document with the table in its place; see `marked.insert`."""
    return marked.insert(text, BEGIN, END, table())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {README.name}; else it is printed")
    if parser.parse_args().write:
        README.write_text(insert(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
