"""The tiny InternVL: conversation form, processor, model and packed forward."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sinkbench.errors import UsageError
from sinkbench.scenes.scene import SIZE
from tiny.model import fresh_model
from tiny.packed import PackedForward
from tiny.recipe import Recipe
from tiny.text import Chat, chatml, wrap_tokenizer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Pixel statistics of the published InternVL processors."""
DOWNSAMPLE = 0.5
"""Pixel shuffle makes one token of 2x2 patches."""

TEMPLATE = """
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- part['text'] if part['type'] == 'text' else {'image': '<IMG_CONTEXT>\\n', 'video': '<video>\\n'}[part['type']] -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""The processor writes `<img>` and `</img>` around the tokens of an image."""

CHAT: Chat = chatml(
    media={
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    image="<IMG_CONTEXT>",
    prefix="<|im_start|>user\n<IMG_CONTEXT>\n",
    markup=(),
    template=TEMPLATE.strip(),
)


def build_processor(tokenizer: Any, recipe: Recipe) -> Any:
    """The `InternVLProcessor` around a word-level tokenizer; it makes at most as many tiles as a scene has."""
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    side = recipe.vision["image_size"]
    pixels = {
        "size": {"height": side, "width": side},
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=True, max_patches=(SIZE // side) ** 2, **pixels),
        tokenizer=wrap_tokenizer(tokenizer, CHAT),
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=_tokens_a_tile(recipe),
        chat_template=CHAT.template,
    )


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """An `InternVLForConditionalGeneration` with fresh float32 weights drawn from the recipe's seed.

    Args:
        recipe: Sizes of the ViT and the language model.
        tokenizer: The word-level `tokenizers.Tokenizer`; its special tokens go into the configuration.

    Raises:
        UsageError: Tiles do not tile a scene.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    side = recipe.vision["image_size"]
    if SIZE % side or side == SIZE:
        raise UsageError(f"vision.image_size {side} does not cut {SIZE} px into tiles", "For example 112.")
    special = CHAT.special_ids(tokenizer)
    text = Qwen2Config(vocab_size=tokenizer.get_vocab_size(), **special, **recipe.text)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**recipe.vision),
        text_config=text,
        image_token_id=tokenizer.token_to_id(CHAT.image),
        image_seq_length=_tokens_a_tile(recipe),
        downsample_ratio=DOWNSAMPLE,
        tie_word_embeddings=text.tie_word_embeddings,
        **special,
    )
    return fresh_model(InternVLForConditionalGeneration, config, recipe.seed, special)


def _tokens_a_tile(recipe: Recipe) -> int:
    return int(recipe.vision["image_size"] // recipe.vision["patch_size"] * DOWNSAMPLE) ** 2


class InternVLForward(PackedForward):
    """`PackedForward` of an `InternVLForConditionalGeneration`."""

    def __init__(self, model: Any, processor: Any, chat: Chat) -> None:
        super().__init__(model, processor, chat)
        self._side = int(model.config.vision_config.image_size[0])

    @property
    def projector(self) -> nn.Module:
        """The two-layer projector behind the pixel shuffle."""
        module: nn.Module = self.model.model.multi_modal_projector
        return module

    def compile_vision(self) -> None:
        """Compile the layers of the ViT."""
        for layer in self.model.model.vision_tower.encoder.layer:
            layer.compile(dynamic=False)

    def tiles(self, images: Tensor) -> Tensor:
        """(B, T, 3, side, side) pixel values: the tiles of (B, 3, SIZE, SIZE) uint8 images, then the thumbnail."""
        thumbnail = images
        # As 8-bit images are resized on the CPU: columns first, with 8-bit pixels in between.
        for size in ((images.shape[-2], self._side), (self._side, self._side)):
            thumbnail = interpolate(thumbnail.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255)
        across = SIZE // self._side
        split = images.reshape(-1, 3, across, self._side, across, self._side)
        tiles = split.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return self.normalise(torch.cat([tiles.float(), thumbnail[:, None]], dim=1))

    def image_features(self, images: Tensor) -> Tensor:
        """(B, N, D) features of (B, 3, SIZE, SIZE) uint8 images, tile by tile, the thumbnail's last."""
        core = self.model.model
        hidden = core.vision_tower.embeddings(self.tiles(images).flatten(0, 1))
        for layer in core.vision_tower.encoder.layer:
            hidden = layer(hidden)
        patches = core.vision_tower.layernorm(hidden)[:, 1:]
        side = math.isqrt(patches.shape[1])
        merged = core.pixel_shuffle(patches.unflatten(1, (side, side)), scale_factor=DOWNSAMPLE)
        features: Tensor = core.multi_modal_projector(merged.flatten(1, 2))
        return features.reshape(len(images), -1, features.shape[-1])
