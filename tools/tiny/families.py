"""The model families that the trainer knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sinkbench.errors import unknown_name
from tiny import internvl, llava, qwen
from tiny.packed import PackedForward
from tiny.recipe import Recipe
from tiny.text import Chat


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        chat: The conversation form.
        build_processor: Makes the processor from the word-level tokenizer and the recipe.
        build_model: Makes the model from the recipe and the word-level tokenizer.
        forward: The packed forward, made from model, processor and conversation form.
    """

    chat: Chat
    build_processor: Callable[[Any, Recipe], Any]
    build_model: Callable[[Recipe, Any], Any]
    forward: type[PackedForward]


FAMILIES = {
    "internvl": Family(internvl.CHAT, internvl.build_processor, internvl.build_model, internvl.InternVLForward),
    "llava": Family(llava.CHAT, llava.build_processor, llava.build_model, llava.LlavaForward),
    "qwen": Family(qwen.CHAT, qwen.build_processor, qwen.build_model, qwen.QwenForward),
}


def family_of(recipe: Recipe) -> Family:
    """The family that a recipe names.

    Raises:
        UsageError: There is none of that name.
    """
    if recipe.family not in FAMILIES:
        raise unknown_name("family", recipe.family, FAMILIES)
    return FAMILIES[recipe.family]
