"""Means with intervals that cover, repeat, and cope with missing values."""

import numpy as np
import pytest
import torch

from sinkbench.diagnostics.summary import summarise


def test_the_mean_and_an_interval_as_wide_as_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, size=(400, 3, 2))
    found = summarise(values)
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * values.std(0) / 20, rtol=0.12)
    assert ((found.low < found.mean) & (found.mean < found.high)).all()
    assert found.n.shape == (3, 2)
    assert (found.n == 400).all()


def test_equal_seeds_give_equal_intervals_and_a_column_does_not_depend_on_others():
    values = np.random.default_rng(0).random((30, 4))
    np.testing.assert_array_equal(summarise(values), summarise(values))
    np.testing.assert_allclose(summarise(values).low[2], summarise(values[:, 2]).low)
    assert (summarise(values, seed=1).low != summarise(values).low).any()


def test_a_constant_has_no_spread_and_a_tensor_will_do():
    found = summarise(torch.full((9, 2), 0.25))
    assert found.low.tolist() == found.mean.tolist() == found.high.tolist() == [0.25, 0.25]


def test_missing_values_are_left_out():
    values = np.random.default_rng(0).random((20, 3))
    values[3:, 1] = np.nan
    values[:, 2] = np.nan
    found = summarise(values)
    assert found.n.tolist() == [20, 3, 0]
    assert found.mean[1] == pytest.approx(values[:3, 1].mean())
    assert found.low[1] < found.mean[1] < found.high[1]
    assert np.isnan([found.mean[2], found.low[2], found.high[2]]).all()


def test_there_must_be_a_sample():
    with pytest.raises(ValueError, match="at least one"):
        summarise(np.zeros((0, 4)))
