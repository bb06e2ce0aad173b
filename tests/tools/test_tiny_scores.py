"""Scores and sink statistics of the training script."""

import pytest
import torch
from tiny.evaluate import caption_scores, mentioned, probe_scores
from tiny.llava import build_model
from tiny.probes import Probe, held_out_scenes, make_probes
from tiny.prompts import answer, encode_prompts
from tiny.recipe import load_recipe
from tiny.sinks import sink_report, sink_summary

from sinkbench.scenes.language import caption
from sinkbench.scenes.scene import DEFAULT, scene_rng

SCENES = held_out_scenes(seed=7, n=6, config=DEFAULT)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A kitchen with a hot dog and two cups.", {"hot dog", "cup"}),
        ("A park with two dogs. A sign says stop.", {"dog"}),
        ("An office with two mice, a stop sign and a cell phone.", {"mouse", "stop sign", "cell phone"}),
        ("", set()),
    ],
)
def test_mentioned_prefers_the_longest_name(text, names):
    assert mentioned(text) == names


def test_true_captions_do_not_hallucinate_and_absent_objects_do():
    true = [caption(scene, scene_rng("val", 7, scene.index, "caption")) for scene in SCENES]
    scores = caption_scores(SCENES, true)
    assert scores["chair/i"] == scores["chair/s"] == 0
    assert scores["chair/recall"] == 1
    absent = "elephant" if "elephant" not in SCENES[0].counts else "toilet"
    false = [f"{true[0]} There is also a {absent}.", *true[1:]]
    named = sum(len(scene.counts) for scene in SCENES)
    assert caption_scores(SCENES, false)["chair/i"] == pytest.approx(1 / (named + 1))
    assert caption_scores(SCENES, false)["chair/s"] == pytest.approx(1 / 6)


def test_right_answers_score_one_and_yes_alone_two_thirds():
    probes = make_probes(SCENES)
    right = probe_scores(probes, [probe.answer for probe in probes])
    assert all(value == 1 for name, value in right.items() if name.endswith(("/accuracy", "/f1")))
    yes = probe_scores(probes, ["yes"] * len(probes))
    assert yes["pope/popular/f1"] == pytest.approx(2 / 3)
    assert yes["pope/popular/yes_rate"] == 1
    assert yes["pope/popular/majority"] == 0.5


def test_probes_tell_the_truth():
    for probe in make_probes(SCENES):
        if probe.group.startswith("pope/"):
            name = probe.question.removesuffix(" in the image?").split(" ", 3)[3]
            assert (probe.answer == "yes") == (name in SCENES[probe.image].counts)


def test_empty_answer_is_wrong():
    scores = probe_scores([Probe(0, "pope/random", "Is there a dog in the image?", "no")], [""])
    assert scores["pope/random/accuracy"] == 0


@pytest.fixture(scope="module")
def model(micro, tokenizer):
    return build_model(load_recipe(micro), tokenizer).eval()


def test_sink_report_finds_a_planted_outlier(model, processor):
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias[5] = 50.0
    report = sink_report(model, processor, images, "Is there a dog in the image?")
    summary = sink_summary(report)
    assert summary["dimensions"][0] == 5
    assert summary["image_max"] == pytest.approx(50, abs=2)
    assert report[0]["image_phi_max"] == pytest.approx(32**0.5, rel=0.02)
    assert 0 < report[1]["first_mass"] < report[1]["image_mass"] < 1
    assert model.config._attn_implementation == "sdpa"


def test_answers_do_not_depend_on_the_batch(model, processor):
    images = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
    asked = [(0, "Describe this image."), (2, "Is there a dog in the image?"), (1, "What kind of place is this?")]
    together = answer(model, processor, images, asked, batch_size=3, max_new_tokens=5)
    assert together == answer(model, processor, images, asked, batch_size=1, max_new_tokens=5)
    inputs = encode_prompts(model, processor, images[:2], ["Describe this image.", "What kind of place is this?"])
    assert inputs["attention_mask"][0, 0] == 0
