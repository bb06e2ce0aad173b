"""Rotary embeddings whose frequencies depend on the longest position ("dynamic" RoPE, as in InternVL3).

transformers reads that position back from the device in every pass. The engine knows it beforehand, and as long as it
is within the length that the model was trained for, the frequencies are those of plain RoPE.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def is_steady(language_model: Any, longest: int) -> bool:
    """Whether a pass over positions below `longest` leaves the frequencies as they are."""
    rotary = getattr(language_model, "rotary_emb", None)
    kind = getattr(rotary, "rope_type", "default")
    return "dynamic" not in kind or longest <= rotary.original_max_seq_len  # type: ignore[union-attr]


@contextmanager
def steady(language_model: Any, longest: int) -> Iterator[None]:
    """Within it, a pass over positions below `longest` does not look for a longer one, if there can be none."""
    rotary = getattr(language_model, "rotary_emb", None)
    kind = getattr(rotary, "rope_type", "default")
    if "dynamic" not in kind or not is_steady(language_model, longest):
        yield
        return
    if rotary.max_seq_len_cached > rotary.original_max_seq_len:  # type: ignore[union-attr]
        yield  # A longer prompt has left its frequencies; this pass restores them.
        return
    rotary.rope_type = "default"  # type: ignore[union-attr]
    try:
        yield
    finally:
        rotary.rope_type = kind  # type: ignore[union-attr]
