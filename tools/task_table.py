"""Make docs/tasks.md's table of tasks from their YAML: `python tools/task_table.py --write`."""

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import marked  # noqa: E402

from sinkbench.tasks import TaskInfo, task_groups, task_info, task_names  # noqa: E402

PAGE = REPOSITORY / "docs" / "tasks.md"
BEGIN = "<!-- tasks: made by `python tools/task_table.py --write` -->"
END = "<!-- /tasks -->"
COLUMNS = ("task", "asks", "data", "headline", "prompts", "parsers")


def table() -> str:
    """All tasks as a Markdown table; and the groups."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, map(task_info, task_names()))]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    groups = "; ".join(f"`{name}`: {', '.join(members)}" for name, members in task_groups().items())
    return "\n".join([*lines, "", f"Groups: {groups}."])


def _row(info: TaskInfo) -> tuple[str, ...]:
    shipped = "shipped" if info.source == "scenes" else "a folder"
    return (
        f"`{info.name}`",
        info.summary.removesuffix("."),
        f"`{info.hub}`, a folder" if info.hub else shipped,
        next(iter(info.metrics)),
        ", ".join(info.choices.get("prompt", ())),
        ", ".join(info.choices.get("parser", ())),
    )


def insert(text: str) -> str:
    """A document with the table in its place; see `marked.insert`."""
    return marked.insert(text, BEGIN, END, table())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}; else it is printed")
    if parser.parse_args().write:
        PAGE.write_text(insert(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
