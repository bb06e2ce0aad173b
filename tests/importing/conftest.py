"""Import answers to a small POPE release."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pope_folder import SPLITS, pope_questions, write_lines, write_pope

from sinkbench.importing import Imported, import_answers


@dataclass
class Importer:
    """Writes rows into a file and imports it.

    Attributes:
        folder: Of the test.
        data: The release.
    """

    folder: Path
    data: Path

    def __call__(self, rows: list[dict[str, Any]], task: str = "pope", **settings: Any) -> Imported:
        file = write_lines(self.folder / "answers.jsonl", rows)
        settings = {"data_dir": self.data, "output": self.folder / "runs", **settings}
        return import_answers(task, file, **settings)

    def samples(self, imported: Imported) -> dict[str, dict[str, Any]]:
        lines = (imported.directory / "samples.jsonl").read_text().split("\n")[:-1]
        return {row["id"].removeprefix("pope/"): row for row in map(json.loads, lines)}


@pytest.fixture
def load(tmp_path):
    """Of all three splits: twelve questions, among them two that all splits ask."""
    return Importer(tmp_path, write_pope(tmp_path / "pope"))


@pytest.fixture
def load_random(tmp_path):
    """Of the random split alone, so that question numbers are unique."""
    return Importer(tmp_path, write_pope(tmp_path / "pope", ("random",)))


@pytest.fixture
def asked():
    """Every question with its split, right answers as the model's."""
    return [
        {"image": row["image"], "question": row["text"], "split": split, "number": row["question_id"],
         "answer": row["label"].title()}
        for split in SPLITS
        for row in pope_questions(split)
    ]  # fmt: skip
