"""Make docs/cli.md's reference of all commands from their own help: `python tools/cli_reference.py --write`."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import marked  # noqa: E402
from typer.main import get_command  # noqa: E402

from sinkbench.cli.app import app  # noqa: E402

PAGE = REPOSITORY / "docs" / "cli.md"
BEGIN = "<!-- commands: made by `python tools/cli_reference.py --write` -->"
END = "<!-- /commands -->"
NO_PANEL = "Options"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it: ("sinkbench list models", the command)."""
    yield from _below("sinkbench", get_command(app))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "commands", None):
            yield from _below(f"{words} {name}", inner)
        elif not inner.hidden:
            yield f"{words} {name}", inner


def reference() -> str:
    """All commands, each with its arguments and options, as Markdown."""
    return "\n\n".join(_section(words, command) for words, command in commands())


def _section(words: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not parameter.hidden]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    usage = " ".join([words, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {words}", _prose(command.help or ""), f"```text\n{usage}\n```"]
    if arguments:
        parts.append(_table("argument", [(f"`{_metavar(each)}`", _meaning(each)) for each in arguments]))
    panels: dict[str, list[tuple[str, str]]] = {}
    for option in options:
        panel = getattr(option, "rich_help_panel", None) or NO_PANEL
        panels.setdefault(panel, []).append((_spelling(option), _meaning(option)))
    for panel in sorted(panels, key=lambda name: name == "Files"):
        parts.append(_table("option" if panel == NO_PANEL else panel, panels[panel]))
    return "\n\n".join(part for part in parts if part)


def _usage(argument: Any) -> str:
    name = f"{_metavar(argument)}{'...' if argument.nargs == -1 else ''}"
    return name if argument.required else f"[{name}]"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _spelling(option: Any) -> str:
    """All names of an option, and what it takes."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag or option.count else f"{names} `{_metavar(option)}`"


def _meaning(parameter: Any) -> str:
    default = parameter.default
    told = "default" in (parameter.help or "").lower()
    trivial = default in (None, False, "", (), []) or callable(default) or told
    ending = " Required." if parameter.required and parameter.param_type_name == "option" else ""
    if not trivial:
        ending += f" Default: `{'--' + parameter.name.replace('_', '-') if default is True else default}`."
    return f"{_prose(parameter.help or '')}{ending}"


def _prose(text: str) -> str:
    """Help as Markdown: nothing in it is markup but what stands between backticks."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"(?<!\n)\n(?!\n)", " ", text))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    lines = [(head, "meaning"), ("---", "---"), *rows]
    return "\n".join(f"| {_cell(left)} | {_cell(right)} |" for left, right in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def insert(text: str) -> str:
    """A document with the reference in its place; see `marked.insert`."""
    return marked.insert(text, BEGIN, END, reference())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}; else it is printed")
    if parser.parse_args().write:
        PAGE.write_text(insert(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(reference())


if __name__ == "__main__":
    main()
