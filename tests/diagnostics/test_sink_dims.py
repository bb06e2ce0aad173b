"""The detector finds what was planted, and nothing else."""

import math

import pytest
import torch

from sinkbench.diagnostics.sink_dims import (
    activation_ratios,
    default_layers,
    default_tau,
    find_sink_dims,
    first_tokens,
)

L, N, D = 6, 12, 900


def noise() -> torch.Tensor:
    return torch.randn(L, N, D, generator=torch.Generator().manual_seed(0))


def test_planted_dimensions_are_found_strongest_first():
    hidden = noise()
    hidden[:, :, 7] = 400
    hidden[:, :, 500] = -700
    found = find_sink_dims(hidden, tuple(range(3, 9)), tau=12)
    assert found.dims == (500, 7)
    assert found.n_prompts == N
    assert found.runner_up < 1
    assert all(len(found.ratios[k]) == L for k in found.dims)


def test_a_dimension_of_few_layers_or_few_prompts_is_none():
    hidden = noise()
    hidden[:3, :, 7] = 400
    hidden[:, :5, 9] = 400
    assert find_sink_dims(hidden, tuple(range(L)), tau=12).dims == ()


def test_noise_has_no_sink_dimensions():
    assert find_sink_dims(noise(), tuple(range(L)), default_tau(D)).dims == ()


def test_the_ratio_never_exceeds_the_root_of_the_width():
    hidden = torch.zeros(1, D)
    hidden[0, 3] = 1e4
    assert activation_ratios(hidden).max() == pytest.approx(math.sqrt(D), rel=1e-4)
    assert (activation_ratios(noise()) <= math.sqrt(D)).all()


def test_scaling_a_state_changes_nothing():
    hidden = noise() * 100
    torch.testing.assert_close(activation_ratios(hidden), activation_ratios(hidden * 7), atol=1e-4, rtol=1e-4)


def test_tau_fits_the_width_and_layers_the_depth():
    assert default_tau(4096) == 20
    assert default_tau(256) == 8
    assert default_layers(32) == tuple(range(3, 31))
    assert default_layers(6) == (3, 4)
    assert default_layers(2) == (1,)


def test_the_first_token_is_the_first_that_is_no_padding():
    hidden = torch.arange(12.0).view(2, 3, 2)
    valid = torch.tensor([[True, True, True], [False, False, True]])
    assert first_tokens(hidden, valid).tolist() == [[0, 1], [10, 11]]
