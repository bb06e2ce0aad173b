"""Which models there are, and where their weights lie. No torch here: names are checked before anything loads."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sinkbench.adapters import gguf
from sinkbench.adapters.families import TEXT, family_of
from sinkbench.downloads import asset_folder, cache_path
from sinkbench.errors import UsageError, unknown_name
from sinkbench.paths import asset, resource

_KEYS = ("family", "path", "revision", "dtype", "sink_dims", "options")
"""What a preset's file may hold."""

_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class ModelPreset:
    """A model that a name stands for.

    Attributes:
        name: What the command line calls it.
        family: Adapter family.
        path: "asset:NAME" for a shipped model, "cache:NAME" for one that `sinkbench assets fetch` makes, a local folder
            or GGUF file, or a hub id.
        revision: Commit or tag on the hub.
        dtype: Weights' type where the user does not choose.
        sink_dims: Hidden dimensions with massive activations.
        sink_source: Where `sink_dims` come from.
        sink_tau: φ above which a token is a sink in this model; None where nobody has looked.
        options: Preprocessing options of the family; they are part of the run id.
    """

    name: str
    family: str
    path: str
    revision: str = ""
    dtype: str = "bfloat16"
    sink_dims: tuple[int, ...] = ()
    sink_source: str = ""
    sink_tau: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """What `from_pretrained` takes."""
        kind, _, name = self.path.partition(":")
        if kind == "asset":
            return str(asset(name))
        return str(cache_path(name)) if kind == "cache" else self.path

    @property
    def is_local(self) -> bool:
        """Whether the weights are no matter of the hub."""
        return self.path.startswith(("asset:", "cache:")) or Path(self.path).exists()

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are a GGUF file."""
        return self.path.endswith(gguf.SUFFIX)

    @property
    def source(self) -> str:
        """What it takes to have the weights, in words."""
        kind, _, name = self.path.partition(":")
        return f"`sinkbench assets fetch {name}`" if kind == "cache" else self.path


def model_names() -> list[str]:
    """Names of the presets in configs/models/."""
    return sorted(path.stem for path in (resource("configs") / "models").glob("*.yaml"))


def resolve_model(name: str) -> ModelPreset:
    """The preset that a name stands for.

    Args:
        name: A preset's name, a local folder or GGUF file, or a hub id that a preset has or that is in the hub's cache.

    Raises:
        UsageError: It stands for nothing.
    """
    presets = resource("configs") / "models"
    if name in model_names():
        return _read_preset(presets / f"{name}.yaml")
    if Path(name).is_dir():
        return _from_folder(Path(name))
    if name.endswith(gguf.SUFFIX):
        return _from_gguf(Path(name))
    if "/" in name:
        for known in model_names():
            preset = _read_preset(presets / f"{known}.yaml")
            if preset.path == name:
                return preset
        return _from_hub_cache(name)
    raise unknown_name("model", name, model_names())


def check_available(preset: ModelPreset) -> None:
    """Make sure that the weights can be had, before anything heavy is loaded.

    Raises:
        UsageError: They are neither on this machine nor can the hub be reached.
    """
    if preset.path.startswith("asset:"):
        if not (Path(preset.location) / "config.json").is_file():
            raise UsageError(f"the shipped model {preset.name} is missing at {preset.location}", "Reinstall sinkbench.")
        return
    if preset.path.startswith("cache:"):
        asset_folder(preset.path.removeprefix("cache:"))
        return
    if preset.is_gguf:
        gguf.check_packages()
        gguf.check_file(Path(preset.path))
        return
    if preset.is_local:
        return
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    revision = preset.revision or None
    try:
        snapshot_download(preset.path, revision=revision, allow_patterns=_PATTERNS, local_files_only=True)
        return
    except LocalEntryNotFoundError:
        pass
    hint = (
        f"On a machine with a network: hf download {preset.path} --local-dir DIR; copy DIR here and pass "
        f"--model DIR. Or point HF_HOME at a cache that holds it. `sinkbench list models` marks what runs offline."
    )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UsageError(
            f"model {preset.name} ({preset.path}) is not in the cache, and HF_HUB_OFFLINE forbids the hub", hint
        )
    try:
        HfApi().model_info(preset.path, revision=revision, timeout=10)
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"model {preset.name} ({preset.path}) is not in the cache, and the hub cannot be reached", hint
        ) from error


def _read_preset(path: Path) -> ModelPreset:
    row = yaml.safe_load(path.read_text())
    for key in row:
        if key not in _KEYS:
            raise unknown_name(f"setting of {path.name}", key, _KEYS)
    sinks = row.get("sink_dims") or {}
    return ModelPreset(
        name=path.stem,
        family=row["family"],
        path=row["path"],
        revision=row.get("revision") or "",
        dtype=row.get("dtype", "bfloat16"),
        sink_dims=tuple(sinks.get("dims", ())),
        sink_source=sinks.get("source", ""),
        sink_tau=sinks.get("tau"),
        options=row.get("options") or {},
    )


def _from_folder(folder: Path) -> ModelPreset:
    config = folder / "config.json"
    if not config.is_file():
        raise UsageError(f"{folder} holds no config.json", "Give a folder that transformers' from_pretrained can load.")
    return ModelPreset(folder.resolve().name, _family_from(config), str(folder.resolve()), dtype="auto")


def _from_gguf(path: Path) -> ModelPreset:
    if not path.is_file():
        raise UsageError(f"{path} is no file", "Give the path of a GGUF file that lies on this machine.")
    return ModelPreset(path.stem, TEXT, str(path.resolve()), dtype="auto")


def _from_hub_cache(name: str) -> ModelPreset:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        config = None
    if not isinstance(config, str):
        raise UsageError(
            f"model {name!r} is neither a folder nor a hub id that a preset has or the cache holds",
            "Download it first (hf download ID), or give a folder (hf download ID --local-dir DIR). "
            "`sinkbench list models` shows the presets.",
        )
    return ModelPreset(name.rpartition("/")[2], _family_from(Path(config)), name, dtype="auto")


def _family_from(config: Path) -> str:
    """The family of the model that a config.json describes."""
    try:
        model_type = json.loads(config.read_text()).get("model_type", "")
    except json.JSONDecodeError as error:
        raise UsageError(f"{config} is no JSON: {error}", "Download the model again.") from error
    return family_of(model_type, str(config))
