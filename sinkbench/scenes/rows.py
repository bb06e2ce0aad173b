"""Rows of the evaluation tasks, made from the annotations of a data set's scenes.

Every function takes the scenes of one data set in order; image ids count from 1.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from sinkbench.scenes.annotate import file_name
from sinkbench.scenes.questions import DESCRIBE, LETTERS, READ_SIGN, Fact, draw_facts, facts, is_there
from sinkbench.scenes.scene import Scene, scene_rng
from sinkbench.scenes.world import CATEGORIES

Row = dict[str, Any]

POPE_SPLITS = ("random", "popular", "adversarial")
POPE_POSITIVES = 3
"""Yes questions an image, with as many no questions; POPE uses images with at least so many categories."""
TOPICS = ("counting", "position", "attribute", "scene")
ROTATION = 1_000_000
"""MMBench: rotation r of question q has index q + r * 1 000 000."""
_ANSWERS = 10
"""Reference answers of a VQA question."""


def pope_rows(scenes: Sequence[Scene]) -> list[Row]:
    """POPE's questions (Li et al., 2023, section 4.1): six an image and split, yes and no in turn.

    The yes questions are about three categories there, drawn at random and the same in every split. The no questions
    are about absent categories, none twice for an image and split: random ones, the most frequent over the data set,
    or, for adversarial, the ones that most often stand beside the category of the yes question before.
    """
    frequency = Counter(name for scene in scenes for name in scene.counts)
    together: Counter[tuple[str, str]] = Counter()
    for scene in scenes:
        for a, b in combinations(scene.counts, 2):
            together.update(((a, b), (b, a)))
    # All categories, so that a small data set runs out of none; ties are broken by COCO id.
    names = tuple(CATEGORIES)
    popular = sorted(names, key=lambda name: -frequency[name])
    beside = {name: sorted(names, key=lambda other: -together[name, other]) for name in names}

    rows: list[Row] = []
    for split in POPE_SPLITS:
        for image_id, scene in enumerate(scenes, 1):
            positives = scene_rng(scene.split, scene.seed, scene.index, "pope").sample(
                list(scene.counts), POPE_POSITIVES
            )
            shuffled = scene_rng(scene.split, scene.seed, scene.index, "pope random").sample(names, len(names))
            taken = set(scene.counts)
            for positive in positives:
                ranking = {"random": shuffled, "popular": popular, "adversarial": beside[positive]}[split]
                negative = next(name for name in ranking if name not in taken)
                taken.add(negative)
                for name, answer in ((positive, "yes"), (negative, "no")):
                    rows.append(
                        {
                            "id": len(rows),
                            "image": file_name(image_id),
                            "question": is_there(name),
                            "answer": answer,
                            "category": split,
                            "object": name,
                        }
                    )
    return rows


def chair_rows(scenes: Sequence[Scene]) -> list[Row]:
    """One caption request an image, with the names of all categories there.

    Reference captions name no others (annotate.captions), so this is also CHAIR's union of both sources.
    """
    return [
        {
            "id": number,
            "image": file_name(number + 1),
            "image_id": number + 1,
            "question": DESCRIBE,
            "objects": list(scene.counts),
        }
        for number, scene in enumerate(scenes)
    ]


def mcq_rows(scenes: Sequence[Scene]) -> list[Row]:
    """One multiple-choice question an image in MMBench's circular form: as many rotations as options.

    Topics take turns; an image that has no fact of its turn's topic gets the one before.
    """
    rows: list[Row] = []
    for question, scene in enumerate(scenes):
        rng = scene_rng(scene.split, scene.seed, scene.index, "mcq")
        fact = _fact_in_turn(scene, question, rng)
        options = [fact.answer, *rng.sample(fact.others, len(LETTERS) - 1)]
        rng.shuffle(options)
        for rotation in range(len(options)):
            rotated = options[rotation:] + options[:rotation]
            rows.append(
                {
                    "id": len(rows),
                    "index": question + rotation * ROTATION,
                    "image": file_name(question + 1),
                    "question": fact.question,
                    **dict(zip(LETTERS, rotated, strict=True)),
                    "answer": LETTERS[rotated.index(fact.answer)],
                    "category": fact.topic,
                    "hint": "",
                }
            )
    return rows


def _fact_in_turn(scene: Scene, turn: int, rng: random.Random) -> Fact:
    found = facts(scene)
    turns = (TOPICS[(turn - step) % len(TOPICS)] for step in range(len(TOPICS)))
    return next(drawn[0] for topic in turns if (drawn := draw_facts(found, topic, 1, rng)))


def text_rows(scenes: Sequence[Scene]) -> list[Row]:
    """One question for every image with a sign; the ten reference answers of VQA accuracy agree."""
    signed = [(image_id, scene.sign) for image_id, scene in enumerate(scenes, 1) if scene.sign is not None]
    return [
        {"id": number, "image": file_name(image_id), "question": READ_SIGN, "answers": [sign.text] * _ANSWERS}
        for number, (image_id, sign) in enumerate(signed)
    ]


def synonym_lines() -> list[str]:
    """CHAIR's synonyms table: one line a category, its name first, entries separated by a comma and a space."""
    return [", ".join((c.name, *c.synonyms)) for c in CATEGORIES.values()]
