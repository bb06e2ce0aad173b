"""Held-out questions with known answers, made from scenes without touching a file."""

from collections.abc import Sequence
from dataclasses import dataclass

from sinkbench.scenes.questions import LETTERS, draw_facts, facts, multiple_choice
from sinkbench.scenes.rows import POPE_POSITIVES, TOPICS, Row, mcq_rows, pope_rows, text_rows
from sinkbench.scenes.scene import Scene, SceneConfig, sample_scene, scene_rng


@dataclass(frozen=True)
class Probe:
    """A question on one image.

    Attributes:
        image: Index of the scene.
        group: What it measures, for example "pope/adversarial" or "mcq/counting".
        question: The question.
        answer: The right answer.
    """

    image: int
    group: str
    question: str
    answer: str


def held_out_scenes(seed: int, n: int, config: SceneConfig) -> list[Scene]:
    """The first `n` scenes of the split "val" that POPE's rules can use."""
    scenes: list[Scene] = []
    index = 0
    while len(scenes) < n:
        scene = sample_scene("val", seed, index, config)
        index += 1
        if len(scene.counts) >= POPE_POSITIVES:
            scenes.append(scene)
    return scenes


def make_probes(scenes: Sequence[Scene]) -> list[Probe]:
    """POPE's three splits, circular multiple choice and the signs as in the evaluation rows, and open questions."""
    probes = [
        Probe(_image(row), f"pope/{row['category']}", row["question"], row["answer"]) for row in pope_rows(scenes)
    ]
    probes += [Probe(_image(row), f"mcq/{row['category']}", _choice(row), row["answer"]) for row in mcq_rows(scenes)]
    probes += [Probe(_image(row), "open/reading", row["question"], row["answers"][0]) for row in text_rows(scenes)]
    for image, scene in enumerate(scenes):
        rng = scene_rng(scene.split, scene.seed, scene.index, "probes")
        for topic in TOPICS:
            for fact in draw_facts(facts(scene), topic, 1, rng):
                probes.append(Probe(image, f"open/{topic}", fact.question, fact.answer))
    return probes


def _image(row: Row) -> int:
    return int(row["image"].removesuffix(".jpg")) - 1


def _choice(row: Row) -> str:
    return multiple_choice(row["question"], [row[letter] for letter in LETTERS])
