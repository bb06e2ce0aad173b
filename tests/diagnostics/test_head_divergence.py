"""Heads that see the image diverge, the others do not."""

import pytest
import torch

from sinkbench.diagnostics.head_divergence import head_divergence, token_divergence


def test_the_distance_of_each_head():
    with_image = torch.zeros(2, 3, 8)
    with_image[1, 2, :2] = torch.tensor([3.0, 4.0])
    found = head_divergence(with_image, torch.zeros(2, 3, 8))
    assert found.tolist() == [[0, 0, 0], [0, 0, 5]]


def test_half_precision_does_not_overflow():
    far = torch.full((1, 1, 64), 30000.0, dtype=torch.float16)
    assert head_divergence(far, -far).item() == pytest.approx(60000 * 8)


def test_the_largest_heads_of_each_layer_add_up():
    divergence = torch.tensor([[[1.0, 2, 3], [6, 5, 4]], [[1, 1, 1], [0, 0, 9]]])
    assert token_divergence(divergence, top=2).tolist() == [16, 11]
    assert token_divergence(divergence).tolist() == [21, 12]
