"""Fresh models and shipped folders, whatever the family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def fresh_model(kind: Any, config: Any, seed: int, special: Mapping[str, int | None]) -> Any:
    """A model with float32 weights drawn from a seed, which generates greedily.

    Args:
        kind: The model class of transformers.
        config: Its configuration.
        seed: Decides the weights.
        special: Ids of the special tokens by the name of their entry.
    """
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    model = kind(config).float()
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **special)
    return model


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write weights as bf16 safetensors, configuration and processor; training goes on with the model as it was.

    Args:
        model: The trained model in float32.
        processor: Its processor.
        folder: Where `from_pretrained` will look.
    """
    with torch.device("meta"):
        shipped = type(model)(model.config)
    state = {name: value.detach().to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    shipped.load_state_dict(state, assign=True)
    shipped.tie_weights()
    shipped.config.dtype = torch.bfloat16
    shipped.generation_config = model.generation_config
    shipped.save_pretrained(folder)
    processor.save_pretrained(folder)
