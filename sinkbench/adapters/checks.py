"""What is checked of a model before the engine trusts it."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sinkbench.adapters.presets import ModelPreset
from sinkbench.errors import SinkbenchError, UsageError, unknown_name

Options = Mapping[str, tuple[str, ...] | type[int]]
"""Preprocessing options of a family: the words allowed, or int for a whole number above 0."""


def check_options(preset: ModelPreset, options: Options) -> None:
    """Check a preset's options against its family's.

    Raises:
        UsageError: An option is unknown or cannot have its value.
    """
    for name, value in preset.options.items():
        if name not in options:
            raise unknown_name(f"option of {preset.name}", name, options)
        allowed = options[name]
        if isinstance(allowed, tuple):
            if value not in allowed:
                raise UsageError(f"option {name} of {preset.name} is {value!r}", f"Use {' or '.join(allowed)}.")
        elif type(value) is not int or value < 1:
            raise UsageError(f"option {name} of {preset.name} is {value!r}", "Use a whole number above 0.")


def module_at(parent: nn.Module, path: str) -> nn.Module:
    """The module at a path.

    Raises:
        SinkbenchError: There is none: the adapter's table does not fit this version of transformers.
    """
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        raise SinkbenchError(
            f"{type(parent).__name__} has no module {path!r}, which the adapter expects",
            "Install the transformers version of constraints.txt, or correct the adapter's table of paths.",
        ) from error


def refuse_sliding_windows(name: str, text_config: Any) -> None:
    """The seam builds the mask, and every layer sees all keys: a window would be ignored in silence.

    Raises:
        UsageError: A layer of the language model attends within a window.
    """
    kinds = getattr(text_config, "layer_types", None)
    if kinds is None:
        # Without a list of kinds, one window holds for all layers (Mistral).
        window = getattr(text_config, "sliding_window", None)
        kinds = ["full_attention" if window is None else "sliding_attention"] * text_config.num_hidden_layers
    sliding = [index for index, kind in enumerate(kinds) if kind != "full_attention"]
    if sliding:
        raise UsageError(
            f"{name}: layers {sliding} of its language model attend within a sliding window; "
            "the engine expects every layer to see all keys",
            "Use a checkpoint whose config.json has use_sliding_window false, or sliding_window null.",
        )


def refuse_disagreement(name: str, facts: Mapping[str, tuple[Any, Any]]) -> None:
    """Processor and model come from different files; where they differ, image tokens would be miscounted.

    Args:
        name: The model's, for the error.
        facts: By name, what the processor says and what the model says.

    Raises:
        UsageError: They differ.
    """
    for fact, (said, needed) in facts.items():
        if said != needed:
            raise UsageError(
                f"{name}: the processor's {fact} is {said}, the model's is {needed}",
                "Its folder mixes files of two models, or an edited processor; download it again.",
            )


def eos_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: the generation config's, else the tokenizer's."""
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_token_id
    return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
