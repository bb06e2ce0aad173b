"""The training command end to end, on a recipe that takes seconds."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
import train_tiny
from PIL import Image
from tiny import loop
from tiny.llava import CHAT, LlavaForward, build_model
from tiny.loop import Trainer, learning_rate
from tiny.progress import Progress
from tiny.recipe import Budget, Optimisation, load_recipe
from transformers import AutoProcessor, LlavaForConditionalGeneration

from sinkbench.adapters import load_adapter, resolve_model
from sinkbench.errors import SinkbenchError
from sinkbench.request import ImageRef, Message, Request


@pytest.fixture(scope="session")
def trained(micro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "micro"
    options = ["--config", str(micro), "--out", str(folder), "--device", "cpu", "--steps", "100", "--workers", "1"]
    assert train_tiny.main(options) == 0
    return folder


def test_loss_falls(trained):
    lines = [json.loads(line) for line in (trained / "train_log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [50, 100]
    assert [line["images"] for line in lines] == [100, 200]
    assert lines[1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[1]["lr"] < lines[0]["lr"]


def test_folder_loads_as_shipped(trained):
    model, info = LlavaForConditionalGeneration.from_pretrained(trained, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == AutoProcessor.from_pretrained(trained).tokenizer.eos_token_id
    assert not (trained / "checkpoint.pt").exists()


def test_evaluation_and_card(trained):
    result = json.loads((trained / "eval.json").read_text("utf-8"))
    assert result["scores"]["pope/adversarial/n"] == 4 * 6
    assert result["scores"]["pope/adversarial/majority"] == 0.5
    assert result["scores"]["mcq/scene/n"] >= 4
    assert [entry["layer"] for entry in result["sinks"]] == [0, 1, 2]
    card = (trained / "README.md").read_text("utf-8")
    assert "196 image tokens" in card
    assert "sizes [12.0, 29.0] (evaluation: [11.0, 29.0]), sign 0.5 (evaluation: 0.6)" in card
    assert "--steps 100 --out micro" in card
    assert str(trained) not in card


def test_every_family_trains_evaluates_and_loads(micro_of, tmp_path):
    folder = tmp_path / "model"
    options = ["--config", str(micro_of), "--out", str(folder), "--device", "cpu", "--steps", "2", "--workers", "0"]
    assert train_tiny.main([*options, "--no-compile"]) == 0
    adapter = load_adapter(resolve_model(str(folder)), device="cpu")
    card = (folder / "README.md").read_text("utf-8")
    assert f"of the class `{type(adapter.model).__name__}` with" in card
    Image.new("RGB", (224, 224), "red").save(tmp_path / "red.png")
    question = Message("user", "<image>Is there a dog in the image?")
    prompt = adapter.encode(Request("1", (question,), (ImageRef(str(tmp_path / "red.png")),)))
    tokens = int((prompt.ids == adapter.image_token).sum())
    assert f"{tokens} image tokens" in card
    assert adapter.eos == (adapter.tokenizer.eos_token_id,)
    result = json.loads((folder / "eval.json").read_text("utf-8"))
    assert [entry["layer"] for entry in result["sinks"]] == [0, 1, 2]
    assert 0 < result["sinks"][1]["image_mass"] < 1


def test_finished_run_is_not_overwritten_but_can_be_evaluated_again(trained, micro, capsys):
    options = ["--config", str(micro), "--out", str(trained), "--device", "cpu", "--workers", "0"]
    weights = (trained / "model.safetensors").read_bytes()
    assert train_tiny.main(options) == 2
    assert "--resume" in capsys.readouterr().err
    (trained / "eval.json").unlink()
    assert train_tiny.main([*options, "--resume"]) == 0
    assert (trained / "eval.json").exists()
    assert (trained / "model.safetensors").read_bytes() == weights


def make_trainer(micro, processor, tokenizer, folder, steps):
    recipe = replace(load_recipe(micro), budget=Budget(steps=steps))
    folder.mkdir(exist_ok=True)
    return Trainer(recipe, LlavaForward(build_model(recipe, tokenizer), processor, CHAT), tokenizer, folder, workers=0)


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.forward.model.state_dict().items()}


def test_interrupted_and_resumed_run_gives_the_same_weights(micro, processor, tokenizer, tmp_path, monkeypatch):
    whole = make_trainer(micro, processor, tokenizer, tmp_path / "whole", steps=8)
    with Progress("whole") as progress:
        whole.run(progress)

    def interrupted(*arguments):
        for number, batch in enumerate(batches(*arguments)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    batches = loop.batches
    first = make_trainer(micro, processor, tokenizer, tmp_path / "parts", steps=8)
    monkeypatch.setattr(loop, "batches", interrupted)
    with Progress("first") as progress, pytest.raises(KeyboardInterrupt):
        first.run(progress)
    assert first.state.step == 4
    monkeypatch.undo()

    second = make_trainer(micro, processor, tokenizer, tmp_path / "parts", steps=8)
    second.resume()
    assert second.state.step == 4
    with Progress("second") as progress:
        second.run(progress)
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(second).items())


def test_checkpoint_of_another_recipe_is_refused(micro, processor, tokenizer, tmp_path):
    make_trainer(micro, processor, tokenizer, tmp_path, steps=1).save()
    other = make_trainer(micro, processor, tokenizer, tmp_path, steps=1)
    other.recipe = replace(other.recipe, optimisation=Optimisation(learning_rate=0.5))
    with pytest.raises(SinkbenchError, match="another recipe"):
        other.resume()


def test_infinite_loss_stops_training(micro, processor, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    trainer = make_trainer(micro, processor, tokenizer, tmp_path, steps=4)
    torch.nn.init.constant_(trainer.forward.model.lm_head.weight, float("nan"))
    with Progress("broken") as progress, pytest.raises(SinkbenchError, match="nan at step 2"):
        trainer.run(progress)
    assert not trainer.checkpoint.exists()


def test_learning_rate_warms_up_and_falls_to_the_floor():
    settings = Optimisation(learning_rate=1.0, final_fraction=0.1, warmup_steps=10)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(settings, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate(settings, 100, 1.2) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimisation: {learning_rat: 1.0}", "learning_rat"),
        ("optimisation: {learning_rate: 1e-3}", "must be a number"),
        ("budget: 8", "budget must be a mapping"),
        ("data: {scene: {objekts: [1, 2]}}", "objekts"),
        ("name: [", "no valid YAML"),
    ],
)
def test_bad_recipe_is_a_usage_error(micro, tmp_path, capsys, text, message):
    kept = [line for line in micro.read_text("utf-8").splitlines() if not line.startswith(text.split(":")[0])]
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("\n".join([*kept, text]), "utf-8")
    options = ["--config", str(recipe), "--out", str(tmp_path / "out"), "--device", "cpu", "--workers", "0"]
    assert train_tiny.main([*options, "--steps", "1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--minutes", "1", "--steps", "1"], ["--steps", "0"], ["--only", "evaluate"]])
def test_bad_flags_are_usage_errors(micro, tmp_path, flags):
    options = ["--config", str(micro), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert train_tiny.main([*options, *flags]) == 2
