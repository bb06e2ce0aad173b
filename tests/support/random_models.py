"""Tiny random models of the real classes, small enough to build in every test process."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
    SmolLM3Config,
)

WORDS = (
    "is there a dog cat car tree in the image ? yes no what do you see how many are red blue one two . , "
    "USER: ASSISTANT:"
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)
TEXT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + ' ' }}{% endfor %}ASSISTANT:"
)
QWEN_MEDIA = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
SIDE, PATCH = 28, 7
HIDDEN, LAYERS = 64, 6


def tokenizer(**media: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; `media` names the family's special tokens for images."""
    media = media or {"image_token": "<image>"}
    specials = ["<pad>", "<s>", "</s>", "<unk>", *media.values()]
    vocabulary = {word: index for index, word in enumerate(specials + WORDS.split())}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=media,
        padding_side="left",
    )


def text_tokenizer(template: str | None = TEXT_TEMPLATE, opening: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; `opening` lets it put the beginning-of-sequence token before a text."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if opening:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )


def _text(
    vocabulary: int, kv_heads: int, kind: type[PreTrainedConfig] = LlamaConfig, **settings: Any
) -> PreTrainedConfig:
    return kind(
        **settings,
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )


def save_llava(folder: Path, seed: int = 0, kv_heads: int = 2) -> Path:
    """A random LLaVA-1.5 in `folder`, as from_pretrained wants it."""
    tok = tokenizer()
    config = LlavaConfig(
        vision_config=_vision(),
        text_config=_text(len(tok), kv_heads),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    processor = LlavaProcessor(
        images,
        tok,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _save(folder, model, processor)


def save_llava_next(folder: Path, seed: int = 0) -> Path:
    """A random LLaVA-NeXT in `folder`."""
    tok = tokenizer()
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = LlavaNextConfig(
        vision_config=_vision(),
        text_config=_text(len(tok), 2),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=pinpoints,
    )
    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(config)
    images = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        images,
        tok,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _save(folder, model, processor)


def save_llava_onevision(folder: Path, seed: int = 0) -> Path:
    """A random LLaVA-OneVision in `folder`; features of more than two tiles are interpolated."""
    tok = tokenizer(image_token="<image>", video_token="<video>")
    pinpoints = [[rows * SIDE, columns * SIDE] for rows in (1, 2) for columns in (1, 2, 3)]
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=_text(len(tok), 2, Qwen2Config),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_2",
    )
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints),
        tok,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        vision_aspect_ratio="anyres_max_2",
    )
    return _save(folder, model, processor)


def save_internvl3_5(folder: Path, seed: int = 0) -> Path:
    """A random InternVL3.5 in `folder`: InternVL on Qwen3, which normalises queries and keys."""
    return save_internvl(folder, seed, Qwen3Config, head_dim=16)


def save_internvl(folder: Path, seed: int = 0, text: type[PreTrainedConfig] = Qwen2Config, **settings: int) -> Path:
    """A random InternVL in `folder`, at most four tiles and a thumbnail an image; `settings` are the text model's."""
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    tokens_per_tile = (SIDE // PATCH // 2) ** 2
    config = InternVLConfig(
        vision_config=vision,
        text_config=_text(len(tok), 2, text, **settings),
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens_per_tile,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}, max_patches=4),
        tok,
        InternVLVideoProcessor(),
        image_seq_length=tokens_per_tile,
        chat_template=TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
    )
    return _save(folder, model, processor)


def save_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """A random Qwen2-VL in `folder`."""
    tok = tokenizer(**QWEN_MEDIA)
    vision = _qwen_vision() | {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**_qwen_text(tok), vision_config=vision))
    return _save(folder, model, _qwen_processor(Qwen2VLProcessor, tok))


def save_qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    """A random Qwen2.5-VL in `folder`; its first vision layer attends within windows of 2×2 features."""
    tok = tokenizer(**QWEN_MEDIA)
    vision = _qwen_vision() | {
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
    }
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**_qwen_text(tok), vision_config=vision))
    return _save(folder, model, _qwen_processor(Qwen2_5_VLProcessor, tok))


def save_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """A random Qwen3-VL in `folder`; features of two inner vision layers enter the first two language layers."""
    tok = tokenizer(**QWEN_MEDIA)
    vision = _qwen_vision() | {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    config = _qwen_text(tok, head_dim=16)
    rope = {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config["text_config"]["rope_parameters"] |= rope
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config, vision_config=vision))
    return _save(folder, model, _qwen_processor(Qwen3VLProcessor, tok, Qwen3VLVideoProcessor))


def save_text(
    folder: Path,
    kind: type[PreTrainedConfig] = LlamaConfig,
    tok: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    kv_heads: int = 2,
    **settings: Any,
) -> Path:
    """A random text-only model in `folder`; `settings` are its config's."""
    tok = tok or text_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_text(len(tok), kv_heads, kind, **settings))
    return _save(folder, model, tok)


def _qwen_vision() -> dict[str, int]:
    return {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, "initializer_range": 0.3}


def _qwen_text(tok: PreTrainedTokenizerFast, **settings: int) -> dict[str, Any]:
    """The text model (rotary frequencies: 2 of time, 3 of rows, 3 of columns) and the special tokens' ids."""
    text = {
        **settings,
        "vocab_size": len(tok),
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    ids = {f"{name}_id": tok.convert_tokens_to_ids(token) for name, token in QWEN_MEDIA.items()}
    return {"text_config": text, **ids}


def _qwen_processor(cls, tok: PreTrainedTokenizerFast, videos=Qwen2VLVideoProcessor):
    """Its limits enlarge the smallest of the tests' images and shrink the largest."""
    size = {"shortest_edge": 1000, "longest_edge": 2940}
    images = Qwen2VLImageProcessor(size=size, patch_size=PATCH)
    template = TEMPLATE.replace("<image> ", "<|vision_start|><|image_pad|><|vision_end|>")
    return cls(images, tok, videos(patch_size=PATCH), chat_template=template)


def _save(folder: Path, model, processor) -> Path:
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


TEXT_KINDS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"kv_heads": 4}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "olmo2": (Olmo2Config, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "smollm3": (SmolLM3Config, {"tie_word_embeddings": True}),
}
"""Text-only models by `model_type`: arguments of `save_text`."""

BUILDERS = {
    "internvl": save_internvl,
    "internvl3_5": save_internvl3_5,
    "llava": save_llava,
    "llava_next": save_llava_next,
    "llava_onevision": save_llava_onevision,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen2_vl": save_qwen2_vl,
    "qwen3_vl": save_qwen3_vl,
}
