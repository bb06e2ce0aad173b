"""The page itself: template, style and script put together into one file."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sinkbench import __version__
from sinkbench.errors import UsageError
from sinkbench.leaderboard import table
from sinkbench.leaderboard.files import write_bytes
from sinkbench.leaderboard.report.data import Report, averages, costs, panels, tables, tests
from sinkbench.leaderboard.report.pictures import MAX_SIDE

_HERE = Path(__file__).parent / "assets"
_SCRIPTS = ("dom.js", "board.js", "plots.js", "attention.js", "samples.js", "start.js")

_ELSEWHERE = "Choose a file in a folder of your own: --output FILE"

_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
"""JSON's own escapes of what could end or open an element, or a line, where HTML or old scripts read it."""


def render(report: Report) -> str:
    """The page as text.

    Everything that comes from runs is escaped by the template, or is JSON in a block that no browser executes; a
    content security policy allows this page's own script and style, pictures in the page, and nothing else.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    style = _source("page.css")
    script = '"use strict";\n(() => {\n' + "\n".join(_source(name) for name in _SCRIPTS) + "\n})();\n"
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    board = report.board
    plots = panels(board)
    return environment.get_template("page.html.jinja").render(
        title=report.settings.title,
        version=__version__,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=embedded({"panels": plots, "costs": costs(board), "groups": report.groups, "max_side": MAX_SIDE}),
        images=embedded(report.images),
        board=board,
        tables=tables(board),
        averages=averages(board),
        legend=table.legend(board),
        tests=tests(board),
        tasks=sorted({row["task"] for row in board["rows"]}),
        models=sorted({row["model"] for row in board["rows"]}),
        methods=sorted({row["method"] for row in board["rows"]}),
        groups=report.groups,
        with_images=report.settings.images,
        commits=sorted({row["commit"][:12] for row in board["rows"] if row["commit"]}),
    )


def embedded(value: Any) -> Markup:
    """JSON that may stand in a `<script type="application/json">` whatever its strings hold."""
    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPES))


def write(page: str, path: Path) -> int:
    """Write the page atomically.

    Returns:
        Its size in bytes.

    Raises:
        UsageError: The file cannot be written.
    """
    content = page.encode("utf-8", "replace")
    write_bytes(path, content, _ELSEWHERE)
    return len(content)


def check_target(path: Path) -> None:
    """Make the page's folder and see that a file can be written there, before the work begins.

    Raises:
        UsageError: It cannot.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", f"Name a file in it: --output {path / 'report.html'}")
    probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", _ELSEWHERE) from error


def _source(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
