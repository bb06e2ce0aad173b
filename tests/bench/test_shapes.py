"""Shapes: the published sizes, and what happens where there is none."""

import pytest
import torch
from harness import FAMILIES, model_folder
from transformers import AutoConfig, AutoModelForImageTextToText

from sinkbench.bench.shapes import resolve_shape, shape_names
from sinkbench.errors import UsageError

PARAMETERS = {
    "internvl3-8b": 7.94e9,
    "llava-1.5-13b": 13.35e9,
    "llava-1.5-7b": 7.06e9,
    "llava-next-7b": 7.06e9,
    "llava-onevision-7b": 8.03e9,
    "qwen2.5-vl-7b": 8.29e9,
    "qwen3-vl-8b": 8.77e9,
    "tiny": 0.216e6,
}
"""As the model cards give them."""


def test_every_shape_is_checked():
    assert shape_names() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_has_as_many_parameters_as_the_published_model(name):
    config = AutoConfig.for_model(**resolve_shape(name).config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(PARAMETERS[name], rel=0.01)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown shape or model") as error:
        resolve_shape("llava-1.5-7")
    assert "llava-1.5-7b" in error.value.hint


def test_a_preset_that_is_not_here_says_what_is(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(UsageError, match="not on this machine") as error:
        resolve_shape("llava")
    assert "llava-1.5-7b" in error.value.hint


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_its_config_and_image_settings(family):
    shape = resolve_shape(str(model_folder(family)))
    assert shape.model_type == shape.config["model_type"]
    assert shape.image_processor["image_processor_type"]
