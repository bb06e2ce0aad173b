"""Cosines are taken in float32 and stay in their bounds."""

import pytest
import torch

from sinkbench.diagnostics.cosine import cosines


def test_they_are_those_of_torch_and_one_for_the_reference():
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    found = cosines(hidden, hidden[:, 2])
    torch.testing.assert_close(found, torch.cosine_similarity(hidden, hidden[:, 2:3], dim=-1))
    assert found[:, 2].tolist() == pytest.approx([1, 1])
    assert (found.abs() <= 1).all()


def test_half_precision_is_summed_in_float32():
    hidden = (torch.randn(1, 50, 4096, generator=torch.Generator().manual_seed(0)) + 0.3).bfloat16()
    exact = torch.cosine_similarity(hidden.double(), hidden[:, :1].double(), dim=-1)
    torch.testing.assert_close(cosines(hidden, hidden[:, 0]).double(), exact, atol=1e-6, rtol=0)


def test_a_zero_state_has_none():
    assert cosines(torch.zeros(1, 2, 4), torch.ones(1, 4)).tolist() == [[0, 0]]
