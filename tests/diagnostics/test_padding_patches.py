"""Padding patches of images padded to squares: known counts of LLaVA-1.5's grid of 24."""

import pytest
import torch

from sinkbench.diagnostics.masking import place
from sinkbench.diagnostics.padding_patches import padding_share, square_padding


@pytest.mark.parametrize(
    ("size", "area", "real"),
    [
        ((336, 336), 0.5, 576),
        ((640, 480), 0.5, 432),
        ((480, 640), 0.5, 432),
        ((333, 500), 0.5, 384),
        ((1024, 300), 0.5, 192),
        ((1024, 300), 0.3, 144),
        ((1024, 300), 0.01, 144),
    ],
)
def test_the_number_of_real_patches(size, area, real):
    padding = square_padding(*size, grid=24, area=area)
    assert (~padding).sum() == real


def test_padding_lies_above_and_below_wide_images_and_beside_tall_ones():
    wide = square_padding(640, 480, 24).view(24, 24)
    assert wide.all(1).nonzero()[:, 0].tolist() == [0, 1, 2, 21, 22, 23]
    assert square_padding(480, 640, 24).view(24, 24).equal(wide.T)


def test_the_share_of_image_attention_on_padding():
    image = torch.tensor([[False, True, True, True, True], [True, True, True, True, False]])
    padding = place([square_padding(2, 1, 2, area=0.4), square_padding(1, 1, 2)], image)
    weights = torch.tensor([[[0.2, 0.1, 0.1, 0.3, 0.3]], [[0.1, 0.2, 0.3, 0.3, 0.1]]])
    assert padding_share(weights, padding, image).tolist() == [[pytest.approx(1)], [0]]
    top = padding & (torch.arange(5) < 3)
    assert padding_share(weights, top, image)[0, 0] == pytest.approx(0.25)
    assert padding_share(weights, padding, torch.zeros_like(image)).isnan().all()
