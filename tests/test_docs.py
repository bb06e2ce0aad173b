"""What the documents say is there: links, anchors, commands with their options, and code that can be read."""

import re
import tomllib

import pytest
import yaml
from markdown_pages import PAGES, REPOSITORY, Block, anchors, blocks, commands, targets

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block.where, words) for block in BLOCKS for words in commands(block)]


def links(page):
    """Relative targets as (path, anchor)."""
    for target in targets(page):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield target, (page.parent / path).resolve() if path else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_and_anchors_lead_somewhere(page):
    for target, path, anchor in links(page):
        assert path.is_relative_to(REPOSITORY), target
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def complaint(words):
    """What the command line has against a command that is not run; empty: nothing."""
    from typer.main import get_command

    from sinkbench.cli.app import app

    command, said = get_command(app), "sinkbench"
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            return "" if words in (["--help"], ["--version"]) else f"{said}: a command is missing"
        if words[0] not in command.commands:
            return f"{said} has no command {words[0]!r}"
        said, command, words = f"{said} {words[0]}", command.commands[words[0]], words[1:]
    if {"-h", "--help"} & {*words}:
        return ""
    try:
        command.make_context(said, list(words))
    except Exception as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return f"{said}: {message}"
    return ""


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_commands_in_the_documents_are_ones_that_there_are(where, words):
    assert not complaint(words), where


def test_a_stale_command_is_noticed():
    assert complaint(["evaluate", "-m", "tiny-llava"]) == "sinkbench has no command 'evaluate'"
    assert "--modle" in complaint(["eval", "--modle", "tiny-llava"])
    assert "nonsense" in complaint(["eval", "-m", "tiny-llava", "nonsense"])
    assert "integer" in complaint(["eval", "--limit", "ten"])
    assert complaint(["list"]) == "sinkbench list: a command is missing"
    assert "TASK" in complaint(["data", "check"])
    assert not complaint(["eval", "-m", "tiny-llava", "-M", "greedy", "--limit", "10"])


def test_commands_are_found_in_blocks_of_either_kind():
    text = (
        "$ sinkbench doctor\nsinkbench not typed\n"
        "$ A=1 sinkbench eval \\\n  -m x  # why\n$ pip install x && sinkbench list models\n"
    )
    found = [["doctor"], ["eval", "-m", "x"], ["list", "models"]]
    assert commands(Block(REPOSITORY / "README.md", 1, "console", "", text)) == found
    plain = Block(REPOSITORY / "README.md", 1, "sh", "", text.replace("$ ", ""))
    assert commands(plain) == [found[0], ["not", "typed"], *found[1:]]


def test_the_documents_show_commands_at_all():
    shown = {words[0] for _, words in COMMANDS}
    assert {
        "eval",
        "leaderboard",
        "list",
        "calibrate",
        "inspect",
        "bench",
        "doctor",
        "data",
        "scenes",
        "score",
    } <= shown


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("python", "toml", "yaml", "json")], ids=lambda b: b.where
)
def test_code_blocks_can_be_read(block):
    if block.language == "python":
        compile(block.text, block.where, "exec")
    elif block.language == "toml":
        tomllib.loads(block.text)
    else:
        yaml.compose(block.text)
