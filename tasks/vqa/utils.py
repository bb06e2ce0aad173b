"""What the YAML of TextVQA, VQAv2, VizWiz and GQA refers to; folder and parameters arrive as in tasks/scenes/utils.py.

The prompt's profile is in a document's `prompt`: "original" is LLaVA's own question file, "lmms-eval" and "vlmevalkit"
are those harnesses' prompts for LLaVA, "qwen-vl" is lmms-eval's for Qwen-VL.
"""

from typing import Any

from sinkbench.scoring import exact_match, vqa
from sinkbench.scoring.schemes import Contribution, aggregate, contributions
from sinkbench.tasks.images import open_images
from sinkbench.tasks.tables import task_data

__all__ = ["aggregate", "dataset", "doc_to_image", "score", "score_gqa", "score_vqav2", "short", "textvqa", "vizwiz"]

SHORT = "\nAnswer the question using a single word or phrase."
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."


def dataset(data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """The questions, with the task's parameters among the columns."""
    return task_data(settings, data_dir)


def doc_to_image(doc: dict[str, Any]) -> list[Any]:
    """The photograph as a PIL image."""
    return open_images(doc)


def short(doc: dict[str, Any]) -> str:
    """VQAv2 and GQA: the same words in LLaVA's files and in lmms-eval."""
    return f"<image>{_question(doc)}{SHORT}"


def textvqa(doc: dict[str, Any]) -> str:
    """The question, the tokens that an OCR system read if `ocr` is set, and how to answer.

    A photograph without any text keeps the line of its tokens, as LLaVA's file and lmms-eval do.
    """
    question = _question(doc)
    if doc["prompt"] == "original":
        question = question[:1].upper() + question[1:]
    elif doc["prompt"] != "vlmevalkit":
        # Also turns all further letters into lower case.
        question = question.capitalize()
    tokens = f"\nReference OCR token: {', '.join(doc['ocr_tokens'] or [])}" if doc["ocr"] else ""
    return f"<image>{question}{tokens}{' Answer:' if doc['prompt'] == 'qwen-vl' else SHORT}"


def vizwiz(doc: dict[str, Any]) -> str:
    """The question, and what to say where the photograph does not tell."""
    question = _question(doc)
    return f"<image>{question.capitalize() if doc['prompt'] == 'lmms-eval' else question}{UNANSWERABLE}{SHORT}"


def _question(doc: dict[str, Any]) -> str:
    """The question; empty in a broken row: lm-eval tries the first one out, whatever it is."""
    return doc["question"] or ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """TextVQA and VizWiz: agreement with the annotators."""
    return contributions("vqa", vqa.NAMES, doc, vqa.score(results[0], doc["answers"], doc["parser"]))


def score_vqav2(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """Agreement with the annotators, by type of question too."""
    judged = vqa.score(results[0], doc["answers"], doc["parser"], doc["answer_type"])
    return contributions("vqa", vqa.names(vqa.ANSWER_TYPES), doc, judged)


def score_gqa(doc: dict[str, Any], results: list[str]) -> dict[str, Contribution]:
    """The one right answer."""
    return contributions(
        "exact_match", exact_match.NAMES, doc, exact_match.score(results[0], doc["answer"], doc["parser"])
    )
