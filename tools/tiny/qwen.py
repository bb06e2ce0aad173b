"""The tiny Qwen2.5-VL: conversation form, processor, model and packed forward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from sinkbench.errors import UsageError
from sinkbench.scenes.scene import SIZE
from tiny.model import fresh_model
from tiny.packed import PackedForward
from tiny.recipe import Recipe
from tiny.text import Chat, chatml, wrap_tokenizer

TEMPLATE = """
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- part['text'] if part['type'] == 'text' else '<|vision_start|><|' + part['type'] + '_pad|><|vision_end|>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

CHAT: Chat = chatml(
    media={
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    },
    image="<|image_pad|>",
    prefix=(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    ),
    markup=("You", "are", "a", "helpful", "."),
    template=TEMPLATE.strip(),
)


def build_processor(tokenizer: Any, recipe: Recipe) -> Any:
    """The `Qwen2_5_VLProcessor` around a word-level tokenizer.

    It scales any image to about the area of a scene at the recipe's `shipped_side`, so that the number of tokens stays
    near the trained one whatever the image's shape.
    """
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    pixels = (recipe.shipped_side or SIZE) ** 2
    sizes = {
        "patch_size": recipe.vision["patch_size"],
        "merge_size": recipe.vision["spatial_merge_size"],
        "temporal_patch_size": recipe.vision["temporal_patch_size"],
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": pixels, "longest_edge": pixels}, **sizes),
        tokenizer=wrap_tokenizer(tokenizer, CHAT),
        video_processor=Qwen2VLVideoProcessor(**sizes),
        chat_template=CHAT.template,
    )


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """A `Qwen2_5_VLForConditionalGeneration` with fresh float32 weights drawn from the recipe's seed.

    Args:
        recipe: Sizes of the ViT and the language model.
        tokenizer: The word-level `tokenizers.Tokenizer`; its special tokens go into the configuration.

    Raises:
        UsageError: Windows do not tile a scene.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = recipe.vision
    window = vision["window_size"]
    if SIZE % window or window % (vision["patch_size"] * vision["spatial_merge_size"]):
        raise UsageError(
            f"vision.window_size {window} does not tile {SIZE} px in whole image tokens",
            "For example window_size 112 with patch_size 8 and spatial_merge_size 2.",
        )
    special = CHAT.special_ids(tokenizer)
    config = Qwen2_5_VLConfig(
        vision_config={"out_hidden_size": recipe.text["hidden_size"], **vision},
        text_config={"vocab_size": tokenizer.get_vocab_size(), **special, **recipe.text},
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
        **{f"{name}_id": tokenizer.token_to_id(token) for name, token in CHAT.media.items()},
        **special,
    )
    return fresh_model(Qwen2_5_VLForConditionalGeneration, config, recipe.seed, special)


def vision_block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A `Qwen2_5_VLVisionBlock` on groups of patches that do not see each other, all groups of one length.

    The block's own forward goes through the groups one by one.

    Args:
        block: The block.
        hidden: (B, G, T, d) hidden states of G groups of T patches.
        cos: (G, T, head size) of the rotary embedding.
        sin: The same.
    """
    attention = block.attn
    projected = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
    query, key, value = projected.unbind(-3)
    query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
    heads = [part.flatten(0, 1).transpose(1, 2) for part in (query, key, value)]
    attended = scaled_dot_product_attention(*heads).transpose(1, 2).reshape(hidden.shape)
    hidden = hidden + attention.proj(attended)
    result: Tensor = hidden + block.mlp(block.norm2(hidden))
    return result


class QwenForward(PackedForward):
    """`PackedForward` of a `Qwen2_5_VLForConditionalGeneration`.

    Images are scenes, so that every image has the same square grid of patches and of windows.
    """

    patch_positions: Tensor

    def __init__(self, model: Any, processor: Any, chat: Chat) -> None:
        super().__init__(model, processor, chat)
        vision = model.config.vision_config
        self._patch, self._merge = vision.patch_size, vision.spatial_merge_size
        self._windows = SIZE // vision.window_size
        self._full = frozenset(vision.fullatt_block_indexes)
        self._block: Callable[[Any, Tensor, Tensor, Tensor], Tensor] = vision_block
        side = torch.arange(SIZE // self._patch)
        grid = torch.stack(torch.meshgrid(side, side, indexing="ij"))
        self.register_buffer("patch_positions", self._in_windows(grid[None]).flatten(0, -2), persistent=False)

    @property
    def projector(self) -> nn.Module:
        """The merger, which makes one token of a square of patches."""
        module: nn.Module = self.model.model.visual.merger
        return module

    def positions(self, inputs: Any) -> Tensor:
        """(3, P) temporal, row and column positions (M-RoPE), by the model's own rule."""
        positions: Tensor = self.model.model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )[0][:, 0]
        return positions

    def compile_vision(self) -> None:
        """Compile the block; windowed and full attention give a graph each."""
        self._block = torch.compile(vision_block, dynamic=False)

    def image_features(self, images: Tensor) -> Tensor:
        """(B, N, D) merged features of (B, 3, SIZE, SIZE) uint8 images, in reading order."""
        visual = self.model.model.visual
        # A still image fills both frames of a patch, so the two halves of the kernel add up.
        kernel = visual.patch_embed.proj.weight.sum(2)
        hidden = self._in_windows(conv2d(self.normalise(images), kernel, stride=self._patch))
        # As in the other families, autocast leaves the residual stream in float32.
        hidden = hidden.float()
        cos, sin = visual.rotary_pos_emb(hidden, self.patch_positions)
        for number, block in enumerate(visual.blocks):
            groups = 1 if number in self._full else self._windows**2
            hidden = hidden.reshape(len(images), groups, -1, hidden.shape[-1])
            hidden = self._block(block, hidden, cos.unflatten(0, (groups, -1)), sin.unflatten(0, (groups, -1)))
        features: Tensor = visual.merger(hidden)
        units = SIZE // (self._patch * self._merge * self._windows)
        windows = features.view(len(images), self._windows, self._windows, units, units, -1)
        return windows.transpose(2, 3).flatten(1, 4)

    def _in_windows(self, grid: Tensor) -> Tensor:
        """(B, C, rows, columns) as (B, windows, patches a window, C), each merged square of patches together."""
        units = SIZE // (self._patch * self._merge * self._windows)
        axis = (self._windows, units, self._merge)
        split = grid.reshape(*grid.shape[:2], *axis, *axis)
        return split.permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(3, 6).flatten(1, 2)
