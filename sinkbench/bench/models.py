"""The model that a benchmark runs: random weights in a published shape, or the real ones."""

from collections.abc import Iterable
from typing import Any

import torch

from sinkbench.adapters import check_available, load_adapter, resolve_model
from sinkbench.adapters.base import Adapter
from sinkbench.adapters.families import TEXT, adapter_class, family_of
from sinkbench.adapters.presets import ModelPreset
from sinkbench.bench.processors import synthetic_processor
from sinkbench.bench.shapes import Shape
from sinkbench.errors import SinkbenchError, UsageError


def real_adapter(name: str, device: str, dtype: str) -> Adapter:
    """A model with its published weights.

    Raises:
        UsageError: The weights are not at hand, or the model reads text only.
    """
    preset = resolve_model(name)
    _refuse_text_only(preset.family, name)
    check_available(preset)
    return load_adapter(preset, device, dtype)


def random_adapter(shape: Shape, texts: Iterable[str], device: str, dtype: str, seed: int = 0) -> Adapter:
    """A model with random weights, made on its device: nothing is read, and nothing is copied to it.

    Args:
        shape: Sizes of the model.
        texts: What prompts are made of (see `synthetic_processor`).
        device: "auto", "cpu", "cuda", ….
        dtype: "auto" (bfloat16 on a GPU, float32 on a CPU), "float32", "bfloat16" or "float16".
        seed: Of the weights.

    Raises:
        UsageError: The device is not there, no adapter knows the architecture, or it reads text only.
        SinkbenchError: The model computes no finite logits.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    family = family_of(shape.model_type, shape.name)
    _refuse_text_only(family, shape.name)
    place = _device(device)
    if dtype == "auto":
        dtype = "float32" if place.type == "cpu" else "bfloat16"
    config = AutoConfig.for_model(**shape.config)
    processor = synthetic_processor(shape, config, texts)
    torch.manual_seed(seed)
    with place:
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    preset = ModelPreset(shape.name, family, path="(random weights)", dtype=dtype)
    adapter = adapter_class(shape.model_type)(preset, model, processor)
    _check_finite(adapter)
    return adapter


def describe(adapter: Adapter) -> dict[str, Any]:
    """Sizes of a model for the record."""
    info = adapter.info
    parameters = list(adapter.model.parameters())
    return {
        "name": info.name,
        "family": adapter.preset.family,
        "layers": info.n_layers,
        "heads": info.n_heads,
        "kv_heads": info.n_kv_heads,
        "hidden_size": info.hidden_size,
        "parameters": sum(p.numel() for p in parameters),
        "weight_bytes": sum(p.numel() * p.element_size() for p in parameters),
        "dtype": str(adapter.dtype).removeprefix("torch."),
    }


def _refuse_text_only(family: str, name: str) -> None:
    """The workloads ask about images."""
    if family == TEXT:
        raise UsageError(f"model {name} reads text only; the workloads are questions about images", "Choose another.")


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name.startswith("cuda") and not available:
        raise UsageError(
            f"device {name!r}: torch sees no GPU here", "Use --device cpu; `sinkbench doctor` lists devices."
        )
    return torch.device(name)


@torch.inference_mode()
def _check_finite(adapter: Adapter) -> None:
    ids = torch.arange(4, device=adapter.device)[None]
    if not adapter.model(input_ids=ids).logits.isfinite().all():
        raise SinkbenchError(
            f"{adapter.preset.name} in {adapter.dtype}: random weights give logits that are not finite",
            "Try --dtype bfloat16.",
        )
