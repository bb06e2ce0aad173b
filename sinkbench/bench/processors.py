"""Processors for models with random weights: the family's real classes around a tokenizer of word pieces.

Its pieces are at most four letters long, so that prompts are about as long as with the published tokenizers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sinkbench.bench.shapes import Shape
from sinkbench.errors import UsageError

_PIECE = r"[A-Za-z]{1,4}|[^A-Za-z]"
_FILE_KEYS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")

_PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

_IMAGE_ONLY = {"image_token": "<image>"}
_QWEN_MEDIA = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class _Kind:
    """What a family's processor is made of.

    Attributes:
        name: Start of the classes' names in transformers.
        images: Class of the image processor.
        videos: Class of the video processor, which some families insist on.
        media: Special tokens for images by the processor's name for them; their ids are the config's `<name>_id`.
        template: Chat template.
    """

    name: str
    images: str
    videos: str | None
    media: Mapping[str, str]
    template: str


_KINDS = {
    "internvl": _Kind(
        "InternVL",
        "GotOcr2ImageProcessor",
        "InternVLVideoProcessor",
        {
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        _CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    ),
    "llava": _Kind("Llava", "CLIPImageProcessor", None, _IMAGE_ONLY, _PLAIN),
    "llava_next": _Kind("LlavaNext", "LlavaNextImageProcessor", None, _IMAGE_ONLY, _PLAIN),
    "llava_onevision": _Kind(
        "LlavaOnevision",
        "LlavaOnevisionImageProcessor",
        "LlavaOnevisionVideoProcessor",
        {**_IMAGE_ONLY, "video_token": "<video>"},
        _CHATML.replace("IMAGE", "<image>\n"),
    ),
    "qwen2_5_vl": _Kind(
        "Qwen2_5_VL",
        "Qwen2VLImageProcessor",
        "Qwen2VLVideoProcessor",
        _QWEN_MEDIA,
        _SYSTEM + _CHATML.replace("IMAGE", _QWEN_IMAGE),
    ),
    "qwen2_vl": _Kind(
        "Qwen2VL",
        "Qwen2VLImageProcessor",
        "Qwen2VLVideoProcessor",
        _QWEN_MEDIA,
        _SYSTEM + _CHATML.replace("IMAGE", _QWEN_IMAGE),
    ),
    "qwen3_vl": _Kind(
        "Qwen3VL",
        "Qwen2VLImageProcessor",
        "Qwen3VLVideoProcessor",
        _QWEN_MEDIA,
        _CHATML.replace("IMAGE", _QWEN_IMAGE),
    ),
}


def synthetic_processor(shape: Shape, config: Any, texts: Iterable[str]) -> Any:
    """A processor of the family's class, with the shape's image settings and a tokenizer that knows some texts.

    Args:
        shape: Which model.
        config: Its transformers config; the special tokens get the ids that it gives them.
        texts: What prompts are made of; other words become the unknown token.

    Raises:
        UsageError: Nothing is known about the family's processor.
    """
    import transformers

    if shape.model_type not in _KINDS:
        raise UsageError(
            f"{shape.name}: no processor can be made for model_type {shape.model_type!r}",
            f"Known: {', '.join(sorted(_KINDS))}. With --weights real the model's own processor is used.",
        )
    kind = _KINDS[shape.model_type]
    settings = {key: value for key, value in shape.image_processor.items() if key not in _FILE_KEYS}
    parts: dict[str, Any] = {
        "image_processor": getattr(transformers, kind.images).from_dict(settings),
        "tokenizer": _tokenizer(kind, config, texts),
        "chat_template": kind.template,
    }
    if kind.videos:
        parts["video_processor"] = getattr(transformers, kind.videos)()
    return getattr(transformers, f"{kind.name}Processor")(**parts, **_layout(shape.model_type, config))


def _layout(model_type: str, config: Any) -> dict[str, Any]:
    """What a processor must be told about the vision encoder to count an image's tokens."""
    if model_type == "internvl":
        return {"image_seq_length": config.image_seq_length}
    if model_type not in ("llava", "llava_next", "llava_onevision"):
        return {}
    strategy = {"vision_feature_select_strategy": config.vision_feature_select_strategy}
    vision = config.vision_config
    if model_type == "llava_onevision":
        tokens = (vision.image_size // vision.patch_size) ** 2
        return {**strategy, "num_image_tokens": tokens, "vision_aspect_ratio": config.vision_aspect_ratio}
    return {**strategy, "patch_size": vision.patch_size, "num_additional_image_tokens": 1}


def _tokenizer(kind: _Kind, config: Any, texts: Iterable[str]) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    text = config.get_text_config()
    chatml = "<|im_start|>" in kind.template
    eos = "<|im_end|>" if chatml else "</s>"
    ids: dict[str, int | None] = {"<unk>": None, "<s>": text.bos_token_id, eos: text.eos_token_id}
    ids["<pad>"] = text.pad_token_id
    for name, token in kind.media.items():
        # InternVL's processor calls the token that stands for a feature by a name of its own.
        ids[token] = getattr(config, f"{name.replace('context_image', 'image')}_id", None)
    if chatml:
        ids["<|im_start|>"] = None
    pieces = dict.fromkeys(piece for part in (*texts, kind.template) for piece in _pieces(part))
    core = Tokenizer(models.WordLevel(_vocabulary(ids, pieces, text.vocab_size), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")]
    )
    markup = {"start_of_turn_token": "<|im_start|>"} if chatml else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=eos,
        pad_token="<pad>",
        extra_special_tokens={**kind.media, **markup},
        padding_side="left",
    )


def _pieces(text: str) -> list[str]:
    return [piece for word in text.split() for piece in re.findall(_PIECE, word)]


def _vocabulary(specials: Mapping[str, int | None], pieces: Iterable[str], size: int) -> dict[str, int]:
    """Ids below `size`: those that special tokens must have, and free ones for the other tokens while they last."""
    taken = {index for index in specials.values() if index is not None}
    free = (index for index in range(size) if index not in taken)
    vocabulary = {token: next(free) if index is None else index for token, index in specials.items()}
    return vocabulary | dict(zip(pieces, free, strict=False))
