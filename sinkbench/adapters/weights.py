"""Reads models from where their presets say: a folder, the hub, or a GGUF file."""

from pathlib import Path
from typing import Any

from sinkbench.adapters import gguf
from sinkbench.adapters.families import TEXT
from sinkbench.adapters.presets import ModelPreset


def read_config(preset: ModelPreset) -> Any:
    """The model's transformers config.

    Raises:
        UsageError: A GGUF file cannot be read.
    """
    from transformers import AutoConfig

    if preset.is_gguf:
        return gguf.read_config(Path(preset.path))
    return AutoConfig.from_pretrained(preset.location, revision=_revision(preset))


def read_model(preset: ModelPreset, config: Any, dtype: Any) -> tuple[Any, Any]:
    """The model on the CPU, and its processor (its tokenizer where it reads text only).

    Args:
        preset: Which model.
        config: What `read_config` read.
        dtype: torch dtype of the weights.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    if preset.is_gguf:
        return gguf.load_model(Path(preset.path), config, dtype), gguf.load_tokenizer(Path(preset.path))
    model_class: Any = AutoModelForImageTextToText
    processor_class: Any = AutoProcessor
    if preset.family == TEXT:
        model_class, processor_class = AutoModelForCausalLM, AutoTokenizer
    where = {"pretrained_model_name_or_path": preset.location, "revision": _revision(preset)}
    model = model_class.from_pretrained(**where, dtype=dtype, attn_implementation="sdpa")
    return model, processor_class.from_pretrained(**where)


def _revision(preset: ModelPreset) -> str:
    return preset.revision or "main"
