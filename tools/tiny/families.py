"""The model families that the trainer knows."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkbench.errors import unknown_name
from sinkbench.scenes.dialogue import training_turns, vocabulary
from sinkbench.scenes.scene import Scene
from tiny import internvl, llava, qwen, smol
from tiny.model import save_model
from tiny.packed import PackedForward
from tiny.recipe import Recipe
from tiny.text import Chat, build_tokenizer

Dialogue = Callable[[Scene, random.Random], Sequence[tuple[str, str]]]


def _words(chat: Chat) -> Callable[[Recipe], Any]:
    return lambda recipe: build_tokenizer(vocabulary(), chat)


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        chat: The conversation form.
        tokenizer: Makes the `tokenizers.Tokenizer`.
        build_processor: Makes the processor from the tokenizer and the recipe.
        build_model: Makes the model from the recipe and the tokenizer.
        forward: The packed forward, made from model, processor and conversation form.
        dialogue: From the recipe to what makes the turns of a scene.
        save: Writes model, processor and what the recipe says of them into a folder for `from_pretrained`.
    """

    chat: Chat
    tokenizer: Callable[[Recipe], Any]
    build_processor: Callable[[Any, Recipe], Any]
    build_model: Callable[[Recipe, Any], Any]
    forward: type[PackedForward]
    dialogue: Callable[[Recipe], Dialogue] = lambda recipe: training_turns
    save: Callable[[Any, Any, Path, Recipe], None] = lambda model, processor, folder, recipe: save_model(
        model, processor, folder
    )


FAMILIES = {
    name: Family(module.CHAT, _words(module.CHAT), module.build_processor, module.build_model, forward)
    for name, module, forward in (
        ("internvl", internvl, internvl.InternVLForward),
        ("llava", llava, llava.LlavaForward),
        ("qwen", qwen, qwen.QwenForward),
    )
}
FAMILIES["smol"] = Family(
    smol.CHAT, smol.build_tokenizer, smol.build_processor, smol.build_model, smol.SmolForward, smol.dialogue, smol.save
)


def family_of(recipe: Recipe) -> Family:
    """The family that a recipe names.

    Raises:
        UsageError: There is none of that name.
    """
    if recipe.family not in FAMILIES:
        raise unknown_name("family", recipe.family, FAMILIES)
    return FAMILIES[recipe.family]
