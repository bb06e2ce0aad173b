"""Checks of the vector kernels that need Triton's interpreter. `test_kernels.py` runs this file in such a process."""

import pytest
import torch

from sinkbench.diagnostics.rows import column_extremes, measure_products, measure_rows
from sinkbench.engine.rows import kernel_columns, kernel_mapped_norms, kernel_products, kernel_rows, mapped_norms

SHAPES = {
    "hidden states": (3, 7, 576),
    "wider than a block": (2, 5, 1100),
    "heads": (2, 3, 9, 64),
    "odd head dimension": (2, 3, 33, 80),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_row_statistics(shape, dtype):
    values, reference = noise(*shape, dtype=dtype), noise(*shape[:-2], shape[-1], dtype=dtype)
    found, expected = kernel_rows(values, reference), measure_rows(values, reference)
    for name in ("norms", "dots", "largest"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-5)
    # Of equal entries either may be named.
    assert values.float().abs().take_along_dim(found.dims[..., None], -1)[..., 0].equal(expected.largest)


@shapes
def test_products_alone_are_those_of_the_whole(shape):
    values, reference = noise(*shape), noise(*shape[:-2], shape[-1])
    whole, found = kernel_rows(values, reference), kernel_products(values, reference)
    assert found.norms.equal(whole.norms)
    assert found.dots.equal(whole.dots)
    torch.testing.assert_close(found, measure_products(values, reference), atol=1e-4, rtol=1e-5)


def test_rows_may_be_strided():
    """Heads as they come from a projection, (B, Q, H, d) in memory."""
    values = noise(2, 9, 3, 32).transpose(1, 2)
    reference = noise(2, 3, 32)
    found = kernel_rows(values, reference)
    torch.testing.assert_close(found.norms, values.norm(dim=-1))
    torch.testing.assert_close(found.dots, torch.einsum("bhqd,bhd->bhq", values, reference), atol=1e-5, rtol=1e-5)


def test_rows_without_a_reference():
    values = noise(2, 5, 48)
    found = kernel_rows(values)
    assert not found.dots.any()
    torch.testing.assert_close(found.norms, values.norm(dim=-1))


def test_rows_of_zeros():
    found = kernel_rows(torch.zeros(1, 2, 20), torch.ones(1, 20))
    assert [values.unique().tolist() for values in found] == [[0], [0], [0], [0]]


@pytest.mark.parametrize("width", [64, 100])
@pytest.mark.parametrize("tokens", [5, 70])
def test_column_extremes(width, tokens):
    hidden = noise(3, tokens, width)
    valid = torch.arange(tokens)[None] >= torch.tensor([[0], [2], [tokens]])
    hidden[~valid] = 100
    values, slots = kernel_columns(hidden, valid)
    expected, expected_slots = column_extremes(hidden, valid)
    assert values.equal(expected)
    assert slots[:2].equal(expected_slots[:2])
    assert not values[2].any()


@pytest.mark.parametrize("share", [1, 3])
@pytest.mark.parametrize("width", [32, 80])
def test_mapped_norms(share, width):
    values = noise(2, 70, 2, width).transpose(1, 2)
    maps = noise(2 * share, width, width)
    expected = torch.einsum("hed,bhqd->bhqe", maps, values.repeat_interleave(share, 1)).norm(dim=-1)
    torch.testing.assert_close(mapped_norms(values, maps), expected)
    torch.testing.assert_close(kernel_mapped_norms(values, maps), expected)
