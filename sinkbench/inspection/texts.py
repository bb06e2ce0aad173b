"""Text-only token sequences for the sink metric: natural, random and repeated (Gu et al., arXiv 2410.10781)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from sinkbench.adapters.base import Adapter
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import UsageError, unknown_name
from sinkbench.paths import asset

TOKENS, COUNT = 64, 100
"""The paper's T and N."""


def sequences(adapter: Adapter, kind: str, tokens: int = TOKENS, count: int = COUNT, seed: int = 0) -> list[Prompt]:
    """Prompts of exactly `tokens` tokens.

    Args:
        adapter: The model.
        kind: "natural": our own plain English sentences one after the other, sequence i from sentence i on, with
            whatever special token the tokenizer puts first. "random": tokens drawn evenly from the vocabulary behind
            that special token. "repeated": one such token, over and over, and nothing else.
        tokens: T.
        count: N.
        seed: Of the draws.

    Raises:
        UsageError: There is no such kind, or the text is too short.
    """
    if kind not in KINDS:
        raise unknown_name("kind of text", kind, KINDS)
    prompts = KINDS[kind](adapter, tokens, count, torch.Generator().manual_seed(seed))
    return [replace(one, request=replace(one.request, id=f"{kind}/{i}")) for i, one in enumerate(prompts)]


def from_lines(adapter: Adapter, lines: Sequence[str], tokens: int) -> list[Prompt]:
    """A prompt for each line, its first `tokens` tokens.

    Raises:
        UsageError: No line is that long.
    """
    prompts = [adapter.plain_prompt(line, tokens) for line in lines]
    long = [prompt for prompt in prompts if len(prompt) == tokens]
    if not long:
        longest = max(map(len, prompts), default=0)
        raise UsageError(
            f"no line has {tokens} tokens; the longest has {longest}", f"Give longer lines, or --tokens {longest}."
        )
    return long


def _natural(adapter: Adapter, tokens: int, count: int, generator: torch.Generator) -> list[Prompt]:
    sentences = (asset("text") / "sentences.txt").read_text("utf-8").splitlines()
    if count > len(sentences):
        raise UsageError(f"there are {len(sentences)} sequences of natural text", f"Give --count {len(sentences)}.")
    doubled = sentences * 2
    return from_lines(adapter, [" ".join(doubled[i : i + len(sentences)]) for i in range(count)], tokens)


def _random(adapter: Adapter, tokens: int, count: int, generator: torch.Generator) -> list[Prompt]:
    return [adapter.plain_prompt(_draw(adapter, tokens, generator), tokens) for _ in range(count)]


def _repeated(adapter: Adapter, tokens: int, count: int, generator: torch.Generator) -> list[Prompt]:
    return [adapter.plain_prompt(_draw(adapter, 1, generator) * tokens, opening=False) for _ in range(count)]


def _draw(adapter: Adapter, count: int, generator: torch.Generator) -> list[int]:
    """Tokens drawn evenly from the vocabulary, special ones left out."""
    allowed = torch.ones(len(adapter.tokenizer), dtype=torch.bool)
    allowed[[i for i in adapter.tokenizer.all_special_ids if i < len(allowed)]] = False
    ids = allowed.nonzero()[:, 0]
    return [int(i) for i in ids[torch.randint(len(ids), (count,), generator=generator)]]


KINDS: dict[str, Callable[[Adapter, int, int, torch.Generator], list[Prompt]]] = {
    "natural": _natural,
    "random": _random,
    "repeated": _repeated,
}
