"""LLaVA-Bench (In-the-Wild): a judge rates an answer and GPT-4's side by side, and the score is their ratio.

Liu et al., "Visual Instruction Tuning" (NeurIPS 2023). Both are rated from 1 to 10, the reference first; the score is
the sum of the model's ratings over the sum of the reference's, so that it may exceed 1. The paper's judge is GPT-4
under the authors' prompt; the wording here is our own.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache

from sinkbench.scoring.metric import Metric, Part, Scheme, Score, quotient, total
from sinkbench.scoring.rubric import Document, Rubric

CATEGORIES = ("conv", "detail", "complex")

NAMES = ("relative_score", *(f"{category}/relative_score" for category in CATEGORIES), "n_unparsed")

LOWEST, HIGHEST = 1.0, 10.0

INSTRUCTIONS = """\
Two assistants answered a question about an image that you cannot see. The description says what is in it.

Description of the image:
{description}

Question:
{question}

Answer of assistant 1:
{reference}

Answer of assistant 2:
{answer}

Rate each answer from 1 to 10, higher being better, by how helpful, relevant, accurate and detailed it is. Which \
assistant comes first must not matter.

Reply with a first line that holds two numbers and nothing else, the rating of assistant 1, a space, and the rating of \
assistant 2. Give your reasons in the lines after it."""


def read(reply: str) -> list[float] | None:
    """The ratings [reference, model] in a judge's reply; None if its first line is not two numbers from 1 to 10."""
    first = reply.strip().partition("\n")[0].replace(",", " ").split()
    try:
        ratings = [float(word) for word in first]
    except ValueError:
        return None
    return ratings if len(ratings) == 2 and all(LOWEST <= rating <= HIGHEST for rating in ratings) else None


def score(text: str, reply: str | None, category: str) -> Score:
    """Judge one answer.

    Args:
        text: The model's answer; a blank one counts as unparsed, and its rating is the judge's all the same.
        reply: The judge's; without one that can be read the answer has a share in no metric.
        category: "conv", "detail" or "complex".
    """
    ratings = None if reply is None else read(reply)
    if ratings is None:
        return Score(parsed=None, score=0.0, counts={})
    given = {"n": 1.0, "reference": ratings[0], "model": ratings[1]}
    counts = {f"{scope}.{name}": value for scope in ("all", category) for name, value in given.items()}
    return Score(parsed=ratings, score=ratings[1] / HIGHEST, counts={**counts, "all.unparsed": float(not text.strip())})


def submission(answered: Sequence[tuple[Document, str]], model: str) -> str:
    """JSON lines as LLaVA's llava/eval/model_vqa.py writes them, which its review script reads.

    `answer_id`, there a random one, is made from question and model, so that the same run writes the same file.
    """
    rows = [
        {
            "question_id": document["question_id"],
            "prompt": document["question"],
            "text": text,
            "answer_id": hashlib.sha256(f"{model} {document['question_id']}".encode()).hexdigest()[:22],
            "model_id": model,
            "metadata": {},
        }
        for document, text in answered
    ]
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def _fields(document: Document, text: str) -> dict[str, str]:
    caption = document["caption"]
    return {
        "description": caption if isinstance(caption, str) else "\n".join(caption),
        "question": str(document["question"]),
        "reference": str(document["gpt_answer"]),
        "answer": text,
    }


@cache
def metric(name: str) -> Metric:
    """A metric by its name: "relative_score" over all questions, "detail/relative_score" over those of a category.

    Raises:
        ValueError: There is no such metric.
    """
    if name == "n_unparsed":
        return Metric(name, (Part(("all.unparsed",), total, "all.n"),), "count")
    if name not in NAMES:
        raise ValueError(f"LLaVA-Bench has no metric {name!r}")
    scope = name.rpartition("/")[0] or "all"
    return Metric(name, (Part((f"{scope}.model", f"{scope}.reference"), quotient, f"{scope}.n"),))


RUBRIC = Rubric(INSTRUCTIONS, _fields, read, "answers.jsonl", submission)

SCHEME = Scheme(metric)
