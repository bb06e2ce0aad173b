"""The first token's cosine, left out of means, and the loss on it."""

import pytest
import torch

from sinkbench.diagnostics.bos_cosine import bos_cosines, decorrelation_loss, mean_square

ALL = torch.ones(2, 5, dtype=torch.bool)


def test_the_first_token_is_one_and_does_not_count():
    hidden = torch.eye(5).expand(2, 5, 5)
    cosine = bos_cosines(hidden, ALL)
    assert cosine[:, 0].tolist() == [1, 1]
    assert mean_square(cosine, ALL).tolist() == [0, 0]


def test_a_token_alone_has_no_mean():
    one = torch.tensor([[False, True]])
    assert mean_square(torch.ones(1, 2), one).isnan().all()


def test_the_loss_is_zero_for_orthogonal_and_one_for_parallel_tokens():
    assert decorrelation_loss([torch.eye(5).expand(2, 5, 5)], ALL) == 0
    assert decorrelation_loss([torch.ones(2, 5, 8) * torch.arange(1, 6)[:, None]], ALL) == pytest.approx(1)
    random = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert 0 < decorrelation_loss([random, random * 3], ALL) < 1


def test_the_loss_is_the_mean_of_squares_over_tokens_and_layers():
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 5, 8, generator=generator) for _ in range(3)]
    squares = torch.stack([torch.cosine_similarity(x[:, 1:], x[:, :1], dim=-1).square() for x in layers])
    torch.testing.assert_close(decorrelation_loss(layers, ALL), squares.mean())


def test_the_gradient_reaches_the_first_token():
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    decorrelation_loss([hidden], ALL).backward()
    assert (hidden.grad.abs().amax(-1) > 0).all()
    before = decorrelation_loss([hidden], ALL)
    assert decorrelation_loss([hidden - 0.1 * hidden.grad], ALL) < before


def test_padding_changes_neither_cosine_nor_loss(valid, spread, states):
    hidden = spread(states, fill=7, dim=-2)
    cosine = bos_cosines(hidden, valid)
    squares = []
    for row, (real, single) in enumerate(zip(valid, states, strict=True)):
        one = torch.ones(1, len(single), dtype=torch.bool)
        alone = bos_cosines(single[None], one)
        torch.testing.assert_close(cosine[row, real], alone[0])
        torch.testing.assert_close(mean_square(cosine, valid)[row], mean_square(alone, one)[0])
        squares.append(alone[0, 1:].square())
    torch.testing.assert_close(decorrelation_loss([hidden], valid), torch.cat(squares).mean())
