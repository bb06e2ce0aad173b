"""MM-Vet: open questions that mix six capabilities; a judge gives each answer a credit of 0 to 1.

Yu et al., "MM-Vet: Evaluating Large Multimodal Models for Integrated Capabilities" (ICML 2024). The score is the mean
credit, and for each capability the mean over the questions that need it. The paper's judge is GPT-4 under the authors'
few-shot prompt; the wording here is our own.
"""

import json
from collections.abc import Sequence
from functools import cache

from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total
from sinkbench.scoring.rubric import Document, Rubric

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")

NAMES = ("score", *(f"{capability}/score" for capability in CAPABILITIES), "n_unparsed")

INSTRUCTIONS = """\
You grade an answer to a question about an image that you cannot see. The reference says what a right answer holds.

If the reference joins items by <AND>, full credit needs every one of them; an answer that has some gets that share.
If the reference joins items by <OR>, any one of them is enough for full credit.
What an answer adds beyond the reference costs nothing unless it contradicts the reference.
The credit is one of 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0; 0.0 is wholly wrong and 1.0 wholly right.

Question: {question}
Reference: {reference}
Answer: {answer}

Reply with the credit alone, as one number."""


def read(reply: str) -> float | None:
    """The credit in a judge's reply: its first word as a number from 0 to 1; None if it is no such number."""
    try:
        credit = float(reply.split()[0])
    except (IndexError, ValueError):
        return None
    return credit if 0.0 <= credit <= 1.0 else None


def score(text: str, reply: str | None, capabilities: str) -> Score:
    """Judge one answer.

    Args:
        text: The model's answer; a blank one counts as unparsed, and its credit is the judge's all the same.
        reply: The judge's; without one that can be read the answer has a share in no metric.
        capabilities: What the question needs, joined by commas.
    """
    credit = None if reply is None else read(reply)
    if credit is None:
        return Score(parsed=None, score=0.0, counts={})
    needed = {name.strip() for name in capabilities.split(",")}
    scopes = ("all", *(name for name in CAPABILITIES if name in needed))
    counts = {f"{scope}.{name}": value for scope in scopes for name, value in (("n", 1.0), ("credit", credit))}
    return Score(parsed=credit, score=credit, counts={**counts, "all.unparsed": float(not text.strip())})


def submission(answered: Sequence[tuple[Document, str]], model: str) -> str:
    """The JSON object that the authors' grader takes: {"v1_0": answer, ...}.

    The form is that of LLaVA's scripts/convert_mmvet_for_eval.py; the grader itself was not at hand.
    """
    named = {_name(str(document["question_id"])): text for document, text in answered}
    return json.dumps(named, indent=2, ensure_ascii=False)


def _name(question: str) -> str:
    return question if question.startswith("v1_") else f"v1_{question}"


def _fields(document: Document, text: str) -> dict[str, str]:
    reference = str(document["answer"]).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return {"question": str(document["question"]), "reference": " ".join(reference.split()), "answer": text}


@cache
def metric(name: str) -> Metric:
    """A metric by its name: "score" over all questions, "ocr/score" over those that need a capability.

    Raises:
        ValueError: There is no such metric.
    """
    if name == "n_unparsed":
        return Metric(name, (Part(("all.unparsed",), total, "all.n"),), "count")
    if name not in NAMES:
        raise ValueError(f"MM-Vet has no metric {name!r}")
    scope = name.rpartition("/")[0] or "all"
    return Metric(name, (Part((f"{scope}.credit", f"{scope}.n"), quotient, f"{scope}.n"),), "mean")


RUBRIC = Rubric(INSTRUCTIONS, _fields, read, "mm-vet.json", submission)

SCHEME = Scheme(metric)
