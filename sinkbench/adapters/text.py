"""Text-only causal language models (transformers' `…ForCausalLM`): Llama, Mistral, OLMo 2, Qwen2, Qwen3, SmolLM3."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from sinkbench.adapters.base import Adapter, ImageFeatures, ImageInputs
from sinkbench.adapters.checks import Options
from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SampleError
from sinkbench.request import ImageRef, Request

_NO_TOKEN = -1
"""Stands for the id of an image token; no token has it."""


class TextProcessor:
    """A tokenizer in the place of a processor.

    Args:
        tokenizer: The model's; without a chat template of its own the bare text is the prompt.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """Render messages made of parts; text templates take strings.

        Raises:
            SampleError: A part is an image.
        """
        flat = [{"role": message["role"], "content": _text_of(message["content"])} for message in messages]
        if self.tokenizer.chat_template is None:
            return "\n".join(message["content"] for message in flat)
        return str(self.tokenizer.apply_chat_template(flat, **settings))


class TextAdapter(Adapter):
    """A decoder without a vision encoder."""

    paths: ClassVar[Mapping[str, str]] = {
        "language_model": "model",
        "layers": "model.layers",
        "embed": "model.embed_tokens",
        "head": "lm_head",
    }
    options: ClassVar[Options] = {}

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        super().__init__(preset, model, TextProcessor(processor))

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """Nothing: tokenizers may well know fewer tokens than the model has rows."""
        return {}

    def encode(self, request: Request) -> Prompt:
        """Render the chat template if there is one, and tokenise.

        Raises:
            SampleError: The request has an image.
        """
        if request.images:
            self._refuse()
        return super().encode(request)

    def layout_of_size(self, height: int, width: int) -> Tensor:
        """Refuses: there are no images."""
        self._refuse()

    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Refuses: there are no images."""
        self._refuse()

    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """Refuses: there are no images."""
        self._refuse()

    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """Refuses: there are no images."""
        self._refuse()

    def _image_token(self) -> int:
        return _NO_TOKEN

    def _refuse(self) -> NoReturn:
        raise SampleError(f"{self.preset.name} reads text only; the request has an image")


def _text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    if any(part["type"] == "image" for part in parts):
        raise SampleError("the text holds the placeholder <image>, and the model reads text only")
    return "".join(part["text"] for part in parts)
