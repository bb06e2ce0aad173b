"""Answers that only a judge can score: what it is asked, and the file in which they can be handed in elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from sinkbench.judge import Judge, NoVerdictError
from sinkbench.scoring.rubric import Rubric
from sinkbench.scoring.schemes import RUBRICS
from sinkbench.tasks.catalog import task_info
from sinkbench.tasks.load import documents, request_id


class Verdict(TypedDict):
    """What a judge said about one answer, as samples.jsonl keeps it.

    Attributes:
        asked: Hash of the judge and of what it was asked (`Judge.signature`).
        reply: Its words; None where there is no score.
        error: Why there is none, with the reply that could not be read; else empty.
    """

    asked: str
    reply: str | None
    error: str


@dataclass(frozen=True)
class Review:
    """How a task's answers are judged.

    Attributes:
        task: Its name.
        rubric: What a judge is asked.
        judge: Who is asked; None where the user names nobody.
        documents: The task's rows by request id, in their order.
    """

    task: str
    rubric: Rubric
    judge: Judge | None
    documents: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, loaded: Any, params: Mapping[str, Any]) -> "Review | None":
        """The review of a loaded task; None for a task that rules can score.

        Args:
            loaded: From `load_task`.
            params: Values for its parameters.

        Raises:
            UsageError: The parameters name a judge that cannot be asked.
        """
        info = task_info(loaded.task_name)
        if info.scheme not in RUBRICS:
            return None
        judge = Judge.of(info.name, info.with_params(params))
        rows = {request_id(loaded, document): document for document in documents(loaded)}
        return cls(info.name, RUBRICS[info.scheme], judge, rows)

    def describe(self) -> dict[str, Any]:
        """Who judges, for run.json: the judge must be there."""
        assert self.judge is not None
        return {"url": self.judge.url, "model": self.judge.model, "prompt_sha256": self.rubric.sha256}

    def verdict(self, id: str, text: str, earlier: Verdict | None) -> Verdict:
        """Ask the judge about one answer, unless it has said before.

        A reply that cannot be read is asked for again once; the judge may do better, and the verdict says what it said.

        Args:
            id: Request id.
            text: The answer.
            earlier: What is kept of an earlier verdict on this sample.

        Raises:
            UsageError: The endpoint refuses whoever asks.
        """
        assert self.judge is not None
        prompt = self.rubric.prompt(self.documents[id], text)
        asked = self.judge.signature(prompt)
        if earlier and earlier["asked"] == asked and not earlier["error"]:
            return earlier
        try:
            for _ in range(2):
                reply = self.judge.reply(prompt)
                if self.rubric.read(reply) is not None:
                    return {"asked": asked, "reply": reply, "error": ""}
        except NoVerdictError as error:
            return {"asked": asked, "reply": None, "error": str(error)}
        return {"asked": asked, "reply": None, "error": f"the judge's reply cannot be read: {reply}"}

    def submission(self, texts: Mapping[str, str], model: str) -> tuple[str, str]:
        """Name and content of the file in the benchmark's own form; samples without an answer are not in it.

        Args:
            texts: Answers by request id.
            model: What answered.
        """
        answered = [(document, texts[id]) for id, document in self.documents.items() if id in texts]
        return self.rubric.file, self.rubric.submission(answered, model)
