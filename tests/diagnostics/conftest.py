from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

Spread = Callable[..., Tensor]

LENGTHS = (9, 14, 12)
"""Tokens of the samples of `valid`."""


@pytest.fixture
def valid() -> Tensor:
    """(3, 18) bool: padding before, behind and between the tokens, as the engine lays out prefixes and suffixes."""
    rows = torch.zeros(len(LENGTHS), 18, dtype=torch.bool)
    rows[0, 9:] = True
    rows[1, :14] = True
    rows[2, :5] = rows[2, 11:] = True
    return rows


@pytest.fixture
def spread(valid: Tensor) -> Spread:
    """Puts singles, tokens on axis `dim`, where `valid` has its tokens, and `fill` where it has padding."""

    def put(singles: Sequence[Tensor], fill: float = 0, dim: int = -1) -> Tensor:
        rows = []
        for single, real in zip(singles, valid, strict=True):
            tokens = single.movedim(dim, 0)
            row = torch.full((valid.shape[1], *tokens.shape[1:]), fill).to(single.dtype)
            row[real] = tokens
            rows.append(row.movedim(0, dim))
        return torch.stack(rows)

    return put


@pytest.fixture
def attention() -> list[Tensor]:
    """Causal attention (4, n, n) of 4 heads for each sample of `valid`, rows summing to one."""
    generator = torch.Generator().manual_seed(0)
    return [causal(torch.randn(4, n, n, generator=generator) * 2) for n in LENGTHS]


@pytest.fixture
def states() -> list[Tensor]:
    """Hidden states (n, 64) for each sample of `valid`."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 64, generator=generator) for n in LENGTHS]


def causal(scores: Tensor) -> Tensor:
    n = scores.shape[-1]
    return scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf).softmax(-1)
