"""Shapes of models: what is needed to build one with random weights, which are as fast as the published ones."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sinkbench.adapters.presets import ModelPreset, model_names, resolve_model
from sinkbench.errors import UsageError, unknown_name
from sinkbench.paths import resource

_FOLDER = "shapes"


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        name: What the command line calls it.
        source: Where the numbers come from.
        config: A config.json; what it leaves out is as in the config class.
        image_processor: Settings of the family's image processor, as in a preprocessor_config.json.
    """

    name: str
    source: str
    config: dict[str, Any]
    image_processor: dict[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """Transformers' name of the architecture."""
        return str(self.config.get("model_type", ""))


def shape_names() -> list[str]:
    """Names of the shapes in configs/shapes/."""
    return sorted(path.stem for path in (resource("configs") / _FOLDER).glob("*.yaml"))


def resolve_shape(name: str) -> Shape:
    """The shape that a name stands for: a shape's, a folder with a config.json, or a preset that is on this machine.

    Raises:
        UsageError: It stands for nothing, or no config.json is at hand.
    """
    if name in shape_names():
        row = yaml.safe_load((resource("configs") / _FOLDER / f"{name}.yaml").read_text())
        return Shape(name, row["source"], row["config"], row.get("image_processor") or {})
    known = {*shape_names(), *model_names()}
    if name not in known and "/" not in name and not Path(name).is_dir():
        raise unknown_name("shape or model", name, known)
    preset = resolve_model(name)
    folder = Path(preset.location) if preset.is_local else _cached_folder(preset)
    if folder is None:
        raise UsageError(
            f"the config.json of {preset.name} ({preset.path}) is not on this machine, and no shape is called so",
            f"Shapes: {', '.join(shape_names())}. Or download the model and pass --model DIR.",
        )
    source = "config.json of a local folder" if preset.is_local else f"config.json of {preset.path}"
    return Shape(preset.name, source, _read(folder / "config.json"), _image_processor(folder))


def _image_processor(folder: Path) -> dict[str, Any]:
    """Settings of the image processor: a part of processor_config.json since transformers 5, a file before."""
    settings = _read(folder / "processor_config.json").get("image_processor")
    return settings or _read(folder / "preprocessor_config.json")


def _read(path: Path) -> dict[str, Any]:
    """A JSON file; empty if there is none."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _cached_folder(preset: ModelPreset) -> Path | None:
    """The folder of the hub's cache that holds the preset's config.json."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(preset.path, "config.json", revision=preset.revision or None)
    return Path(found).parent if isinstance(found, str) else None
