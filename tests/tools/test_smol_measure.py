"""What is measured of smol-llava, on a tiny random base with nothing but a projector of its own."""

import gzip
import json
import math

import pytest
import random_smol
import torch
from smol import measure, pairs, perplexity, prior
from smol.prior import correlation, ranks, scenes_statistics, spearman
from transformers import AutoModelForCausalLM, AutoTokenizer

from sinkbench.downloads import cache_path
from sinkbench.scenes.world import CATEGORIES
from sinkbench.smol_llava import bare_model, build_processor


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The cache with a random base, and a folder of the untrained model around it."""
    home = tmp_path_factory.mktemp("measure")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINKBENCH_CACHE", str(home))
        base = random_smol.save_base(cache_path("smollm2"))
    model = home / "model"
    bare_model(base).save_pretrained(model)
    build_processor(base).save_pretrained(model)
    return base, model


@pytest.fixture
def run(folders, tmp_path, monkeypatch):
    base, model = folders
    monkeypatch.setenv("SINKBENCH_CACHE", str(base.parent))

    def run(*options):
        out = tmp_path / "out.json"
        assert measure.main([*options, "--model", f"bare={model}", "--out", str(out)]) == 0
        text = out.read_text()
        assert str(base.parent) not in text
        return json.loads(text)

    return run


def test_ties_share_their_rank():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 7.0])).tolist() == [1.5, 0.0, 1.5, 3.0]


def test_rank_correlation_and_what_is_held_constant():
    x = torch.arange(10.0)
    assert float(spearman(x, x**3)) == pytest.approx(1)
    assert float(spearman(x, -x.exp())) == pytest.approx(-1)
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 · 4 / (5 · 24).
    swapped = spearman(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([2.0, 1, 4, 3, 5]))
    assert float(swapped) == pytest.approx(0.8)
    cause = torch.randn(400, generator=torch.Generator().manual_seed(0))
    a, b = (cause + torch.randn(400, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert spearman(a, b) > 0.3
    assert spearman(a, b, cause).abs() < 0.15
    found = correlation(a[:40], b[:40])
    assert found["low"] < found["rho"] < found["high"]


def test_training_shows_frequent_categories_and_asks_in_balance():
    found = scenes_statistics(300)
    assert set(found) == set(CATEGORIES)
    assert found["person"]["frequency"] > 5 * found["zebra"]["frequency"] > 0
    assert 0.3 < sum(row["yes"] for row in found.values()) / len(found) < 0.7


def test_the_base_alone_answers_as_inside_smol_llava(folders):
    base, model = (prior.load(folder) for folder in folders)
    assert (base.sees, model.sees) == (False, True)
    plain = prior.log_probabilities(base, blank=False)
    assert plain.shape == (len(CATEGORIES), 2)
    torch.testing.assert_close(prior.log_probabilities(model, blank=False), plain)
    assert not torch.allclose(prior.log_probabilities(model, blank=True), plain)


def test_a_blank_image_normalises_to_nearly_nothing(folders):
    processor = prior.load(folders[1]).processor
    pixels = processor.image_processor(images=[prior._blank_image(processor)], return_tensors="pt")["pixel_values"]
    assert pixels.abs().max() < 0.01


def test_prior_is_set_against_both_worlds(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "_RESAMPLES", 20)
    table = tmp_path / "coco.jsonl.gz"
    with gzip.open(table, "wt") as lines:
        for number in range(len(CATEGORIES)):
            lines.write(json.dumps([number, list(CATEGORIES)[: number + 1]]) + "\n")
    found = run("prior", "--scenes", "200", "--coco", str(table))
    assert list(found["models"]) == ["base/none", "bare/none", "bare/blank"]
    assert found["categories"]["person"]["coco_frequency"] == 1.0
    same = found["models"]["bare/none"]
    assert same["spearman"]["base/none"]["rho"] == 1.0
    assert same["most_yes"] == found["models"]["base/none"]["most_yes"]
    assert "coco_frequency given scenes_frequency" in same["spearman"]
    assert found["made_by"]["command"].endswith("--model bare=model --scenes 200 --coco coco.jsonl.gz --out out.json")


def test_lift_is_how_much_more_often_two_are_together():
    images = [["fork", "person"], ["fork", "person"], ["fork"], *[["dog"]] * 7, ["no category"]]
    seen = pairs.Together(images)
    forks = 3.5 / 12
    assert seen.lift(("person", "fork")) == pytest.approx(math.log((2 + forks) / 3 / forks))
    assert seen.lift(("fork", "dog")) < 0 < seen.lift(("fork", "person"))
    assert seen.lift(("zebra", "fork")) == pytest.approx(0), "nothing is known of zebras"


def test_pairs_that_go_together_are_among_the_chosen(monkeypatch):
    monkeypatch.setattr(pairs, "_OF_EACH", 3)
    scenes = pairs.Together([["fork", "knife"], ["dog"]])
    coco = pairs.Together([["zebra", "giraffe"], ["dog"]])
    chosen = pairs.choose(scenes, coco)
    assert {("fork", "knife"), ("knife", "fork"), ("zebra", "giraffe"), ("giraffe", "zebra")} <= set(chosen)
    assert len(set(chosen)) == len(chosen) <= 9
    assert all(named != asked for named, asked in chosen)


def test_pairs_are_asked_of_every_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "_RESAMPLES", 20)
    monkeypatch.setattr(pairs, "_OF_EACH", 4)
    table = tmp_path / "coco.jsonl.gz"
    with gzip.open(table, "wt") as lines:
        for number in range(40):
            lines.write(json.dumps([number, ["fork", "knife"] if number % 2 else ["dog", "person"]]) + "\n")
    found = run("pairs", "--scenes", "60", "--coco", str(table))
    assert list(found["models"]) == ["base/none", "bare/none", "bare/blank"]
    assert found["models"]["bare/none"]["scenes"] == found["models"]["base/none"]["scenes"]
    assert found["pairs"] == len(pairs.choose(pairs.together_in_scenes(60), pairs.together_in_coco(table)))


def test_perplexity_is_that_of_transformers_own_loss(folders):
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    sums, counts = perplexity.losses(model, tokenizer, ["A dog.", "Two cats sat there."])
    for text, total, count in zip(("A dog.", "Two cats sat there."), sums, counts, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert count == ids.shape[1] - 1
        torch.testing.assert_close(total / count, model(input_ids=ids, labels=ids).loss.detach())


def test_an_untouched_language_model_has_the_bases_perplexity(run, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "SENTENCES", tmp_path / "sentences.txt")
    measure.SENTENCES.write_text("A dog sat there.\nTwo cats ran away.\n")
    found = run("perplexity")["models"]
    assert found["bare"]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["bare"]["perplexity"] == found["base"]["perplexity"]


def test_scores_have_the_form_of_the_trainers(run):
    found = run("scores", "--scenes", "2")
    assert found["scores"]["pope/adversarial/n"] == 12
    assert found["split"]["scenes"] == 2
    assert len(found["captions"]) == 2
    assert [entry["layer"] for entry in found["sinks"]] == [0, 1, 2, 3]


def test_a_folder_that_is_none_is_a_usage_error(tmp_path, capsys):
    out = str(tmp_path / "out.json")
    assert measure.main(["scores", "--model", f"a={tmp_path}", "--out", out]) == 2
    assert "NAME=FOLDER" in capsys.readouterr().err
    assert measure.main(["scores", "--out", out]) == 2
    assert "Give --model once" in capsys.readouterr().err
