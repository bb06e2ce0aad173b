"""The tiny LLaVA-1.5: conversation form, processor, model and packed forward."""

from typing import Any

from torch import Tensor, nn

from tiny.model import fresh_model
from tiny.packed import PackedForward
from tiny.recipe import Recipe
from tiny.text import UNKNOWN, Chat, wrap_tokenizer

TEMPLATE = """
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- (message['content'] if message['content'] is string else message['content'][0]['text']) + ' ' -}}
{%- else -%}
{{- message['role'] | upper + ': ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- ' ' if message['role'] == 'user' else '</s>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
"""LLaVA-1.5's form, `USER: <image>\\nquestion ASSISTANT: answer</s>`; BOS comes from the tokenizer."""

CHAT = Chat(
    special=("<pad>", "<s>", "</s>", UNKNOWN, "<image>"),
    markup=("USER", "ASSISTANT", ":", "\n"),
    pad="<pad>",
    bos="<s>",
    eos="</s>",
    media={"image_token": "<image>"},
    image="<image>",
    prefix="USER: <image>\n",
    ask=" ASSISTANT:",
    template=TEMPLATE.strip(),
)


def build_processor(tokenizer: Any, recipe: Recipe) -> Any:
    """The `LlavaProcessor` around a word-level tokenizer; it scales any image to a square without cropping."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = recipe.vision["image_size"]
    square = {"height": side, "width": side}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size=square, crop_size=square, do_center_crop=False),
        tokenizer=wrap_tokenizer(tokenizer, CHAT),
        patch_size=recipe.vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.template,
    )


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """A `LlavaForConditionalGeneration` with fresh float32 weights drawn from the recipe's seed.

    Args:
        recipe: Sizes of the ViT and the language model.
        tokenizer: The word-level `tokenizers.Tokenizer`; its special tokens go into the configuration.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    special = CHAT.special_ids(tokenizer)
    text = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **special, **recipe.text)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**recipe.vision),
        text_config=text,
        image_token_id=tokenizer.token_to_id(CHAT.image),
        image_seq_length=(recipe.vision["image_size"] // recipe.vision["patch_size"]) ** 2,
        vision_feature_layer=recipe.vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        **special,
    )
    return fresh_model(LlavaForConditionalGeneration, config, recipe.seed, special)


class LlavaForward(PackedForward):
    """`PackedForward` of a `LlavaForConditionalGeneration`."""

    @property
    def projector(self) -> nn.Module:
        """The two-layer projector."""
        module: nn.Module = self.model.model.multi_modal_projector
        return module

    def compile_vision(self) -> None:
        """Compile the layers of the CLIP ViT."""
        for layer in self.model.model.vision_tower.encoder.layers:
            layer.compile(dynamic=False)

    def image_features(self, images: Tensor) -> Tensor:
        """(B, N, D) features of the patches of (B, 3, SIZE, SIZE) uint8 images, without CLS."""
        core = self.model.model
        tower, last = core.vision_tower, self.model.config.vision_feature_layer
        hidden = tower.pre_layrnorm(tower.embeddings(self.normalise(images)))
        layers = tower.encoder.layers
        for layer in layers[: len(layers) + 1 + last if last < 0 else last]:
            hidden = layer(hidden, None)
        features: Tensor = core.multi_modal_projector(hidden[:, 1:])
        return features
