"""`sinkbench inspect sink-dims`: from a model to the lines of its preset, and on to a run."""

import json

import numpy as np
import pytest
import yaml

from sinkbench.schemas import validate


def test_the_entry_of_the_shipped_preset_comes_out(here, tmp_path):
    done = here("inspect", "sink-dims", "--model", "tiny-llava", "--output", tmp_path / "entry.yaml")
    assert done.returncode == 0, done.stderr
    entry = yaml.safe_load((tmp_path / "entry.yaml").read_text())["sink_dims"]
    assert entry["dims"] == [210]
    assert entry["evidence"]["runner_up"] < 8 < min(entry["evidence"]["ratios"][210])
    assert "210" in done.stdout


def test_a_model_without_sinks_says_so(here, model):
    done = here("inspect", "sink-dims", "--model", model, "--tau", "7.9")
    assert done.returncode == 0, done.stderr
    assert "no massive activations" in " ".join(done.stdout.split())


def test_a_missing_prompt_file_is_named(here, tmp_path):
    done = here("inspect", "sink-dims", "--model", "tiny-llava", "--prompts", tmp_path / "none.txt")
    assert done.returncode == 2
    assert "none.txt" in done.stderr.replace("\n", "").replace("│ ", "").replace(" │", "")


def test_a_model_is_inspected_on_a_task_and_on_text(here, scenes, tmp_path):
    out = tmp_path / "out"
    done = here(
        *(
            "inspect",
            "model",
            "-m",
            "tiny-llava",
            "-t",
            "scenes_pope",
            "--data-dir",
            scenes,
            "-L",
            "6",
            "--vhd",
            "--blank",
        ),
        *("--text", "repeated", "--count", "2", "--tokens", "16", "-o", out),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "inspect.json").read_text())
    validate(document, "inspect")
    asked, text = document["parts"]
    assert (asked["name"], asked["samples"]["n"], text["name"], text["samples"]["tokens"]["max"]) == (
        *("scenes_pope", 6, "repeated"),
        16,
    )
    assert max(asked["layers"]["text_sinks"]["mean"]) == 3  # <s>, USER and the colon
    assert max(asked["layers"]["visual_sinks"]["mean"]) == 0
    assert min(asked["layers"]["head_divergence"]["mean"]) > 0.1
    assert len(asked["domains"]["top"]) == 10
    arrays = np.load(out / "scenes_pope.npz")
    assert arrays["alpha_first"].shape == (8, 8)
    assert arrays["alpha_first"].mean(1) == pytest.approx(asked["layers"]["alpha_first"]["mean"], rel=1e-3)
    assert {"scenes_pope/heads.png", "scenes_pope/states.png", "scenes_pope/attention.png"} <= set(asked["pictures"])
    assert all((out / name).stat().st_size > 2000 for name in asked["pictures"])
    assert "heads with a sink" in done.stdout


def test_a_sample_is_drawn_and_its_sinks_are_listed(here, scenes, tmp_path):
    image = next((scenes / "images").iterdir())
    done = here(
        "inspect", "sample", "-m", "tiny-llava", "-i", image, "-q", "Is there a dog in the image?", "-o", tmp_path / "s"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "s" / "sample.json").read_text())
    assert found["answer"] in ("yes", "no")
    assert [row["token"] for row in found["sinks"]] == ["<s>", "USER", ":"]
    assert len(found["image_attention"]) == 8
    assert all((tmp_path / "s" / name).is_file() for name in found["pictures"])


def test_a_sample_is_shown_without_and_with_methods(here, scenes, tmp_path):
    out = tmp_path / "s"
    done = here(
        *("inspect", "sample", "-m", "tiny-llava", "-t", "scenes_pope", "--data-dir", scenes, "--id", "2"),
        *("-M", "var,fastv", "-M", "pai", "--set", "fastv.keep=0.25", "--set", "pai.first_token=always", "-o", out),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "views.json").read_text())
    validate(document, "views")
    assert (document["model"], document["task"], document["id"]) == ("tiny-llava", "scenes_pope", "scenes_pope/2")
    assert [view["method"] for view in document["views"]] == ["greedy", "var", "fastv", "pai"]
    assert document["views"][2]["params"]["keep"] == 0.25
    shown = json.loads((out / "sample.json").read_text())["before_after"]
    assert shown["row"] == "the prompt's last row"
    assert shown["views"][2]["image_tokens"][-1] == 49
    assert "49 of 196 image tokens left" in " ".join(done.stdout.split())
    assert "pai: the most changed heads" in " ".join(done.stdout.split())
    assert all((out / name).stat().st_size > 2000 for name in [*shown["pictures"], shown["page"]])


def test_without_methods_nothing_is_compared(here, scenes, tmp_path):
    image = next((scenes / "images").iterdir())
    done = here("inspect", "sample", "-m", "tiny-llava", "-i", image, "-o", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "before_after" not in json.loads((tmp_path / "s" / "sample.json").read_text())
    assert not {"views.json", "before_after.html"} & {path.name for path in (tmp_path / "s").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("sample", "-m", "tiny-llava", "-i", "x.png", "-M", "var", "--set", "pai.alpha=1"), "one of: greedy, var"),
        (("sample", "-m", "tiny-llava", "-i", "x.png", "--set", "var.tau=1"), "--method var"),
        (("sample", "-m", "tiny-llava", "-i", "x.png", "--id", "3"), "--task NAME --id ID"),
        (("sample", "-m", "tiny-llava", "-t", "scenes_pope", "--id", "scenes_pope/x1"), "Did you mean scenes_pope/1"),
        (("model", "-m", "tiny-llava"), "--task NAME"),
        (("model", "-m", "tiny-llava", "--text", "naturl"), "natural, random, repeated"),
        (("model", "-m", "tiny-llava", "-t", "scenes_pop"), "scenes_pope"),
        (("sample", "-m", "tiny-llava", "-i", "none.png"), "Give an image"),
        (("sample", "-m", "tiny-lava", "-i", "none.png"), "tiny-llava"),
    ],
)
def test_what_cannot_be_inspected_says_what_to_type(here, arguments, hint):
    done = here("inspect", *arguments)
    assert done.returncode == 2
    assert hint in " ".join(done.stderr.replace("│", " ").split())
