"""The tiny LLaVA: construction from a recipe, and its packed training forward."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiny.packing import Turns, attention_bias
from tiny.recipe import Recipe
from tiny.text import BOS, EOS, IMAGE, PAD, PROMPT_PREFIX


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """A `LlavaForConditionalGeneration` with fresh float32 weights drawn from the recipe's seed.

    Args:
        recipe: Sizes of the ViT and the language model.
        tokenizer: The word-level `tokenizers.Tokenizer`; its special tokens go into the configuration.
    """
    from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    special = {
        "pad_token_id": tokenizer.token_to_id(PAD),
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOS),
    }
    text = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **special, **recipe.text)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**recipe.vision),
        text_config=text,
        image_token_id=tokenizer.token_to_id(IMAGE),
        image_seq_length=(recipe.vision["image_size"] // recipe.vision["patch_size"]) ** 2,
        vision_feature_layer=recipe.vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        **special,
    )
    torch.manual_seed(recipe.seed)
    model = Llava(config).float()
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **special)
    return model


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write weights as bf16 safetensors, configuration and processor; training goes on with the model as it was.

    Args:
        model: The trained model in float32.
        processor: The `LlavaProcessor`.
        folder: Where `from_pretrained` will look.
    """
    from transformers import LlavaForConditionalGeneration as Llava

    with torch.device("meta"):
        shipped = Llava(model.config)
    state = {name: value.detach().to("cpu", torch.bfloat16) for name, value in model.state_dict().items()}
    shipped.load_state_dict(state, assign=True)
    shipped.tie_weights()
    shipped.config.dtype = torch.bfloat16
    shipped.generation_config = model.generation_config
    shipped.save_pretrained(folder)
    processor.save_pretrained(folder)


class PackedForward(nn.Module):
    """Next-token logits for packed turns; parameters are those of the model it wraps.

    It calls the model's parts directly: one vision pass and one prefix an image, and logits at turn positions only.
    tests/tools hold it to `LlavaForConditionalGeneration.forward` on separate questions.

    Args:
        model: A `LlavaForConditionalGeneration`.
        processor: Its processor, for the prefix tokens and the pixel statistics.
    """

    prefix_ids: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        ids = processor.tokenizer(PROMPT_PREFIX).input_ids
        at = ids.index(model.config.image_token_id)
        self.image_at = at
        images = processor.image_processor
        self.register_buffer("prefix_ids", torch.tensor(ids[:at] + ids[at + 1 :]), persistent=False)
        self.register_buffer("mean", torch.tensor(images.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(images.image_std).view(3, 1, 1), persistent=False)

    def compile_layers(self) -> None:
        """Compile every transformer layer by itself; the layers of a stack share one graph, so this stays short."""
        core = self.model.model
        for layer in (*core.vision_tower.encoder.layers, *core.language_model.layers):
            layer.compile(dynamic=False)

    def image_features(self, images: Tensor) -> Tensor:
        """What the language model reads in place of the image tokens.

        Args:
            images: (B, 3, H, W) uint8.

        Returns:
            (B, N, D) projected features of the patches, without CLS.
        """
        core = self.model.model
        tower, last = core.vision_tower, self.model.config.vision_feature_layer
        pixels = (images.float() / 255.0 - self.mean) / self.std
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        layers = tower.encoder.layers
        for layer in layers[: len(layers) + 1 + last if last < 0 else last]:
            hidden = layer(hidden, None)
        features: Tensor = core.multi_modal_projector(hidden[:, 1:])
        return features

    def forward(self, images: Tensor, turns: Turns) -> Tensor:
        """Logits of the token that follows each turn token.

        Args:
            images: (B, 3, H, W) uint8.
            turns: The packed questions and answers, (B, S) each.

        Returns:
            (B, S, V) logits.
        """
        language = self.model.model.language_model
        features = self.image_features(images)
        batch, patches, _ = features.shape
        prefix = self.prefix_ids.shape[0] + patches
        fixed = language.embed_tokens(self.prefix_ids).expand(batch, -1, -1)
        parts = [
            fixed[:, : self.image_at],
            features,
            fixed[:, self.image_at :],
            language.embed_tokens(turns.ids),
        ]
        embeddings = torch.cat([part.to(fixed.dtype) for part in parts], dim=1)
        positions = torch.arange(prefix, device=images.device).expand(batch, -1)
        autocast = torch.is_autocast_enabled(images.device.type)
        dtype = torch.get_autocast_dtype(images.device.type) if autocast else embeddings.dtype
        hidden = language(
            inputs_embeds=embeddings,
            attention_mask=attention_bias(turns.turn, prefix, dtype),
            position_ids=torch.cat([positions, prefix + turns.offset], dim=1),
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden[:, prefix:])
        return logits


def parameter_counts(model: Any) -> dict[str, int]:
    """Parameters of the whole model and of its three parts; tied weights count once."""
    core = model.model
    parts = {"vision": core.vision_tower, "projector": core.multi_modal_projector, "language": core.language_model}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {"total": sum(p.numel() for p in model.parameters()), **counts}
