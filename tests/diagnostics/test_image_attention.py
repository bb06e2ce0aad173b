"""How much and how evenly a row looks at the image, and where a question moves its gaze."""

import pytest
import torch

from sinkbench.diagnostics.image_attention import gaze_shift, image_density, image_entropy, image_ratio

IMAGE = torch.tensor([[False, True, True, True, True, False, False, False]])
ALL = torch.ones_like(IMAGE)


def test_even_attention_has_density_and_entropy_one():
    weights = torch.full((1, 2, 8), 1 / 8)
    assert image_ratio(weights, IMAGE).tolist() == [[0.5, 0.5]]
    assert image_density(weights, IMAGE, ALL).tolist() == [[1, 1]]
    assert image_entropy(weights, IMAGE).item() == pytest.approx(1)


def test_density_without_sinks_counts_neither_their_mass_nor_their_number():
    weights = torch.full((1, 1, 8), 0.05)
    weights[..., 1] = 0.65
    sinks = torch.arange(8)[None] == 1
    assert image_density(weights, IMAGE & ~sinks, ALL).item() == pytest.approx(0.15 / (3 / 8))


def test_entropy_is_of_the_mean_over_heads_within_the_image():
    weights = torch.zeros(1, 2, 8)
    weights[0, 0, 1] = weights[0, 1, 2] = 0.2
    weights[0, :, 0] = 0.8
    assert image_entropy(weights, IMAGE).item() == pytest.approx(0.5)
    weights[0, 1] = weights[0, 0]
    assert image_entropy(weights, IMAGE).item() == 0


def test_no_image_no_entropy():
    weights = torch.full((1, 2, 8), 1 / 8)
    nothing = torch.zeros_like(IMAGE)
    assert image_entropy(weights, nothing).isnan().all()
    assert image_density(weights, nothing, ALL).isnan().all()
    assert image_entropy(weights, torch.arange(8)[None] == 3).isnan().all()
    assert image_entropy(torch.zeros(1, 2, 8), IMAGE).isnan().all()


def test_the_gaze_shift_sums_what_rises():
    rows = torch.zeros(1, 1, 4, 8)
    rows[0, 0, :, 1] = torch.tensor([0.1, 0.4, 0.2, 0.3])
    rows[0, 0, :, 6] = torch.tensor([0.0, 0.5, 0.0, 0.5])
    valid_rows = torch.ones(1, 4, dtype=torch.bool)
    shift = gaze_shift(rows, IMAGE, valid_rows, valid_rows)
    assert shift[0, 0].tolist() == pytest.approx([0, 0.4, 0, 0, 0, 0, 0, 0])
    from_before = gaze_shift(rows, IMAGE, valid_rows, valid_rows, before=torch.zeros(1, 1, 8))
    assert from_before[0, 0, 1] == pytest.approx(0.5)
    second = torch.tensor([[False, True, False, False]])
    assert gaze_shift(rows, IMAGE, valid_rows, second)[0, 0, 1] == pytest.approx(0.3)


def test_a_row_is_compared_over_padding_with_the_last_real_one():
    real = torch.tensor([[True, False, True, False, True], [False, False, True, True, True]])
    generator = torch.Generator().manual_seed(0)
    rows, image = torch.rand(2, 3, 5, 8, generator=generator), IMAGE.expand(2, -1)
    before = torch.rand(2, 3, 8, generator=generator)
    for known in (None, before):
        shift = gaze_shift(rows, image, real, torch.ones_like(real), known)
        for row in range(2):
            few = torch.ones(1, 3, dtype=torch.bool)
            first = None if known is None else known[row : row + 1]
            alone = gaze_shift(rows[row : row + 1, :, real[row]], IMAGE, few, few, first)
            torch.testing.assert_close(shift[row], alone[0])


def test_padding_changes_nothing(valid, spread, attention):
    weights = spread([w[:, -1] for w in attention], fill=0.0)
    image = spread([torch.arange(w.shape[-1]) % 3 == 1 for w in attention])
    for row, (real, single) in enumerate(zip(valid, attention, strict=True)):
        one = torch.ones(1, single.shape[-1], dtype=torch.bool)
        alone = single[None, :, -1], image[row : row + 1, real]
        torch.testing.assert_close(image_ratio(weights, image)[row], image_ratio(*alone)[0])
        torch.testing.assert_close(image_density(weights, image, valid)[row], image_density(*alone, one)[0])
        torch.testing.assert_close(image_entropy(weights, image)[row], image_entropy(*alone)[0])
