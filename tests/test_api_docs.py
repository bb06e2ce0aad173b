"""The examples of docs/api.md, run as they stand, one after the other."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "api.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = DOCUMENT.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for block in blocks:
        # Lines of a traceback are then those of the document.
        source = "\n" * text[: block.start(1)].count("\n") + block[1]
        exec(compile(source, str(DOCUMENT), "exec"), names)
    assert len(blocks) == 7
    assert names["steered"] != names["plain"], "the example is to show a method at work"
    assert {run.directory.parent.resolve() for run in names["runs"]} == {(tmp_path / "runs" / "api").resolve()}
    printed = capsys.readouterr().out
    assert "own_loop=False" in printed
