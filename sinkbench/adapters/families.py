"""Which adapter drives which kind of model. No torch here: the adapter's module is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from sinkbench.errors import UsageError

if TYPE_CHECKING:
    from sinkbench.adapters.base import Adapter

ADAPTERS = {
    "internvl": "internvl:InternVLAdapter",
    "llama": "text:TextAdapter",
    "llava": "llava:LlavaAdapter",
    "llava_next": "llava:LlavaNextAdapter",
    "llava_onevision": "llava:LlavaOnevisionAdapter",
    "mistral": "text:TextAdapter",
    "olmo2": "text:TextAdapter",
    "qwen2": "text:TextAdapter",
    "qwen2_5_vl": "qwen_vl:Qwen25VLAdapter",
    "qwen2_vl": "qwen_vl:QwenVLAdapter",
    "qwen3": "text:TextAdapter",
    "qwen3_vl": "qwen_vl:Qwen3VLAdapter",
    "smollm3": "text:TextAdapter",
}
"""`model_type` of a config.json -> "family:class"; the family is the module of this package that holds the class.

Text-only architectures stand here once a test has held their answers to `generate`. Others may scale embeddings or
logits, or bound scores (Gemma, Cohere, Granite), which would be lost in silence.
"""

TEXT = "text"
"""The family that reads no images."""


def family_of(model_type: str, where: str) -> str:
    """The family of a model.

    Args:
        model_type: As its config.json says.
        where: What to name in the error.

    Raises:
        UsageError: No adapter knows the type.
    """
    if model_type not in ADAPTERS:
        raise UsageError(
            f"{where}: no adapter for model_type {model_type!r}", f"Supported: {', '.join(sorted(ADAPTERS))}."
        )
    return ADAPTERS[model_type].partition(":")[0]


def adapter_class(model_type: str) -> "type[Adapter]":
    """The class that drives models of a type named in `ADAPTERS`."""
    module, _, name = ADAPTERS[model_type].partition(":")
    found: type[Adapter] = getattr(import_module(f"sinkbench.adapters.{module}"), name)
    return found
