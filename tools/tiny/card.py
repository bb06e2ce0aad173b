"""What is written beside the weights: the model card and the loss curve."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sinkbench.scenes.scene import DEFAULT
from sinkbench.scenes.world import CATEGORIES, KINDS

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# {name}

A model of the class `{kind}` with {total} parameters ({vision} ViT, {projector} projector,
{language} language model), {origin} {tokens} image tokens. {purpose}

## Data
Scenes of the split "train", seed {seed}, drawn while training; {images} images, each seen once, with questions on
presence, number, position, colour, place and signs, and a caption. {absent} of the captions name one or two likely but
absent objects on purpose, so that the model hallucinates at a rate worth measuring. Scenes differ from those of the
evaluation splits in: {difference}. Evaluation splits use a random stream of their own.

## Recipe
{steps} steps of {batch} images, AdamW, peak learning rate {rate}, cosine, bf16 arithmetic over float32 weights;
{minutes} minutes on {device}. Loss on answers only; the questions on an image share one prefix and do not see each
other. Command:

```
{command}
```
{note}
```json
{recipe}
```

## Scores
Greedy, on {scenes} held-out scenes (split "val", seed {val_seed}), measured by the training script. "Majority" is what
the most frequent right answer would score.

| measure | score | majority | n |
|---|---|---|---|
{scores}

## Sinks
Largest magnitude of image tokens against the median magnitude of all: **{image_max} against {median}** (hidden state
{layer}, dimensions {dimensions}). Hidden state 0 is the embedding, the last one is after the final norm. phi is
max |x| / RMS(x) of an image token; masses are attention from the last prompt token, mean over heads and images; "first"
is the first token of the prompt.

| state | median | image max | text max | first max | phi max | dimensions | first mass | image mass | top token mass |
|---|---|---|---|---|---|---|---|---|---|
{sinks}

## Limits
{categories} kinds of emoji objects, {kinds} kinds of place, {wordings}
Scores say nothing about photographs or about other models. The object sprites derive from Noto Color Emoji;
see the licence beside the atlas. Weights: Apache-2.0.
"""

_TINY = {
    "origin": "trained from scratch on Scenes, the rendered data set of sinkbench.",
    "purpose": """It exists so that every path of the harness can be run, tested and measured offline in seconds; it
knows {vocabulary} words and no photographs.""",
    "wordings": "fixed wordings. Words outside its vocabulary become `<unk>`.",
}
_SMOL = {
    "origin": """trained on Scenes, the rendered data set of sinkbench, around
SmolLM2-135M-Instruct as dequantised from 4 bits, with the ViT of tiny-llava.""",
    "purpose": "A real language model with synthetic eyes: it knows English and no photographs.",
    "wordings": """a few dozen wordings of each question. The base differs from the checkpoint that its authors
published by the error of its quantisation.""",
}


def write_card(folder: Path, training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """Write README.md of a model folder.

    Args:
        folder: The model folder.
        training: What training.json holds.
        evaluation: What `tiny.evaluate.evaluate` returned.
    """
    summary = evaluation["sink_summary"]
    text = CARD.format(
        **_training_facts(training),
        scenes=evaluation["split"]["scenes"],
        val_seed=evaluation["split"]["seed"],
        scores="\n".join(_score_rows(evaluation["scores"])),
        image_max=summary["image_max"],
        median=summary["median"],
        layer=summary["layer"],
        dimensions=", ".join(map(str, summary["dimensions"])),
        sinks="\n".join(map(_sink_row, evaluation["sinks"])),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _training_facts(training: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `CARD` that training decides."""
    recipe = training["recipe"]
    scene = recipe["data"]["scene"]
    absent = scene.get("absent_mention", DEFAULT.absent_mention)
    evaluated = json.loads(json.dumps(asdict(DEFAULT)))
    changed = [f"{key} {value} (evaluation: {evaluated[key]})" for key, value in scene.items()]
    words = _SMOL if recipe.get("family") == "smol" else _TINY
    return {
        **{key: text.format(vocabulary=training["vocabulary"]) for key, text in words.items()},
        "name": recipe["name"],
        "categories": len(CATEGORIES),
        "kinds": len(KINDS),
        **{part: f"{count / 1e6:.2f} M" for part, count in training["parameters"].items()},
        **{key: training[key] for key in ("steps", "images", "minutes", "device", "command")},
        "kind": training["class"],
        "tokens": training["image_tokens"],
        "seed": recipe["data"]["seed"],
        "absent": f"{absent:.0%}",
        "difference": ", ".join(changed) or "nothing",
        "batch": recipe["optimisation"]["batch_size"],
        "rate": recipe["optimisation"]["learning_rate"],
        "note": training.get("note", ""),
        "recipe": json.dumps(recipe, indent=1),
    }


def _score_rows(scores: Mapping[str, float]) -> list[str]:
    rows = []
    for name, value in scores.items():
        group, _, measure = name.rpartition("/")
        if measure in ("majority", "n"):
            continue
        majority = f"{scores[f'{group}/majority']:.3f}" if measure == "accuracy" else ""
        rows.append(f"| {name} | {value:.3f} | {majority} | {scores.get(f'{group}/n', '')} |")
    return rows


def _sink_row(entry: Mapping[str, Any]) -> str:
    values = [entry[key] for key in ("layer", "median", "image_max", "text_max", "first_max", "image_phi_max")]
    values.append(", ".join(entry["image_dimensions"]))
    values += [entry.get(key, "") for key in ("first_mass", "image_mass", "top_image_token_mass")]
    return f"| {' | '.join(map(str, values))} |"


def draw_loss(log: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the loss curve; without matplotlib say so and go on."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"matplotlib is not installed: {path} is not drawn", file=sys.stderr)
        return
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["images"] / 1e3 for line in log], [line["loss"] for line in log])
    axes.set(xlabel="images (thousands)", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of train_log.jsonl."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
