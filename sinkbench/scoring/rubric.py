"""What a judge is asked about an answer, how its reply is read, and how answers are handed in elsewhere.

The wording of every rubric here is sinkbench's own, made from the published rules. Scores from another wording or
another judge are not comparable with a paper's.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Rubric:
    """How the answers of a task are judged.

    Attributes:
        instructions: The prompt, with the names of what is filled in in braces.
        fields: From a document and an answer to what is filled in.
        read: What a reply says, JSON-ready; None for a reply that cannot be read, whose answer gets no score.
        file: Name of the file of answers in the form in which the benchmark takes them.
        submission: Content of that file, from documents with their answers, in the data's order, and the name of what
            answered.
    """

    instructions: str
    fields: Callable[[Document, str], Mapping[str, str]]
    read: Callable[[str], Any]
    file: str
    submission: Callable[[Sequence[tuple[Document, str]], str], str]

    def prompt(self, document: Document, text: str) -> str:
        """What the judge is asked about one answer."""
        return self.instructions.format(**self.fields(document, text))

    @property
    def sha256(self) -> str:
        """Of the instructions (hex)."""
        return hashlib.sha256(self.instructions.encode()).hexdigest()
