"""Files of answers as rows: JSON lines, JSON, TSV, CSV, Excel, and the samples that lm-eval and lmms-eval log."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.errors import UsageError
from sinkbench.importing.columns import ANSWERS, OTHER_ANSWERS, RESPONSE
from sinkbench.tasks.rows import parse_row

Row = dict[str, Any]

HINT = (
    "Give JSON lines with a question id (or image and question) and an answer a line, or a .json, .tsv, .csv or .xlsx "
    "file."
)
_WHOLE = "Leave that line out, or write the file again."
_TABLES = {".tsv": ("TSV", "\t"), ".csv": ("CSV", ",")}


@dataclass(frozen=True)
class Sheet:
    """The content of a file of answers.

    Attributes:
        rows: In the order of the file, which means nothing.
        format: What the file was read as, for the record.
    """

    rows: list[Row]
    format: str

    @property
    def columns(self) -> list[str]:
        """Every column that some row has."""
        return list(dict.fromkeys(column for row in self.rows for column in row))


def read_answers(path: Path) -> Sheet:
    """Read a file of answers.

    The kind is told by the file's ending (.tsv, .csv, .xlsx; all else is JSON) and by its rows. Empty cells of tables
    are null: such files cannot tell an empty answer from none.

    Raises:
        UsageError: It is missing, empty, damaged or of no known form; or openpyxl is needed and not installed.
    """
    if not path.is_file():
        raise UsageError(f"answers file {path} does not exist", HINT)
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending == ".xlsx":
        sheet = Sheet(_excel_rows(path), "Excel")
    elif ending in _TABLES:
        name, delimiter = _TABLES[ending]
        sheet = Sheet(_table_rows(_text(path), delimiter), name)
    else:
        sheet = _json_sheet(path)
    if not sheet.rows:
        raise UsageError(f"{path} holds no answers", HINT)
    if any(RESPONSE in row or "filtered_resps" in row for row in sheet.rows):
        return Sheet(list(_logged(sheet.rows, path)), "samples of lm-eval or lmms-eval")
    return sheet


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "Give a text file in UTF-8.") from error
    return text.removeprefix("\ufeff")


def _json_sheet(path: Path) -> Sheet:
    text = _text(path)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
        return Sheet([parse_row(line, f"{path}, line {number}", _WHOLE) for number, line in lines], "JSON lines")
    if isinstance(whole, dict):
        if whole.keys() & {*ANSWERS, *OTHER_ANSWERS}:
            return Sheet([whole], "JSON lines")
        return Sheet([{"question_id": id, "answer": answer} for id, answer in whole.items()], "JSON, answers by id")
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise UsageError(f"{path} holds no list of JSON objects", HINT)
    return Sheet(whole, "JSON")


def _table_rows(text: str, delimiter: str) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [{key: value or None for key, value in row.items() if key is not None} for row in rows]


def _excel_rows(path: Path) -> list[Row]:
    """The first sheet, whose first row names the columns."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UsageError(
            f"{path.name} is an Excel file, and reading it needs openpyxl, which is not installed",
            "Type `pip install 'sinkbench[xlsx]'`, or save the sheet as .tsv.",
        ) from error
    try:
        lines = load_workbook(path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        names = next(lines, ())
        return [
            {str(name): value for name, value in zip(names, line, strict=False) if name is not None}
            for line in lines
            if any(value is not None for value in line)
        ]
    except Exception as error:  # openpyxl lets the errors of zip, XML and its own through.
        raise UsageError(f"{path} is no readable Excel file: {error}", "Save it again as .xlsx, or as .tsv.") from error


def _logged(rows: list[Row], path: Path) -> Iterator[Row]:
    """Rows of the logged documents, with the raw answer as `RESPONSE`.

    There is a row for each filter, and all of them hold the same raw answers: the first filter's are taken. `doc_id` is
    a position and left out.

    Raises:
        UsageError: A document was not logged, or was answered several times.
    """
    first = rows[0].get("filter")
    for number, row in enumerate(rows, start=1):
        if row.get("filter") != first:
            continue
        document = row.get("doc")
        if not isinstance(document, dict):
            raise UsageError(
                f"{path}, sample {number} has no `doc`; `doc_id` is a position and cannot say which question it is of",
                "Log the samples again with documents (lm-eval: --log_samples), or add question ids.",
            )
        yield {**_asked(row), **document, RESPONSE: _response(row, f"{path}, sample {number}")}


def _asked(row: Mapping[str, Any]) -> Row:
    """The prompt, where it was logged."""
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else row.get("input")
    return {"prompt": prompt} if isinstance(prompt, str) else {}


def _response(row: Mapping[str, Any], where: str) -> Any:
    """The one answer in the nested lists of a sample."""
    found = row[RESPONSE] if RESPONSE in row else row["filtered_resps"]
    while isinstance(found, list):
        if len(found) != 1:
            raise UsageError(
                f"{where} holds {len(found)} answers, and one is needed", "Run it again with one answer a question."
            )
        found = found[0]
    return found
