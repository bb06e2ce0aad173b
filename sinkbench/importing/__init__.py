"""Answers that were made elsewhere: read, joined to a task's questions, scored, and written down as a run.

`sinkbench score` is the command. Files of other harnesses are read by `formats`, what their columns mean is guessed by
`columns`, and `join` finds the question of each answer, by id or by image and text and never by position.
"""

from sinkbench.importing.columns import ColumnNames
from sinkbench.importing.run import Imported, Only, import_answers

__all__ = ["ColumnNames", "Imported", "Only", "import_answers"]
