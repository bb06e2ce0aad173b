"""POPE's questions for any photographs whose objects are known.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (EMNLP 2023), section 4: as many questions
about objects that are there as about objects that are not, these drawn at random, by their frequency in the data set,
or by how often they stand beside the object that is there.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sinkbench.scoring.pope import SPLITS, Answer


class Question(NamedTuple):
    """A question of a split about an image.

    Attributes:
        image: Its id.
        split: "random", "popular" or "adversarial".
        text: Such as "Is there a dog in the image?".
        answer: Whether the object is there.
    """

    image: int
    split: str
    text: str
    answer: Answer


def ask(name: str) -> str:
    """The question about a category, with POPE's rule for the article ("a skis", "an oven")."""
    article = "an" if name[:1] in tuple("aeiou") else "a"
    return f"Is there {article} {name} in the image?"


def pope_questions(
    objects: Mapping[int, Sequence[str]], per_image: int = 3, n_images: int = 500, seed: int = 0
) -> list[Question]:
    """Questions of all three splits, those on an image together; yes and no alternate.

    All splits ask about the same objects that are there. Frequencies and neighbours are counted over the chosen images,
    as the released code does; it takes the first objects of an image, and here the seed draws them. Where an object has
    too few neighbours, absent ones are drawn at random (as there).

    Args:
        objects: Categories in each image, by id.
        per_image: Questions with the answer yes a split and image, and as many with no. Images with fewer categories,
            or with fewer that occur elsewhere, are left out.
        n_images: Take so many images at most. The images of a smaller number are among those of a larger one.
        seed: Draws images and objects.
    """
    rich = [image for image, names in objects.items() if len(set(names)) >= per_image]
    chosen = sorted(sorted(rich, key=lambda image: _rank(seed, image))[:n_images])
    kinds = {image: sorted(set(objects[image])) for image in chosen}
    frequency = Counter(name for names in kinds.values() for name in names)
    beside: dict[str, Counter[str]] = {name: Counter() for name in frequency}
    for names in kinds.values():
        for name in names:
            beside[name].update(other for other in names if other != name)
    popular = _ranked(frequency)
    questions = []
    for image, names in kinds.items():
        absent = [name for name in sorted(frequency) if name not in names]
        if len(absent) < per_image:
            continue
        present = random.Random(f"{seed} {image}").sample(names, per_image)
        for split in SPLITS:
            draw = random.Random(f"{seed} {image} {split}")
            drawn = draw.sample(absent, len(absent))
            left = dict.fromkeys(absent)
            for name in present:
                order = {"random": [], "popular": popular, "adversarial": _ranked(beside[name])}[split]
                other = next(candidate for candidate in (*order, *drawn) if candidate in left)
                del left[other]
                questions += [Question(image, split, ask(name), "yes"), Question(image, split, ask(other), "no")]
    return questions


def _rank(seed: int, image: int) -> str:
    return hashlib.sha256(f"{seed} {image}".encode()).hexdigest()


def _ranked(counts: Mapping[str, int]) -> list[str]:
    """Names by falling count, equal ones by name."""
    return sorted(counts, key=lambda name: (-counts[name], name))
