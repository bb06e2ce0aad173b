"""Tokenizer and conversation form of the tiny models: one token a word, markup as the model's family writes it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sinkbench.errors import UsageError

UNKNOWN = "<unk>"
NO_SPACE_BEFORE = (".", ",", "?", "!", ":")

WORD_PATTERN = r"\n|[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]"
"""A token: a line break, or what `sinkbench.scenes.language.words` takes for one. Spaces are dropped."""


@dataclass(frozen=True)
class Chat:
    """How a family writes a conversation about an image.

    Attributes:
        special: Special tokens, in the order of their ids.
        markup: Words that the template adds.
        pad: Padding.
        bos: Put in front of every text; None puts nothing.
        eos: Ends an answer.
        media: Special tokens that the family's processor asks its tokenizer for, by attribute name.
        image: Stands for an image in a prompt.
        prefix: What stands before the first question, with one `image`; shared by all questions on an image.
        ask: What stands between a question and its answer.
        template: The chat template; it writes `prefix` and `ask` where training has them.
        text_prefix: What stands before the first question of a conversation without an image.
    """

    special: tuple[str, ...]
    markup: tuple[str, ...]
    pad: str
    bos: str | None
    eos: str
    media: Mapping[str, str]
    image: str
    prefix: str
    ask: str
    template: str
    text_prefix: str = ""

    def special_ids(self, tokenizer: Any) -> dict[str, int | None]:
        """The entries of a model configuration that name special tokens."""
        names = {"pad_token_id": self.pad, "bos_token_id": self.bos, "eos_token_id": self.eos}
        return {key: None if token is None else tokenizer.token_to_id(token) for key, token in names.items()}


def chatml(media: Mapping[str, str], image: str, prefix: str, markup: tuple[str, ...], template: str) -> Chat:
    """The form of Qwen2's language models, which both Qwen-VL and InternVL use.

    Args:
        media: The family's special tokens by attribute name.
        image: The one of them that stands for an image.
        prefix: What stands before the first question.
        markup: Words in the prefix beside the names of the roles.
        template: The chat template.
    """
    return Chat(
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", UNKNOWN, *media.values()),
        markup=("system", "user", "assistant", "\n", *markup),
        pad="<|endoftext|>",
        bos=None,
        eos="<|im_end|>",
        media=media,
        image=image,
        prefix=prefix,
        ask="<|im_end|>\n<|im_start|>assistant\n",
        template=template,
    )


def build_tokenizer(words: Iterable[str], chat: Chat) -> Any:
    """A word-level `tokenizers.Tokenizer`.

    Encoding keeps character offsets and puts the form's BOS in front; decoding joins words with single spaces, none
    before punctuation. What is not in the vocabulary becomes `<unk>`.

    Args:
        words: The vocabulary; each entry must be one token by `WORD_PATTERN`. Special tokens and markup are added.
        chat: The conversation form.

    Raises:
        UsageError: An entry would be split.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((*chat.special, *chat.markup, *words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True)
    split = [word for word in vocabulary if word not in chat.special and _pieces(tokenizer, word) != [word]]
    if split:
        raise UsageError(f"vocabulary entries are not single words: {split}", "Give their parts to vocabulary().")
    if chat.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{chat.bos} $A", pair=f"{chat.bos} $A $B", special_tokens=[(chat.bos, vocabulary[chat.bos])]
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
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in chat.special])
    return tokenizer


def _pieces(tokenizer: Any, word: str) -> list[str]:
    """The strings that the pre-tokenizer makes of one vocabulary entry."""
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)]


def wrap_tokenizer(tokenizer: Any, chat: Chat) -> Any:
    """The `PreTrainedTokenizerFast` around a word-level tokenizer, for the processor to ship."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=chat.pad,
        bos_token=chat.bos,
        eos_token=chat.eos,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        extra_special_tokens=dict(chat.media),
    )
