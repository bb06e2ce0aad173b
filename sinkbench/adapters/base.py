"""What the engine needs of a model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sinkbench.adapters.presets import ModelPreset
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt, UserText
from sinkbench.errors import SampleError, SinkbenchError, UsageError
from sinkbench.methods.base import ModelInfo
from sinkbench.request import IMAGE_PLACEHOLDER, ImageRef, Request

_SENTINEL = "\ue000{}\ue001"
"""Marks a user's text inside a rendered chat template; private-use characters that no template holds."""


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """One preprocessed image.

    Attributes:
        tensors: What the family's vision encoder takes, by argument name.
        roles: (N,) uint8, the role of each feature that the image becomes: IMAGE, or TEMPLATE for separators.
    """

    tensors: dict[str, Tensor]
    roles: Tensor


class Adapter(ABC):
    """A loaded model and its processor.

    Subclasses give the table of module paths (every path is looked up at load, so that a stale one fails at once) and
    what differs between families: how an image is preprocessed, encoded and counted.

    Args:
        preset: Which model this is.
        model: The loaded model.
        processor: Its processor.
    """

    family: ClassVar[str]
    paths: ClassVar[dict[str, str]]
    """From "language_model", "layers", "embed", "head", "vision" to module paths below the model."""

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        self.preset = preset
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        modules: dict[str, Any] = {}
        for name, path in self.paths.items():
            try:
                modules[name] = model.get_submodule(path)
            except AttributeError as error:
                raise SinkbenchError(
                    f"{type(model).__name__} has no module {path!r}, the {name} of the {self.family} family",
                    "Install the transformers version of constraints.txt, or correct the adapter's table of paths.",
                ) from error
        self.language_model: Any = modules["language_model"]
        self.layers: nn.ModuleList = modules["layers"]
        self.embed: nn.Module = modules["embed"]
        self.head: nn.Module = modules["head"]
        self.vision: nn.Module = modules["vision"]
        self._refuse_sliding_windows()
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.image_token = int(model.config.image_token_id)
        self.image_markup: tuple[int, ...] = ()
        self.eos = self._eos()

    @property
    def info(self) -> ModelInfo:
        """What methods may know."""
        text = self.language_model.config
        return ModelInfo(
            name=self.preset.name,
            n_layers=text.num_hidden_layers,
            n_heads=text.num_attention_heads,
            n_kv_heads=text.num_key_value_heads,
            hidden_size=text.hidden_size,
            sink_dims=self.preset.sink_dims,
        )

    @abstractmethod
    def image_layout(self, image: ImageRef) -> Tensor:
        """(N,) uint8 roles of the features that an image becomes; may read the file's header, not its pixels."""

    def expand_image(self, image: ImageRef) -> tuple[Tensor, Tensor]:
        """(M,) int64 ids and (M,) uint8 roles that an image's placeholder becomes in the prompt.

        Each feature is one `image_token`; a family whose processor writes tokens around them adds these.
        """
        layout = self.image_layout(image)
        return torch.full((len(layout),), self.image_token), layout

    @abstractmethod
    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Decode and preprocess one image on the CPU.

        Raises:
            SampleError: The file cannot be read.
        """

    @abstractmethod
    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Features (N_i, d) of each image after the projector, on the model's device."""

    def positions(self, ids: Tensor, images: Sequence[ImageRef]) -> Tensor:
        """(P, L) rotary positions of a prompt."""
        return torch.arange(len(ids))[None]

    def encode(self, request: Request) -> Prompt:
        """Render the chat template, tokenise, and say what each token is for.

        Raises:
            SampleError: Placeholders and images do not match, or the text holds the model's own image token.
        """
        text, spans = self._render(request)
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=self._adds_special_tokens(text))
        ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
        roles = torch.full_like(ids, int(Role.TEMPLATE), dtype=torch.uint8)
        places = (ids == self.image_token).nonzero()[:, 0].tolist()
        if len(places) != len(request.images):
            raise SampleError(f"the prompt has {len(places)} image tokens for {len(request.images)} images")
        widths = torch.ones_like(ids)
        id_parts, role_parts, done = [], [], 0
        for place, image in zip(places, request.images, strict=True):
            image_ids, image_roles = self.expand_image(image)
            widths[place] = len(image_ids)
            id_parts += [ids[done:place], image_ids]
            role_parts += [roles[done:place], image_roles]
            done = place + 1
        if places and places[-1] == len(ids) - 1:
            raise SampleError("the prompt ends with an image; the chat template must say who speaks next")
        ids = torch.cat([*id_parts, ids[done:]])
        roles = torch.cat([*role_parts, roles[done:]])
        starts = (widths.cumsum(0) - widths).tolist()
        user_texts = tuple(_user_text(text, span, encoded["offset_mapping"], starts) for span in spans)
        for user_text in user_texts:
            for token, _, _ in user_text.tokens:
                roles[token] = int(Role.QUERY)
        positions = self.positions(ids, request.images)
        return Prompt(request, ids, roles, positions, request.images, self.image_token, user_texts, self.image_markup)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def forward(self, embeds: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """One pass of the decoder stack under the active context.

        Args:
            embeds: (B, Q, d).
            positions: (P, B, Q).
            cache: Receives this pass's keys and values.

        Returns:
            (B, Q, d) final hidden states, after the last norm.
        """
        output = self.language_model(
            inputs_embeds=embeds, position_ids=self._position_ids(positions), past_key_values=cache, use_cache=True
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) float32 logits of hidden states (…, d)."""
        return self.head(hidden).float()  # type: ignore[no-any-return]

    def _position_ids(self, positions: Tensor) -> Tensor:
        return positions[0]

    def _render(self, request: Request) -> tuple[str, list[tuple[int, int]]]:
        """The prompt as the chat template writes it, and the character spans of the user's words."""
        texts: list[tuple[str, bool]] = []
        messages = []
        for message in request.messages:
            parts: list[dict[str, str]] = []
            for index, piece in enumerate(message.text.split(IMAGE_PLACEHOLDER)):
                if index:
                    parts.append({"type": "image"})
                # Templates put an image where they want it; white space around the placeholder is not the user's.
                words = piece.strip() if request.images else piece
                if self._image_text() in words:
                    raise SampleError(f"the text holds the model's image token {self._image_text()!r}")
                if words:
                    parts.append({"type": "text", "text": _SENTINEL.format(len(texts))})
                    texts.append((words, message.role == "user"))
            messages.append({"role": message.role, "content": parts})
        rendered = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        spans, out = [], ""
        for index, (words, by_user) in enumerate(texts):
            before, found, rendered = rendered.partition(_SENTINEL.format(index))
            if not found:
                raise SampleError("the chat template dropped a message")
            out += before
            if by_user:
                spans.append((len(out), len(out) + len(words)))
            out += words
        return out + rendered, spans

    def _refuse_sliding_windows(self) -> None:
        """The seam builds the mask, and every layer sees all keys: a window would be ignored in silence."""
        kinds = getattr(self.language_model.config, "layer_types", None) or ()
        sliding = [index for index, kind in enumerate(kinds) if kind != "full_attention"]
        if sliding:
            raise UsageError(
                f"{self.preset.name}: layers {sliding} of its language model attend within a sliding window; "
                "the engine expects every layer to see all keys",
                "Use a checkpoint whose config.json has use_sliding_window false, as the published models have.",
            )

    def _image_text(self) -> str:
        return str(getattr(self.processor, "image_token", IMAGE_PLACEHOLDER))

    def _adds_special_tokens(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def _eos(self) -> tuple[int, ...]:
        eos = self.model.generation_config.eos_token_id
        if eos is None:
            eos = self.tokenizer.eos_token_id
        return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)


def _user_text(text: str, span: tuple[int, int], offsets: Sequence[tuple[int, int]], index: Sequence[int]) -> UserText:
    """What the user said in `text[begin:stop]`, with its tokens.

    Args:
        text: The rendered prompt.
        span: Begin and stop.
        offsets: Characters [start, end) of `text` that each token covers.
        index: Each token's index in the prompt, where images have been expanded.
    """
    begin, stop = span
    tokens = tuple(
        (index[token], max(start, begin) - begin, min(end, stop) - begin)
        for token, (start, end) in enumerate(offsets)
        if max(start, begin) < min(end, stop)
    )
    return UserText(text[begin:stop], tokens)
