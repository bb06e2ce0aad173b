"""Model adapters, one file per family. Importing this package loads no model code."""

from typing import TYPE_CHECKING

from sinkbench.adapters.families import adapter_class, family_of
from sinkbench.adapters.presets import ModelPreset, check_available, model_names, resolve_model
from sinkbench.errors import UsageError

if TYPE_CHECKING:
    from sinkbench.adapters.base import Adapter

__all__ = ["ModelPreset", "check_available", "load_adapter", "model_names", "resolve_model"]


def placement(preset: ModelPreset, device: str, dtype: str, *, has_gpu: bool) -> tuple[str, str]:
    """Device and type of weights that "auto" stands for; see `load_adapter`.

    Raises:
        UsageError: The device is not there.
    """
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise UsageError(
            f"device {device!r}: torch sees no GPU here", "Use --device cpu; `sinkbench doctor` lists devices."
        )
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else (preset.dtype if preset.dtype != "auto" else "bfloat16")
    return device, dtype


def load_adapter(preset: ModelPreset, device: str = "auto", dtype: str = "auto") -> "Adapter":
    """Load a model's weights and processor.

    Args:
        preset: Which model.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: "auto" (the preset's on a GPU, float32 on a CPU), "float32", "bfloat16" or "float16".

    Raises:
        UsageError: The device is not there, no adapter knows the model's class, the preset's options are not its
            family's, or processor and model do not fit each other.
    """
    import torch

    from sinkbench.adapters.checks import check_options
    from sinkbench.adapters.weights import read_config, read_model

    device, dtype = placement(preset, device, dtype, has_gpu=torch.cuda.is_available())
    config = read_config(preset)
    family = family_of(config.model_type, preset.name)
    if family != preset.family:
        raise UsageError(
            f"{preset.name}: the preset says family {preset.family!r}, the weights are of {family!r}",
            f"Correct configs/models/{preset.name}.yaml.",
        )
    adapter = adapter_class(config.model_type)
    check_options(preset, adapter.options)
    model, processor = read_model(preset, config, getattr(torch, dtype))
    return adapter(preset, model.to(device), processor)
