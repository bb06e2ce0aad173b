import numpy as np
import pytest

from sinkbench.leaderboard.stats import mcnemar_exact
from sinkbench.regression.swaps import swap_test


def mean(totals):
    return totals[..., 0] / totals[..., 1]


def scores(values):
    return np.array([[value, 1.0] for value in values])


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (3, 1), (6, 0), (5, 5), (11, 1)])
def test_on_zero_one_scores_it_is_mcnemars_exact_test(up, down):
    first = [0.0] * up + [1.0] * (down + 20)
    second = [1.0] * up + [0.0] * down + [1.0] * 20
    p = swap_test(scores(first), scores(second), mean, n_draws=10)
    assert p == pytest.approx(mcnemar_exact(first, second).p)


def test_many_changes_are_drawn():
    first, second = [0.0] * 30 + [1.0] * 14, [1.0] * 30 + [0.0] * 14
    p = swap_test(scores(first), scores(second), mean, n_draws=40_000)
    assert p == pytest.approx(mcnemar_exact(first, second).p, abs=0.002)
    assert swap_test(scores(first[:30]), scores(second[:30]), mean, n_draws=999) == pytest.approx(1 / 1000)


def test_draws_in_parts_are_all_counted(monkeypatch):
    monkeypatch.setattr("sinkbench.regression.swaps._CHUNK", 40)
    first, second = [0.0] * 20, [1.0] * 20
    assert swap_test(scores(first), scores(second), mean, n_draws=99) == pytest.approx(1 / 100)
