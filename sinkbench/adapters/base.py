"""What the engine needs of a model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sinkbench.adapters import checks
from sinkbench.adapters.chat import ChatTemplate
from sinkbench.adapters.presets import ModelPreset
from sinkbench.adapters.vision import EncoderLayer, EncoderPass, recorded_attention, recorded_output
from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Prompt, UserText
from sinkbench.errors import SampleError, UsageError
from sinkbench.methods.facts import ModelInfo
from sinkbench.request import ImageRef, Message, Request

_CACHED_IMAGES = 4096
"""Image sizes and layouts remembered; questions about an image mostly follow each other."""

_CACHED_ANSWERS = 1024
"""Most answers to yes/no questions are one of a few."""


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """One preprocessed image.

    Attributes:
        tensors: What the family's vision encoder takes, by argument name.
        roles: (N,) uint8, the role of each feature that the image becomes: IMAGE, or TEMPLATE for separators.
    """

    tensors: dict[str, Tensor]
    roles: Tensor


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One encoded image, as the language model takes it.

    Attributes:
        tokens: (N, d) features that stand in the place of the image's tokens.
        deepstack: (D, N, d) features added to the hidden states after the first D layers, or None.
    """

    tokens: Tensor
    deepstack: Tensor | None = None


class Adapter(ABC):
    """A loaded model and its processor.

    Subclasses give the table of module paths (every path is looked up at load, so that a stale one fails at once) and
    what differs between families: how an image is preprocessed, encoded and counted.

    Args:
        preset: Which model this is.
        model: The loaded model.
        processor: Its processor; the preset's options are set on it.

    Raises:
        SinkbenchError: The model has no module at one of the paths.
        UsageError: Processor and model do not fit each other, or the preset asks for what the family lacks.
    """

    paths: ClassVar[Mapping[str, str]] = {
        "language_model": "model.language_model",
        "layers": "model.language_model.layers",
        "embed": "model.language_model.embed_tokens",
        "head": "lm_head",
        "vision": "model.vision_tower",
        "vision_layers": "model.vision_tower.encoder.layers",
    }
    """Module paths below the model, as most families have them."""

    attention_path: ClassVar[str] = "self_attn"
    """Path of the attention module below a vision layer."""

    options: ClassVar[checks.Options]

    def __init__(self, preset: ModelPreset, model: Any, processor: Any) -> None:
        self.preset = preset
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer
        modules: dict[str, Any] = {name: checks.module_at(model, path) for name, path in self.paths.items()}
        self.language_model: Any = modules["language_model"]
        self.layers: nn.ModuleList = modules["layers"]
        self.embed: nn.Module = modules["embed"]
        self.head: nn.Module = modules["head"]
        self.vision: Any = modules.get("vision")
        self.projector: Any = modules.get("projector")
        self._vision_layers = list(modules.get("vision_layers", ()))
        self._vision_attention = [checks.module_at(layer, self.attention_path) for layer in self._vision_layers]
        checks.refuse_sliding_windows(preset.name, self.language_model.config)
        checks.refuse_disagreement(preset.name, self.shared_facts())
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.image_token = self._image_token()
        self.image_markup: tuple[int, ...] = ()
        self.eos = checks.eos_of(model, self.tokenizer)
        self._chat = ChatTemplate(processor)
        self._render = self._chat.render
        self._file_size = lru_cache(_CACHED_IMAGES)(ImageRef.size)
        self._layout = lru_cache(_CACHED_IMAGES)(self.layout_of_size)
        self._text = lru_cache(_CACHED_ANSWERS)(self._decode)

    def shared_facts(self) -> dict[str, tuple[Any, Any]]:
        """What processor and model must agree on: by name, what the one says and what the other does."""
        return {"image token": (self.processor.image_token_id, self.model.config.image_token_id)}

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
            sink_tau=self.preset.sink_tau,
            vision_class_tokens=self.class_tokens,
            vision_layer=self._vision_layer,
            pixel_mean=self._pixel_statistic("image_mean"),
            pixel_std=self._pixel_statistic("image_std"),
        )

    @property
    def _vision_layer(self) -> int:
        """Layer of the vision encoder whose output the projector reads; of several the last one named."""
        chosen = getattr(self.model.config, "vision_feature_layer", -1)
        state = chosen if isinstance(chosen, int) else chosen[-1]
        # Hidden state 0 is what enters the first layer.
        return state if state < 0 else state - 1

    def _pixel_statistic(self, name: str) -> tuple[float, ...]:
        """What the image processor says of the three colours; empty where it does not normalise."""
        images = getattr(self.processor, "image_processor", None)
        values = getattr(images, name, None) if getattr(images, "do_normalize", False) else None
        return tuple(map(float, values or ()))

    @property
    def class_tokens(self) -> int:
        """Tokens of the vision encoder that stand before the patches: 1 or 0."""
        return 0

    @property
    def projected_layer(self) -> nn.Module | None:
        """The layer whose output is projected, where features are its tokens, each by itself; elsewhere None."""
        return None

    @property
    def separator(self) -> Tensor | None:
        """(d,) the feature that the family puts between the rows of an image; None where there is none."""
        return None

    def image_size(self, image: ImageRef) -> tuple[int, int]:
        """Width and height in pixels; the header of a file is read once.

        Raises:
            SampleError: The file is missing or no image.
        """
        # An image in memory knows its size, and remembering it would keep its pixels.
        return self._file_size(image) if image.on_disk else image.size()

    @abstractmethod
    def layout_of_size(self, height: int, width: int) -> Tensor:
        """(N,) uint8 roles of the features that an image of so many pixels becomes; not to be written to."""

    def image_layout(self, image: ImageRef) -> Tensor:
        """(N,) uint8 roles of the features that an image becomes; may read the file's header, not its pixels.

        Raises:
            SampleError: The file is missing or no image.
        """
        width, height = self.image_size(image)
        return self._layout(height, width)

    def expand_image(self, image: ImageRef) -> tuple[Tensor, Tensor]:
        """(M,) int64 ids and (M,) uint8 roles that an image's placeholder becomes in the prompt.

        Each feature is one `image_token`; a family whose processor writes tokens around them adds these.
        """
        layout = self.image_layout(image)
        return torch.full((len(layout),), self.image_token), layout

    def prompt_images(self, images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
        """The images of one prompt as `preprocess` shall see them; their keys tell apart what is encoded apart."""
        return images

    @abstractmethod
    def preprocess(self, image: ImageRef) -> ImageInputs:
        """Decode and preprocess one image of a prompt on the CPU.

        Raises:
            SampleError: The file cannot be read.
        """

    @abstractmethod
    def encode_images(self, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """Features of each image after the projector, on the model's device."""

    def vision_attention(self, images: Sequence[ImageInputs], layer: int) -> list[Tensor]:
        """Attention weights of one layer of the vision encoder: `vision_attentions` of this layer alone."""
        return [attention for (attention,) in self.vision_attentions(images, [layer])]

    def vision_attentions(self, images: Sequence[ImageInputs], layers: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Attention weights of the vision encoder; costs one vision pass, and N² floats a layer, head and view.

        Args:
            images: Preprocessed images.
            layers: Indices into the encoder's layers, at least one; −1 is the last.

        Returns:
            For each image the weights of each layer: (V, H, N, N) float32, post-softmax, of the image's V views
            (tiles), in the order in which the encoder sees views and patches. N counts the patches and, first of all,
            the encoder's `class_tokens`.

        Raises:
            UsageError: There is no such layer.
        """
        return [tuple(layer.weights for layer in seen.layers) for seen in self.see_encoder(images, layers)]

    def see_encoder(self, images: Sequence[ImageInputs], layers: Sequence[int]) -> list[EncoderPass]:
        """What `vision_attentions` gives and, of the same pass, keys, features and what stands before the projector.

        Raises:
            UsageError: There is no such layer.
        """
        count = len(self._vision_attention)
        for layer in layers:
            if not -count <= layer < count:
                raise UsageError(f"{self.preset.name} has no vision layer {layer}", f"It has layers 0 to {count - 1}.")
        modules = [self._vision_attention[layer] for layer in layers]
        with recorded_attention(modules) as seen, recorded_output(self.projected_layer) as outputs:
            features = self.encode_images(images)
        states = torch.cat(outputs) if outputs else [None] * len(images)
        by_image = zip(*(self._by_image(seen[module], images) for module in modules), strict=True)
        return [EncoderPass(*each) for each in zip(by_image, features, states, strict=True)]

    @abstractmethod
    def patch_values_to_tokens(self, values: Tensor, image: ImageInputs, mean: bool = False) -> Tensor:
        """One value for each feature of an image, from one for each patch that the encoder sees.

        A feature that is made of several patches has the largest of their values, a separator or class token has 0.

        Args:
            values: (V, P) or (V, P, d) of the patches of V views, in the order of `vision_attentions`, class tokens
                left out.
            image: The image.
            mean: Average the patches of a feature as the model weighs them, instead of taking the largest.

        Returns:
            (N,) or (N, d), one for each entry of `image.roles`, of the same kind as `values`.
        """

    def positions(self, ids: Tensor, images: Sequence[ImageRef]) -> Tensor:
        """(P, L) rotary positions of a prompt."""
        return torch.arange(len(ids))[None]

    def encode(self, request: Request) -> Prompt:
        """Render the chat template, tokenise, and say what each token is for.

        Raises:
            SampleError: Placeholders and images do not match, the text holds the model's own image token, or the prompt
                is longer than the model reads; it is never cut.
        """
        text = self._chat.tokenise(request)
        images = self.prompt_images(request.images)
        places = [index for index, token in enumerate(text.ids) if token == self.image_token]
        if len(places) != len(images):
            raise SampleError(f"the prompt has {len(places)} image tokens for {len(images)} images")
        if places and places[-1] == len(text.ids) - 1:
            raise SampleError("the prompt ends with an image; the chat template must say who speaks next")
        expansions = {place: self.expand_image(image) for place, image in zip(places, images, strict=True)}
        ids, roles, user_texts = text.expand(expansions)
        positions = self.positions(ids, images)
        room = getattr(self.language_model.config, "max_position_embeddings", None)
        if room is not None and int(positions.max()) >= room:
            raise SampleError(f"the prompt has {len(ids)} tokens with {len(images)} images; the model reads {room}")
        return Prompt(request, ids, roles, positions, images, self.image_token, user_texts, self.image_markup)

    def plain_prompt(self, text: str | Sequence[int], max_tokens: int | None = None, *, opening: bool = True) -> Prompt:
        """A prompt without a chat template, as Gu et al. (ICLR 2025, arXiv 2410.10781) look at sinks.

        Args:
            text: The text, or token ids. What the tokenizer puts before every text (a beginning-of-sequence token or
                nothing) is added, and has the role TEMPLATE; the rest is QUERY.
            max_tokens: Cut the prompt after so many tokens, those added included.
            opening: Whether anything is added.

        Raises:
            SampleError: Nothing is left to read, an id is out of range, or there is an image token among them.
        """
        added = self._opening if opening else []
        if isinstance(text, str):
            encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
            content, offsets = encoded["input_ids"], encoded["offset_mapping"]
        else:
            content, offsets = list(map(int, text)), []
        room = len(content) if max_tokens is None else max_tokens - len(added)
        if not content or room < 1:
            raise SampleError(f"a prompt of at most {max_tokens} tokens has no room for text" if content else "no text")
        ids = torch.tensor([*added, *content[:room]])
        if int(ids.min()) < 0 or int(ids.max()) >= self.language_model.config.vocab_size:
            raise SampleError(f"token ids reach from 0 to {self.language_model.config.vocab_size - 1}")
        if (ids == self.image_token).any():
            raise SampleError("the text holds the model's image token")
        roles = torch.full((len(ids),), int(Role.QUERY), dtype=torch.uint8)
        roles[: len(added)] = int(Role.TEMPLATE)
        words = text if isinstance(text, str) else self.tokenizer.decode(content)
        tokens = tuple((len(added) + index, *span) for index, span in enumerate(offsets[:room]))
        user_texts = (UserText(words, tokens),) if tokens else ()
        request = Request("plain", (Message("user", words),))
        return Prompt(request, ids, roles, self.positions(ids, ()), (), self.image_token, user_texts)

    @cached_property
    def _opening(self) -> list[int]:
        """Ids that the tokenizer puts before every text."""
        encoded = self.tokenizer("a", return_special_tokens_mask=True)
        marked = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
        return [token for token, _ in takewhile(lambda pair: pair[1], marked)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, special tokens left out."""
        return self._text(tuple(ids))

    def forward(
        self, embeds: Tensor, positions: Tensor, cache: Any, deepstack: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """One pass of the decoder stack under the active context.

        Args:
            embeds: (B, Q, d).
            positions: (P, B, Q).
            cache: Receives this pass's keys and values.
            deepstack: Places (B, Q) bool, and features (D, n, d) in row-major order of the places: the hidden states
                there gain one feature after each of the first D layers.

        Returns:
            (B, Q, d) final hidden states, after the last norm.
        """
        extra: dict[str, Any] = {}
        if deepstack is not None:
            places, features = deepstack
            extra = {"visual_pos_masks": places, "deepstack_visual_embeds": features}
        output = self.language_model(
            inputs_embeds=embeds,
            position_ids=self._position_ids(positions),
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, V) float32 logits of hidden states (…, d)."""
        return self.head(hidden).float()  # type: ignore[no-any-return]

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _image_token(self) -> int:
        return int(self.model.config.image_token_id)

    def _position_ids(self, positions: Tensor) -> Tensor:
        return positions[0]

    def _by_image(self, seen: list[EncoderLayer], images: Sequence[ImageInputs]) -> list[EncoderLayer]:
        """Sort what was seen of a layer by image; here, views of all images were one batch."""
        views = [image.tensors["pixel_values"].shape[:-3].numel() for image in images]
        weights = torch.split(torch.cat([part.weights for part in seen]), views)
        keys = torch.split(torch.cat([part.keys for part in seen]), views)
        return [EncoderLayer(*both) for both in zip(weights, keys, strict=True)]
