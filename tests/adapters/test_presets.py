"""Names of models: every preset is whole, every family has its adapter, every mistake is named."""

import json
from dataclasses import replace

import pytest
from harness import model_folder

from sinkbench.adapters import load_adapter, model_names, presets, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.adapters.checks import check_options
from sinkbench.adapters.families import ADAPTERS, adapter_class
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.record import model_identity
from sinkbench.spec import RunSpec, run_id

FAMILIES = {entry.partition(":")[0] for entry in ADAPTERS.values()}


@pytest.mark.parametrize("name", model_names())
def test_every_preset_is_whole(name):
    preset = resolve_model(name)
    assert preset.family in FAMILIES
    assert preset.dtype in ("bfloat16", "float16")
    assert bool(preset.sink_dims) == bool(preset.sink_source)
    classes = [adapter_class(kind) for kind, entry in ADAPTERS.items() if entry.startswith(f"{preset.family}:")]
    assert any(set(preset.options) <= set(cls.options) for cls in classes)
    assert preset.path.startswith(("asset:", "cache:")) or resolve_model(preset.path) == preset


@pytest.mark.parametrize("name", ["llava", "llava-13b"])
def test_llava_pads_as_its_authors_did(name):
    assert resolve_model(name).options == {"image_padding": "square"}


@pytest.mark.parametrize("model_type", ADAPTERS)
def test_every_model_type_has_its_adapter(model_type):
    assert issubclass(adapter_class(model_type), Adapter)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"image_pading": "square"}, "unknown option of here 'image_pading'", "Did you mean image_padding"),
        ({"max_pixels": 1000}, "unknown option of here 'max_pixels'", "Known: image_padding"),
        ({"image_padding": "round"}, "option image_padding of here is 'round'", "none or square"),
    ],
)
def test_a_wrong_option_is_named_before_anything_loads(options, message, hint):
    preset = replace(resolve_model(str(model_folder("llava"))), name="here", options=options)
    with pytest.raises(UsageError, match=message) as raised:
        load_adapter(preset, "cpu")
    assert hint in raised.value.hint


@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True])
def test_a_number_of_tiles_is_whole_and_above_0(value):
    preset = replace(resolve_model("internvl3-1b"), options={"max_tiles": value})
    with pytest.raises(UsageError, match="option max_tiles of internvl3-1b is"):
        check_options(preset, adapter_class("internvl").options)


def test_options_are_part_of_the_run_id():
    spec = RunSpec(model="llava", task="pope")
    preset = resolve_model("llava")
    ids = {
        run_id(spec, model=model_identity(replace(preset, options=options)), method_params={}, task={})
        for options in ({}, {"image_padding": "none"}, {"image_padding": "square"})
    }
    assert len(ids) == 3


def test_a_misspelt_setting_of_a_preset_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("family: llava\npath: a/b\noption: {image_padding: square}\n")
    with pytest.raises(UsageError, match=r"unknown setting of mine\.yaml 'option'") as raised:
        presets._read_preset(path)
    assert "options" in raised.value.hint


def test_a_folder_of_an_unknown_model_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "pixtral"}))
    with pytest.raises(UsageError, match="no adapter for model_type 'pixtral'") as raised:
        resolve_model(str(tmp_path))
    assert "llava_onevision" in raised.value.hint


def test_a_hub_id_that_the_cache_holds_is_a_model(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="'some/one' is neither a folder nor a hub id") as raised:
        resolve_model("some/one")
    assert "hf download" in raised.value.hint
    snapshot = tmp_path / "models--some--one" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--one" / "refs").mkdir()
    (tmp_path / "models--some--one" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    preset = resolve_model("some/one")
    assert (preset.name, preset.family, preset.path, preset.is_local) == ("one", "text", "some/one", False)


def test_a_preset_of_another_family_is_refused():
    preset = replace(resolve_model(str(model_folder("llava"))), name="here", family="qwen_vl")
    with pytest.raises(UsageError, match="preset says family 'qwen_vl', the weights are of 'llava'"):
        load_adapter(preset, "cpu")


def test_a_stale_path_fails_at_load(monkeypatch):
    cls = adapter_class("llava")
    monkeypatch.setattr(cls, "paths", {**cls.paths, "head": "model.lm_head"})
    with pytest.raises(SinkbenchError, match=r"no module 'model\.lm_head'"):
        load_adapter(resolve_model(str(model_folder("llava"))), "cpu")


def test_a_processor_of_another_model_is_refused(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in model_folder("llava").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["image_token_index"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="mixed: the processor's image token is 4, the model's is 5"):
        load_adapter(resolve_model(str(folder)), "cpu")
