"""What can run without a network."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sinkbench.adapters import ModelPreset


def model_is_here(preset: "ModelPreset") -> bool:
    """Whether a model's weights are on this machine: shipped, fetched, in a folder, or in the hub cache."""
    if preset.is_local:
        folder = Path(preset.location)
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(preset.path, "config.json", revision=preset.revision or None)
        if not isinstance(found, str):
            return False
        folder = Path(found).parent
    return any(folder.glob("*.safetensors"))


def task_is_here(name: str) -> bool:
    """Whether a task's data are on this machine: shipped, or in the hub cache."""
    from sinkbench.errors import UsageError
    from sinkbench.tasks import check_data, task_info
    from sinkbench.tasks.hub import cached_snapshot

    hub = task_info(name).hub
    if hub:
        return cached_snapshot(hub, "**/*.parquet") is not None
    try:
        check_data(name)
    except UsageError:
        return False
    return True
