"""The tables of methods in README.md and docs/methods.md are those that their classes give."""

import method_table
import pytest

from sinkbench.methods import builtin_names


@pytest.mark.parametrize("document", method_table.DOCUMENTS, ids=lambda path: path.name)
def test_the_document_is_up_to_date(document):
    text = document.read_text(encoding="utf-8")
    made = method_table.DOCUMENTS[document]
    assert text == method_table.insert(text, made), "stale: run `python tools/method_table.py --write`"


def test_every_method_has_a_row_with_its_paper():
    lines = method_table.table().splitlines()
    assert all(sum(line.startswith(f"| `{name}` |") for line in lines) == 1 for name in builtin_names())
    (var,) = (line for line in lines if line.startswith("| `var` |"))
    assert var == (
        "| `var` | attention | moves attention from sink tokens to the other image tokens in image-centric heads "
        "| [Kang et al., ICLR 2025](https://arxiv.org/abs/2503.03321) | rows |"
    )


def test_every_method_has_a_section_with_its_parameters():
    sections = {part.partition("\n")[0]: part for part in method_table.page().split("## ")[1:]}
    assert sorted(sections) == builtin_names()
    var = sections["var"]
    assert "*attention; edits suffix, decode; reads prefix; cost: rows; needs a calibration: sink dimensions.*" in var
    assert "[arXiv 2503.03321](https://arxiv.org/abs/2503.03321)" in var
    assert "\n| `take` | `0.4` |" in var
    assert var.rstrip().endswith("Profiles: `code`, `paper`, `general`, `vision-centric`.")
    assert "*decoding; touches nothing; cost: free.*" in sections["greedy"]


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
