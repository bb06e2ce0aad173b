"""The language prior of yes/no questions: what a model answers when there is nothing to see.

"Is there a X in the image?" is asked without any image and with a blank one; the margin of "Yes" over "No" is set
against how frequent X is in Scenes (what training could teach) and in COCO (what pretraining could).
"""

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sinkbench.scenes.dialogue import training_turns
from sinkbench.scenes.questions import SHORT_SUFFIX, is_there
from sinkbench.scenes.scene import DEFAULT, SIZE, sample_scene, scene_rng
from sinkbench.scenes.world import CATEGORIES
from sinkbench.smol_llava import build_processor
from smol.nouns import PRESENCE

TRAINING_SEED = 2
"""data.seed of configs/train/smol-llava.yaml."""
_BATCH = 17
_RESAMPLES = 2000


class Subject(NamedTuple):
    """A model to ask.

    Attributes:
        model: On the CPU, float32.
        processor: Its processor.
        sees: Whether it takes images.
    """

    model: Any
    processor: Any
    sees: bool


def load(folder: Path) -> Subject:
    """Read smol-llava, or its text-only base, which is asked in smol-llava's conversation form."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

    if AutoConfig.from_pretrained(folder).model_type == "llava":
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        return Subject(model.eval(), AutoProcessor.from_pretrained(folder), True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Subject(model.eval(), build_processor(folder), False)


@torch.inference_mode()
def log_probabilities(subject: Subject, blank: bool, questions: Sequence[str] = ()) -> Tensor:
    """(C, 2) log-probabilities of "Yes" and "No" as the answer's first token, by question.

    Args:
        subject: The model.
        blank: Show an image of the processor's mean colour instead of none.
        questions: What is asked; nothing means whether there is one of each category.
    """
    tokenizer = subject.processor.tokenizer
    words = [tokenizer(word)["input_ids"][0] for word in ("Yes", "No")]
    found = []
    questions = questions or [is_there(name) + SHORT_SUFFIX for name in CATEGORIES]
    for start in range(0, len(questions), _BATCH):
        prompts = [_prompt(subject.processor, question, blank) for question in questions[start : start + _BATCH]]
        pictures = {"images": [_blank_image(subject.processor)] * len(prompts)} if blank else {}
        inputs = subject.processor(text=prompts, padding=True, return_tensors="pt", **pictures)
        logits = subject.model(**inputs, logits_to_keep=1).logits[:, -1]
        found.append(logits.log_softmax(-1)[:, words])
    return torch.cat(found)


def _prompt(processor: Any, question: str, blank: bool) -> str:
    content = [{"type": "image"}] * blank + [{"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _blank_image(processor: Any) -> Tensor:
    """(3, SIZE, SIZE) uint8 of the mean colour, which normalises to nearly zero."""
    colour = torch.tensor(processor.image_processor.image_mean).mul(255).round().to(torch.uint8)
    return colour[:, None, None].expand(3, SIZE, SIZE)


def scenes_statistics(scenes: int) -> dict[str, dict[str, float]]:
    """What training shows of each category, from the first scenes of the training stream.

    The training recipe changes sizes only, which decide neither what is there nor what is asked.

    Returns:
        By category `frequency`, the share of images that hold it, and `yes`, the share of "yes" among the answers to
        POPE's question about it.
    """
    held, asked, yes = Counter[str](), Counter[str](), Counter[str]()
    for index in range(scenes):
        scene = sample_scene("train", TRAINING_SEED, index, DEFAULT)
        held.update(scene.counts.keys())
        for question, answer in training_turns(scene, scene_rng("train", TRAINING_SEED, index, "dialogue")):
            if category := PRESENCE.get(question.removesuffix(SHORT_SUFFIX)):
                asked[category] += 1
                yes[category] += answer == "yes"
    return {name: {"frequency": held[name] / scenes, "yes": yes[name] / max(asked[name], 1)} for name in CATEGORIES}


def coco_frequency(table: Path) -> dict[str, float]:
    """Share of COCO 2014's images with each category, from CHAIR's ground truth.

    Args:
        table: Lines of [image id, [categories]], gzipped: instances, and objects that the reference captions name.
    """
    with gzip.open(table, "rt", encoding="utf-8") as lines:
        images = [set(json.loads(line)[1]) for line in lines]
    held = Counter(name for categories in images for name in categories)
    return {name: held[name] / len(images) for name in CATEGORIES}


def ranks(values: Tensor) -> Tensor:
    """Ranks of (…, n) values from 0, ties sharing their mean."""
    smaller = (values[..., None, :] < values[..., :, None]).sum(-1)
    return smaller + ((values[..., None, :] == values[..., :, None]).sum(-1) - 1) / 2


def spearman(a: Tensor, b: Tensor, given: Tensor | None = None) -> Tensor:
    """Rank correlation (…) of (…, n) values; `given` is held constant (partial correlation of the ranks)."""
    x, y = (_centred(ranks(values)) for values in (a, b))
    if given is not None:
        z = _centred(ranks(given))
        x, y = (values - (values * z).sum(-1, True) / z.square().sum(-1, True) * z for values in (x, y))
    return torch.cosine_similarity(x, y, dim=-1)


def _centred(values: Tensor) -> Tensor:
    return values.double() - values.double().mean(-1, keepdim=True)


def correlation(a: Tensor, b: Tensor, given: Tensor | None = None) -> dict[str, Any]:
    """Spearman's correlation of (n,) values with a 95 % interval from resampled categories (percentile bootstrap)."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randint(len(a), (_RESAMPLES, len(a)), generator=rng)
    found = spearman(a[draws], b[draws], None if given is None else given[draws])
    low, high = found.quantile(found.new_tensor([0.025, 0.975])).tolist()
    return {"rho": round(float(spearman(a, b, given)), 3), "low": round(low, 3), "high": round(high, 3)}


