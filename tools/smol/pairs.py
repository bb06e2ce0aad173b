"""The language prior of pairs: does naming one object make a model expect those that go with it?

"There is a plate in the image. Is there a fork in the image?" is asked with nothing to see. By how much the first
sentence moves the margin of "Yes" over "No" is set against how much more often the two are together than by chance, in
Scenes (what training could teach) and in COCO (what pretraining could).
"""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import permutations
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkbench.scenes.questions import SHORT_SUFFIX, is_there
from sinkbench.scenes.scene import DEFAULT, sample_scene
from sinkbench.scenes.world import CATEGORIES
from smol.nouns import capitalised, some
from smol.prior import TRAINING_SEED, Subject, correlation, load, log_probabilities

Pair = tuple[str, str]
"""The object that is named, and the one that is asked about."""

_OF_EACH = 100
"""Pairs of strongest lift in COCO, of strongest lift in Scenes, and at random."""


class Together:
    """How often objects appear, alone and in pairs.

    Args:
        images: The objects of each image.
    """

    def __init__(self, images: Iterable[Iterable[str]]) -> None:
        self.images = 0
        self.alone, self.both = Counter[str](), Counter[Pair]()
        for names in images:
            held = sorted(set(names) & set(CATEGORIES))
            self.images += 1
            self.alone.update(held)
            self.both.update(permutations(held, 2))

    def lift(self, pair: Pair) -> float:
        """Log of P(asked | named) / P(asked), as if one more image with the named object were of the average kind."""
        named, asked = pair
        chance = (self.alone[asked] + 0.5) / (self.images + 1)
        return log((self.both[pair] + chance) / (self.alone[named] + 1) / chance)


def together_in_scenes(scenes: int) -> Together:
    """Of the first scenes of the training stream."""
    return Together(sample_scene("train", TRAINING_SEED, index, DEFAULT).counts for index in range(scenes))


def together_in_coco(table: Path) -> Together:
    """Of CHAIR's ground truth, see `prior.coco_frequency`."""
    with gzip.open(table, "rt", encoding="utf-8") as lines:
        return Together(json.loads(line)[1] for line in lines)


def choose(in_scenes: Together, in_coco: Together) -> list[Pair]:
    """Pairs with much and with little to expect."""
    everything = list(permutations(CATEGORIES, 2))
    chosen = dict.fromkeys(random.Random(0).sample(everything, _OF_EACH))
    for seen in (in_scenes, in_coco):
        chosen |= dict.fromkeys(sorted(everything, key=seen.lift, reverse=True)[:_OF_EACH])
    return list(chosen)


def effect(subject: Subject, pairs: list[Pair], blank: bool) -> Tensor:
    """(n,) nats by which naming the first object moves the margin of "Yes" over "No" for the second."""
    told = [f"There is {some(named, 1)} in the image. {capitalised(is_there(asked))}" for named, asked in pairs]
    names = list(CATEGORIES)
    plain = _margin(subject, [is_there(name) for name in names], blank)
    return _margin(subject, told, blank) - plain[[names.index(asked) for _, asked in pairs]]


def _margin(subject: Subject, questions: list[str], blank: bool) -> Tensor:
    found = log_probabilities(subject, blank, [question + SHORT_SUFFIX for question in questions])
    return found[:, 0] - found[:, 1]


def measure(folders: Mapping[str, Path], scenes: int, coco: Path) -> dict[str, Any]:
    """What naming an object does in several models, and what that goes together with.

    Args:
        folders: Models by name.
        scenes: Scenes behind the training statistics.
        coco: CHAIR's ground truth.

    Returns:
        By "MODEL/none" and "MODEL/blank": `mean` and `std` of the effect in nats, the pairs where it is strongest, and
        Spearman's correlations of it, with intervals from resampled pairs (which share objects: too narrow).
    """
    in_scenes, in_coco = together_in_scenes(scenes), together_in_coco(coco)
    pairs = choose(in_scenes, in_coco)
    lifts = {
        name: torch.tensor([seen.lift(pair) for pair in pairs])
        for name, seen in (("scenes", in_scenes), ("coco", in_coco))
    }
    moved: dict[str, Tensor] = {}
    for name, folder in folders.items():
        subject = load(folder)
        moved[f"{name}/none"] = effect(subject, pairs, blank=False)
        if subject.sees:
            moved[f"{name}/blank"] = effect(subject, pairs, blank=True)
    return {
        "question": f"There is a Y in the image. {is_there('X')}{SHORT_SUFFIX}",
        "training_scenes": scenes,
        "pairs": len(pairs),
        "coco and scenes": correlation(lifts["coco"], lifts["scenes"]),
        "models": {
            key: {
                "mean": round(float(values.mean()), 3),
                "std": round(float(values.std()), 3),
                "most": [" given ".join(pairs[place][::-1]) for place in values.argsort(descending=True)[:5].tolist()],
                "scenes": correlation(values, lifts["scenes"]),
                "coco": correlation(values, lifts["coco"]),
                "coco given scenes": correlation(values, lifts["coco"], lifts["scenes"]),
                "scenes given coco": correlation(values, lifts["scenes"], lifts["coco"]),
            }
            for key, values in moved.items()
        },
    }
