"""Pages of Markdown as a reader meets them: links, anchors, fenced blocks and the commands in these."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import markdown
from pymdownx.slugs import slugify

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "results").glob("*/README.md")),
]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`]*)$")
_EXTENSIONS = ["tables", "attr_list", "toc", "pymdownx.superfences"]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: Number of its first line there, from 1.
        language: Behind the fence; may be empty.
        title: Of `title="…"`; may be empty.
        text: Its content.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        """For test names and messages."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, those within list items included."""
    opened: re.Match[str] | None = None
    start, content = 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is None:
            if opened := _FENCE.match(line):
                start, content = number + 1, []
        elif line.strip() == opened["fence"]:
            language, _, options = opened["info"].strip().partition(" ")
            title = re.search(r'title="([^"]*)"', options)
            yield Block(page, start, language, title[1] if title else "", "\n".join(content) + "\n")
            opened = None
        else:
            content.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"{page}: the block at line {start} is never closed"


def titled(page: Path, title: str) -> str:
    """The text of the one block of a page with this title."""
    (block,) = (block for block in blocks(page) if block.title == title)
    return block.text


def commands(block: Block) -> list[list[str]]:
    """The `sinkbench …` command lines of a block, as words behind `sinkbench`; in a console's only lines after `$`."""
    if block.language not in ("", "sh", "bash", "shell", "console"):
        return []
    text = block.text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||;|(?<!\S)\|(?!\S)", line):
            call = re.match(r"(?:[A-Z_]+=\S+ +)*(?:python -m )?sinkbench (.*)", part.strip())
            if call:
                found.append(shlex.split(call[1], comments=True))
    return found


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets += [url for key in ("href", "src") if (url := given.get(key))]
        if given.get("id"):
            self.anchors.add(str(given["id"]))


@cache
def _rendered(page: Path) -> _Links:
    # Anchors as forges and the site make them.
    settings = {"toc": {"slugify": slugify(case="lower")}}
    html = markdown.markdown(page.read_text(encoding="utf-8"), extensions=_EXTENSIONS, extension_configs=settings)
    links = _Links()
    links.feed(html)
    return links


def targets(page: Path) -> list[str]:
    """What a page's links and pictures lead to."""
    return _rendered(page).targets


def anchors(page: Path) -> set[str]:
    """What a link into a page may name behind #."""
    return _rendered(page).anchors
