"""Scores of a finished model folder on held-out scenes, and its sinks.

A quick check on the machine that trained the model, free of lm-eval, pycocotools and nltk. `sinkbench eval` on the
shipped data set is the real measurement.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from sinkbench.scenes.language import words
from sinkbench.scenes.questions import DESCRIBE, SHORT_SUFFIX, is_there
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import DEFAULT, Scene
from sinkbench.scenes.world import CATEGORIES
from tiny.probes import Probe, held_out_scenes, make_probes
from tiny.prompts import answer
from tiny.recipe import Recipe
from tiny.sinks import sink_report, sink_summary

MAX_WORDS = 8
"""Longest short answer, in tokens."""
MAX_CAPTION = 96
"""Longest caption, in tokens."""


def evaluate(folder: Path, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Load a model as any user would and measure it.

    Args:
        folder: A folder for `from_pretrained`.
        recipe: Number and seed of the held-out scenes; their difficulty is that of the shipped evaluation split.
        device: Where to run; weights keep the shipped dtype on a GPU and become float32 on the CPU.

    Returns:
        `scores` by group, `sinks` a hidden state each, `sink_summary`, `captions` (the first few, with the truth).
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    settings = recipe.evaluation
    dtype = "auto" if device.type == "cuda" else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scenes = held_out_scenes(settings.seed, settings.scenes, DEFAULT)
    renderer, step = Renderer(device), 64
    images = torch.cat([renderer.render(scenes[at : at + step]) for at in range(0, len(scenes), step)])

    probes = make_probes(scenes)
    asked = [(probe.image, _question(probe, settings.short)) for probe in probes]
    answers = answer(model, processor, images, asked, settings.batch_size, MAX_WORDS)
    describe = [(index, DESCRIBE) for index in range(len(scenes))]
    captions = answer(model, processor, images, describe, settings.batch_size, MAX_CAPTION)
    report = sink_report(model, processor, images[: settings.sink_images], is_there("dog"))
    return {
        "split": {"split": "val", "seed": settings.seed, "scenes": settings.scenes},
        "scores": {**probe_scores(probes, answers), **caption_scores(scenes, captions)},
        "sink_summary": sink_summary(report),
        "sinks": report,
        "captions": [
            {"caption": caption, "truth": sorted(scene.counts)}
            for caption, scene in zip(captions[:5], scenes, strict=False)
        ],
    }


def _question(probe: Probe, short: bool) -> str:
    """The question, with the instruction for a short answer where it is wanted and fits."""
    return probe.question + SHORT_SUFFIX if short and not probe.group.startswith("mcq") else probe.question


def probe_scores(probes: Sequence[Probe], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy of every group with the rate of its most frequent right answer; F1 and yes-rate for yes/no groups.

    Args:
        probes: The questions.
        answers: The model's answers, in the same order.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for probe, text in zip(probes, answers, strict=True):
        groups.setdefault(probe.group, []).append((_plain(probe.answer), _plain(text)))
    scores: dict[str, float] = {}
    for group, pairs in groups.items():
        scores[f"{group}/accuracy"] = sum(truth == given for truth, given in pairs) / len(pairs)
        scores[f"{group}/majority"] = max(Counter(truth for truth, _ in pairs).values()) / len(pairs)
        scores[f"{group}/n"] = len(pairs)
        if group.startswith("pope/"):
            scores |= {f"{group}/{name}": value for name, value in _yes_no(pairs).items()}
    return scores


def _yes_no(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """F1 of the answer "yes" and its rate, from (truth, given) pairs."""
    counts = Counter((truth, given == "yes") for truth, given in pairs)
    hits, false, missed = counts["yes", True], counts["no", True], counts["yes", False]
    return {"f1": 2 * hits / max(2 * hits + false + missed, 1), "yes_rate": (hits + false) / counts.total()}


def caption_scores(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """CHAIR (Rohrbach et al., arXiv 1809.02156) by plain word match against the objects there.

    Args:
        scenes: The images.
        captions: One caption each.

    Returns:
        chair/i: hallucinated share of the named objects; chair/s: share of captions that hallucinate;
        chair/recall: named share of the objects there; chair/words: mean length.
    """
    named = [mentioned(caption) for caption in captions]
    false = [names - set(scene.counts) for names, scene in zip(named, scenes, strict=True)]
    there = [names & set(scene.counts) for names, scene in zip(named, scenes, strict=True)]
    return {
        "chair/i": sum(map(len, false)) / max(sum(map(len, named)), 1),
        "chair/s": sum(map(bool, false)) / len(captions),
        "chair/recall": sum(map(len, there)) / max(sum(len(scene.counts) for scene in scenes), 1),
        "chair/words": sum(len(words(caption)) for caption in captions) / len(captions),
    }


def _plain(answer: str) -> str:
    """An answer without case, white space around it and a full stop."""
    return answer.strip().removesuffix(".").lower()


def mentioned(caption: str) -> set[str]:
    """Categories that a caption names in singular or plural, the longest name first ("hot dog" is no dog)."""
    names = {tuple(words(form)): c.name for c in CATEGORIES.values() for form in (c.name, c.plural)}
    tokens, found, at = words(caption.lower()), set(), 0
    while at < len(tokens):
        for length in (2, 1):
            if name := names.get(tuple(tokens[at : at + length])):
                found.add(name)
                at += length
                break
        else:
            at += 1
    return found
