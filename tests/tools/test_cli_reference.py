"""docs/cli.md is what the command line says of itself."""

from typing import Annotated

import cli_reference
import pytest
import typer


def test_the_page_is_up_to_date():
    page = cli_reference.PAGE.read_text(encoding="utf-8")
    assert page == cli_reference.insert(page), "stale: run `python tools/cli_reference.py --write`"


def test_every_command_has_a_section_with_all_its_options():
    text = cli_reference.reference()
    assert "## sinkbench eval\n" in text
    assert "## sinkbench data check\n" in text
    assert "## sinkbench data\n" not in text, "a group does nothing by itself"
    for words, command in cli_reference.commands():
        section = text.partition(f"## {words}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            names = [*parameter.opts, parameter.metavar or parameter.name.upper()]
            assert parameter.hidden or any("`{}`".format(name.replace("|", "\\|")) in section for name in names), words


@pytest.fixture
def made(monkeypatch):
    """The reference of a command line that is made for the test."""
    app = typer.Typer()

    @app.callback()
    def root() -> None: ...

    @app.command()
    def count(
        what: Annotated[str, typer.Argument(metavar="WHAT", help="A <thing> of a|b.")],
        more: Annotated[list[str] | None, typer.Argument(metavar="MORE", help="Others.")] = None,
        n: Annotated[int, typer.Option("--number", "-n", metavar="N", help="How *many* `--set a.*=b`.")] = 3,
        fast: Annotated[bool, typer.Option("--fast/--slow", help="Hurry.")] = True,
        out: Annotated[
            str | None, typer.Option("--out", metavar="FILE", rich_help_panel="Files", help="Where.")
        ] = None,
        secret: Annotated[bool, typer.Option("--secret", hidden=True)] = False,
    ) -> None:
        """Count\nthings.\n\nSlowly."""

    @app.command(hidden=True)
    def hidden() -> None: ...

    monkeypatch.setattr(cli_reference, "app", app)
    return cli_reference.reference()


def test_a_section_by_hand(made):
    assert made == "\n".join(
        [
            "## sinkbench count",
            "",
            "Count things.",
            "",
            "Slowly.",
            "",
            "```text",
            "sinkbench count WHAT [MORE...] [OPTIONS]",
            "```",
            "",
            "| argument | meaning |",
            "| --- | --- |",
            r"| `WHAT` | A \<thing> of a\|b. |",
            "| `MORE` | Others. |",
            "",
            "| option | meaning |",
            "| --- | --- |",
            r"| `--number`, `-n` `N` | How \*many\* `--set a.*=b`. Default: `3`. |",
            "| `--fast`, `--slow` | Hurry. Default: `--fast`. |",
            "",
            "| Files | meaning |",
            "| --- | --- |",
            "| `--out` `FILE` | Where. |",
        ]
    )
