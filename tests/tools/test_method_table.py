"""README.md's table of methods is the one that their classes give."""

import method_table
import pytest

from sinkbench.methods import builtin_names


def test_the_readme_is_up_to_date():
    readme = method_table.README.read_text(encoding="utf-8")
    assert readme == method_table.insert(readme), "stale: run `python tools/method_table.py --write`"


def test_every_method_has_a_row_with_its_paper():
    lines = method_table.table().splitlines()
    assert all(sum(line.startswith(f"| `{name}` |") for line in lines) == 1 for name in builtin_names())
    (var,) = (line for line in lines if line.startswith("| `var` |"))
    assert "[Kang et al., ICLR 2025](https://arxiv.org/abs/2503.03321)" in var
    assert "| attention |" in var
    assert "| rows | sink dimensions | code, paper, general, vision-centric |" in var


def test_only_what_lies_between_the_markers_is_replaced():
    document = f"before\n{method_table.BEGIN}\nold\n{method_table.END}\nafter\n"
    written = method_table.insert(document)
    assert written.startswith(f"before\n{method_table.BEGIN}\n\n| method |")
    assert written.endswith(f"\n\n{method_table.END}\nafter\n")
    assert "old" not in written
    assert method_table.insert(written) == written


@pytest.mark.parametrize(
    "document",
    ["", method_table.BEGIN, method_table.END + method_table.BEGIN, 2 * (method_table.BEGIN + method_table.END)],
)
def test_a_document_without_its_place_is_refused(document):
    with pytest.raises(ValueError, match="not marked once"):
        method_table.insert(document)