def measure(folders: Mapping[str, Path], scenes: int, coco: Path | None) -> dict[str, Any]:
    """Yes-rates and margins (in nats) of several models, and what they go together with.

    Args:
        folders: By name; "base" is the text-only model that the others are compared with.
        scenes: Scenes behind the training statistics.
        coco: CHAIR's ground truth; None leaves COCO out.

    Returns:
        By "MODEL/none" and "MODEL/blank": `yes_or_no`, the probability of either word (mean over categories), and the
        rest from the margins; `known` tells how far what might explain them goes together itself.
    """
    statistics = scenes_statistics(scenes)
    known = {f"scenes_{key}": _column(statistics, key) for key in ("frequency", "yes")}
    known["scenes_size"] = torch.tensor([category.scale for category in CATEGORIES.values()])
    if coco is not None:
        frequency = coco_frequency(coco)
        known["coco_frequency"] = torch.tensor([frequency[name] for name in CATEGORIES])
    found: dict[str, Tensor] = {}
    for name, folder in folders.items():
        subject = load(folder)
        found[f"{name}/none"] = log_probabilities(subject, blank=False)
        if subject.sees:
            found[f"{name}/blank"] = log_probabilities(subject, blank=True)
    margin = {key: values[:, 0] - values[:, 1] for key, values in found.items()}
    base = margin.get("base/none")
    return {
        "question": is_there("X") + SHORT_SUFFIX,
        "training_scenes": scenes,
        "known": {
            f"{key} and scenes_frequency": correlation(values, known["scenes_frequency"])
            for key, values in known.items()
            if key != "scenes_frequency"
        },
        "models": {
            key: {"yes_or_no": round(float(found[key].exp().sum(-1).mean()), 3), **_summary(values, known, base)}
            for key, values in margin.items()
        },
        "categories": {
            name: {key: round(float(values[place]), 4) for key, values in (known | margin).items()}
            for place, name in enumerate(CATEGORIES)
        },
    }


def _column(statistics: Mapping[str, Mapping[str, float]], key: str) -> Tensor:
    return torch.tensor([statistics[name][key] for name in CATEGORIES])


def _summary(margin: Tensor, known: Mapping[str, Tensor], base: Tensor | None) -> dict[str, Any]:
    """Yes-rate of (68,) margins and what they go together with."""
    related = {key: correlation(margin, values) for key, values in known.items()}
    if "coco_frequency" in known:
        scenes, coco = known["scenes_frequency"], known["coco_frequency"]
        related["coco_frequency given scenes_frequency"] = correlation(margin, coco, scenes)
        related["scenes_frequency given coco_frequency"] = correlation(margin, scenes, coco)
    if base is not None and base is not margin:
        related["base/none"] = correlation(margin, base)
    order: Sequence[int] = margin.argsort(descending=True).tolist()
    names = list(CATEGORIES)
    return {
        "yes_rate": round(float((margin > 0).float().mean()), 3),
        "margin_mean": round(float(margin.mean()), 3),
        "margin_std": round(float(margin.std()), 3),
        "most_yes": [names[place] for place in order[:5]],
        "least_yes": [names[place] for place in order[-5:]],
        "spearman": related,
    }
