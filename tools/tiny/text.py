"""Tokenizer, chat template and processor of the tiny models: one token a word, LLaVA-1.5's conversation form."""

from collections.abc import Iterable
from typing import Any

from sinkbench.errors import UsageError

PAD, BOS, EOS, UNKNOWN, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, IMAGE)
MARKUP = ("USER", "ASSISTANT", ":", "\n")
NO_SPACE_BEFORE = (".", ",", "?", "!", ":")

WORD_PATTERN = r"\n|[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]"
"""A token: a line break, or what `sinkbench.scenes.language.words` takes for one. Spaces are dropped."""

CHAT_TEMPLATE = """
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

PROMPT_PREFIX = f"USER: {IMAGE}\n"
"""What stands before the first question; shared by all questions on an image."""


def build_tokenizer(words: Iterable[str]) -> Any:
    """A word-level `tokenizers.Tokenizer`.

    Encoding keeps character offsets and puts BOS in front; decoding joins words with single spaces, none before
    punctuation. What is not in the vocabulary becomes `<unk>`.

    Args:
        words: The vocabulary; each entry must be one token by `WORD_PATTERN`. Special tokens and markup are added.

    Raises:
        UsageError: An entry would be split.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((*SPECIAL, *MARKUP, *words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    split = [word for word in vocabulary if word not in SPECIAL and _pieces(tokenizer, word) != [word]]
    if split:
        raise UsageError(f"vocabulary entries are not single words: {split}", "Give their parts to vocabulary().")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(f" {sign}", sign) for sign in NO_SPACE_BEFORE),
            decoders.Replace(" ' ", "'"),
            decoders.Replace(" \n ", "\n"),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _pieces(tokenizer: Any, word: str) -> list[str]:
    """The strings that the pre-tokenizer makes of one vocabulary entry."""
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)]


def build_processor(tokenizer: Any, image_size: int, patch_size: int) -> Any:
    """The `LlavaProcessor` around a word-level tokenizer; it scales any image to a square without cropping.

    Args:
        tokenizer: What `build_tokenizer` made.
        image_size: Side of the model's input in pixels.
        patch_size: Side of a ViT patch in pixels.
    """
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        extra_special_tokens={"image_token": IMAGE},
    )
    square = {"height": image_size, "width": image_size}
    images = CLIPImageProcessor(size=square, crop_size=square, do_center_crop=False)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=wrapped,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.strip(),
    )
