"""Model adapters, one file per family. Importing this package loads no model code."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sinkbench.adapters.presets import ModelPreset, check_available, model_names, resolve_model
from sinkbench.errors import UsageError

if TYPE_CHECKING:
    from sinkbench.adapters.base import Adapter

__all__ = ["ModelPreset", "check_available", "load_adapter", "model_names", "resolve_model"]


def load_adapter(preset: ModelPreset, device: str = "auto", dtype: str = "auto") -> "Adapter":
    """Load a model's weights and processor.

    Args:
        preset: Which model.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        dtype: "auto" (the preset's on a GPU, float32 on a CPU), "float32", "bfloat16" or "float16".

    Raises:
        UsageError: The device is not there, or no adapter knows the model's class.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from sinkbench.adapters.internvl import InternVLAdapter
    from sinkbench.adapters.llava import LlavaAdapter, LlavaNextAdapter
    from sinkbench.adapters.qwen_vl import QwenVLAdapter

    classes: dict[str, Callable[[ModelPreset, Any, Any], Adapter]] = {
        "internvl": InternVLAdapter,
        "llava": LlavaAdapter,
        "llava_next": LlavaNextAdapter,
        "qwen2_5_vl": QwenVLAdapter,
        "qwen2_vl": QwenVLAdapter,
    }
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device {device!r}: torch sees no GPU here", "Use --device cpu; `sinkbench doctor` lists devices."
        )
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else (preset.dtype if preset.dtype != "auto" else "bfloat16")
    revision = preset.revision or "main"
    config = AutoConfig.from_pretrained(preset.location, revision=revision)
    if config.model_type not in classes:
        raise UsageError(
            f"{preset.name}: no adapter for model_type {config.model_type!r}",
            f"Supported: {', '.join(sorted(classes))}.",
        )
    model = AutoModelForImageTextToText.from_pretrained(
        preset.location, revision=revision, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    ).to(device)
    processor = AutoProcessor.from_pretrained(preset.location, revision=revision)
    return classes[config.model_type](preset, model, processor)
