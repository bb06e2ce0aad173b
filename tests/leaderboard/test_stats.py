"""Error bars and tests against values worked out by hand or from textbooks."""

import math
from itertools import product

import numpy as np
import pytest

from sinkbench.leaderboard.stats import (
    N_RESAMPLES,
    bootstrap_ci,
    clustered_mean_ci,
    holm,
    mcnemar_exact,
    paired_bootstrap,
    paired_summary,
    percentile_interval,
    resample_totals,
    resamples_for,
    sign_flip_p,
)


def mean(totals):
    return totals[..., 0] / totals[..., 1]


def rows(values, sizes=None):
    return np.stack([np.asarray(values, float), np.ones(len(values)) if sizes is None else np.asarray(sizes, float)], 1)


def test_mcnemar_equals_the_sign_test_by_enumeration():
    for n in range(1, 9):
        for b in range(n + 1):
            outcomes = [sum(bits) for bits in product((0, 1), repeat=n)]
            expected = min(1.0, 2 * sum(x <= min(b, n - b) for x in outcomes) / 2**n)
            result = mcnemar_exact([1] * b + [0] * (n - b) + [1, 0], [0] * b + [1] * (n - b) + [1, 0])
            assert result.p == pytest.approx(expected, rel=1e-12)
            assert (result.n, result.only_baseline, result.only_method) == (n + 2, b, n - b)


def test_mcnemar_textbook_case():
    """Agresti, Categorical Data Analysis: 86 against 150 discordant pairs, exact two-sided p = 3.7e-5."""
    assert mcnemar_exact([1] * 150 + [0] * 86, [0] * 150 + [1] * 86).p == pytest.approx(3.716e-5, rel=1e-3)


def test_mcnemar_without_discordant_pairs_and_with_many():
    assert mcnemar_exact([1, 0, 1], [1, 0, 1]).p == 1.0
    assert mcnemar_exact([1] * 9000, [0] * 9000).p < 1e-300
    assert mcnemar_exact([1] * 4500 + [0] * 4500, [0] * 4500 + [1] * 4500).p == 1.0


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([0.5, 1], [1, 1])])
def test_mcnemar_refuses_unpaired_and_graded_scores(a, b):
    with pytest.raises(ValueError, match=r"McNemar|paired"):
        mcnemar_exact(a, b)


def test_sign_flips_by_enumeration():
    generator = np.random.default_rng(4)
    for _ in range(30):
        differences = generator.integers(-6, 7, size=generator.integers(1, 9))
        totals = [np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))]
        expected = np.mean(np.abs(totals) >= abs(differences.sum()))
        assert sign_flip_p(differences) == pytest.approx(expected, rel=1e-9)


def test_sign_flips_of_single_samples_are_mcnemars_test():
    for b, c in ((0, 1), (3, 9), (86, 150), (700, 650)):
        expected = mcnemar_exact([1] * b + [0] * c, [0] * b + [1] * c).p
        assert sign_flip_p([-1] * b + [1] * c + [0] * 7) == pytest.approx(expected, rel=1e-9)


def test_answers_that_move_image_by_image_are_less_evidence():
    """Eighteen questions on one image that all turn right are one observation, not eighteen: p = 1, not 2 / 2**18."""
    assert sign_flip_p([18]) == 1.0
    assert mcnemar_exact([0] * 18, [1] * 18).p == pytest.approx(2 / 2**18)
    assert sign_flip_p([18, 18, 18]) == pytest.approx(2 / 8)


def test_sign_flips_without_a_difference_and_of_broken_numbers():
    assert sign_flip_p([0, 0]) == 1.0
    assert sign_flip_p([]) == 1.0
    assert sign_flip_p([2, -2]) == 1.0
    with pytest.raises(ValueError, match="numbers of right answers"):
        sign_flip_p([0.5])


def test_holm_worked_example():
    """Four hypotheses at 0.01, 0.04, 0.03, 0.005: 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_monotone_capped_and_at_least_the_raw_value():
    p = np.random.default_rng(1).uniform(size=30).tolist()
    adjusted = holm(p)
    order = np.argsort(p)
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
    assert all(raw <= value <= 1 for raw, value in zip(p, adjusted, strict=True))
    assert holm([]) == []


def test_clustered_mean_with_single_samples_is_the_usual_standard_error():
    values = np.array([0.0, 1, 1, 0, 1, 1, 0, 1])
    low, high, stderr = clustered_mean_ci(rows(values))
    assert stderr == pytest.approx(values.std(ddof=1) / math.sqrt(8))
    # Student's t has 2.3646 as its 97.5 % quantile with 7 degrees of freedom.
    assert (low, high) == pytest.approx((values.mean() - 2.3646 * stderr, values.mean() + 2.3646 * stderr), abs=1e-4)


def test_a_proportion_stays_within_its_bounds_and_leans_to_the_middle():
    """Wilson's interval by hand: 19 of 20 right is 0.95, 0.95 * 0.05 / (0.95 * 0.05 / 19) = 19 samples, t = 2.0930."""
    low, high, stderr = clustered_mean_ci(rows([1] * 19 + [0]), proportion=True)
    assert stderr == pytest.approx(math.sqrt(0.95 * 0.05 / 19))
    t2 = 2.0930**2
    centre, half = (
        (0.95 + t2 / 38) / (1 + t2 / 19),
        math.sqrt(t2 * (0.95 * 0.05 / 19 + t2 / (4 * 19**2))) / (1 + t2 / 19),
    )
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-4)
    assert low < 0.95 < high < 1


def test_a_proportion_without_a_single_error_still_has_an_interval():
    """Wilson's lower end is n / (n + t^2) with every cluster as one sample; six questions an image add nothing."""
    low, high, stderr = clustered_mean_ci(rows([6] * 20, [6] * 20), proportion=True)
    assert (low, high, stderr) == (pytest.approx(20 / (20 + 2.0930**2), abs=1e-4), pytest.approx(1.0), 0.0)
    low, high, _ = clustered_mean_ci(rows([0] * 20, [6] * 20), proportion=True)
    assert (low, high) == (pytest.approx(0.0), pytest.approx(2.0930**2 / (20 + 2.0930**2), abs=1e-4))


def test_clustered_mean_by_hand():
    """Clusters with 2 of 2, 0 of 2 and 1 of 2 right: residuals 1, -1, 0; sqrt(3/2 * 2) / 6."""
    assert clustered_mean_ci(rows([2, 0, 1], [2, 2, 2])).stderr == pytest.approx(math.sqrt(3) / 6)


def test_duplicated_samples_do_not_shrink_the_clustered_error():
    once = clustered_mean_ci(rows([1, 0, 0, 1, 1]))
    sixfold = clustered_mean_ci(rows([6, 0, 0, 6, 6], [6] * 5))
    assert sixfold.stderr == pytest.approx(once.stderr)


def test_clustered_mean_needs_two_clusters():
    with pytest.raises(ValueError, match="two clusters"):
        clustered_mean_ci([[1, 1], [0, 0]])


def test_resampled_totals_draw_whole_clusters_with_replacement():
    totals = resample_totals([[1.0, 0.0], [0.0, 10.0]], n_resamples=4000, seed=3)
    assert {tuple(row) for row in totals} == {(2.0, 0.0), (1.0, 10.0), (0.0, 20.0)}
    assert np.mean(totals[:, 0] == 1.0) == pytest.approx(0.5, abs=0.03)


def test_chunks_cover_all_resamples(monkeypatch):
    monkeypatch.setattr("sinkbench.leaderboard.stats._CHUNK", 7)
    totals = resample_totals(np.ones((3, 1)), n_resamples=11)
    assert totals.shape == (11, 1)
    assert np.all(totals == 3)


@pytest.mark.parametrize(("n", "n_clusters"), [(30, 3), (5, 400)])
def test_kept_draws_are_those_that_are_made_anew(monkeypatch, n, n_clusters):
    table = np.random.default_rng(1).normal(size=(n_clusters, 2))
    kept = [resample_totals(table, n, seed=3) for _ in range(2)]
    monkeypatch.setattr("sinkbench.leaderboard.stats._KEPT", 0)
    anew = resample_totals(table, n, seed=3)
    assert np.array_equal(kept[0], anew)
    assert np.array_equal(kept[1], anew)
    assert not np.array_equal(resample_totals(table, n, seed=4), anew)


@pytest.mark.parametrize("n_clusters", [50, 100, 1000])
@pytest.mark.parametrize("n_tests", [1, 5, 58, 300])
def test_the_smallest_p_survives_holm(n_tests, n_clusters):
    deltas = np.linspace(0.1, 0.2, resamples_for(n_tests))
    p = paired_summary(0.15, deltas, n_clusters).p
    assert 0 < holm([p] * n_tests)[0] < 0.05


def test_few_tests_take_the_usual_number_of_resamples():
    assert resamples_for(1) == resamples_for(2) == N_RESAMPLES < resamples_for(3) == 2400
    assert resamples_for(2, alpha=0.01) == 8000


def test_bootstrap_of_a_mean_agrees_with_theory():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    low, high, stderr = bootstrap_ci(rows(values), mean, seed=5)
    assert stderr == pytest.approx(values.std() / 20, rel=0.06)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * stderr, values.mean() + 1.96 * stderr), abs=0.01)


def test_bootstrap_is_reproducible_and_refuses_nothing():
    table = rows([1, 0, 1, 1, 0])
    assert bootstrap_ci(table, mean, seed=1) == bootstrap_ci(table, mean, seed=1)
    assert bootstrap_ci(table, mean, seed=1) != bootstrap_ci(table, mean, seed=2)
    with pytest.raises(ValueError, match="at least one cluster"):
        resample_totals(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="two clusters"):
        bootstrap_ci(np.ones((1, 2)), mean)


def test_the_percentile_interval_is_wider_the_fewer_clusters_there_are():
    """With 10 clusters t = 2.2622, and t * sqrt(10/9) = 2.3845 cuts off 0.85 % of a normal distribution."""
    values = np.arange(100_001) / 100_000
    assert percentile_interval(values, 10)[:2] == pytest.approx((0.00855, 0.99145), abs=2e-5)
    assert percentile_interval(values, 10**6)[:2] == pytest.approx((0.025, 0.975), abs=2e-5)


def test_paired_bootstrap_of_equal_methods_finds_nothing():
    table = rows(np.random.default_rng(0).integers(0, 2, 100))
    assert paired_bootstrap(table, table, mean) == (0.0, 0.0, 0.0, 1.0, 100, 0.0)


def test_paired_bootstrap_sees_a_small_but_constant_gain_that_an_unpaired_one_would_miss():
    baseline = np.random.default_rng(0).normal(0.0, 5.0, size=200)
    result = paired_bootstrap(rows(baseline), rows(baseline + 0.1), mean)
    assert result.delta == pytest.approx(0.1)
    assert (result.low, result.high) == pytest.approx((0.1, 0.1))
    # No resample of 2000 is at or below zero: z = -3.29, and 3.28 of Student's t with 199 degrees of freedom.
    assert result.p == pytest.approx(1.2e-3, abs=2e-4)


def test_a_single_cluster_says_nothing():
    assert paired_bootstrap([[3, 6]], [[4, 6]], mean) == (
        pytest.approx(1 / 6),
        pytest.approx(1 / 6),
        pytest.approx(1 / 6),
        1,
        1,
        0,
    )


def test_resamples_without_a_value_are_left_out():
    """A category that few images have is missing in some resamples: 0/0."""
    baseline, method = (
        rows([1, 0, 1, *[0] * 20], [2, 2, 2, *[0] * 20]),
        rows([2, 2, 2, *[0] * 20], [2, 2, 2, *[0] * 20]),
    )

    def share(totals):
        with np.errstate(invalid="ignore"):
            return mean(totals)

    result = paired_bootstrap(baseline, method, share)
    assert result.delta == pytest.approx(4 / 6)
    assert 0 < result.low <= 4 / 6 <= result.high <= 1


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_paired_p_agrees_with_its_interval(shift):
    generator = np.random.default_rng(7)
    baseline = generator.normal(size=150)
    result = paired_bootstrap(rows(baseline), rows(baseline + generator.normal(shift, 1.0, 150)), mean)
    if result.p < 0.045:
        assert result.low > 0 or result.high < 0
    if result.p > 0.055:
        assert result.low < 0 < result.high


def test_paired_bootstrap_is_antisymmetric_and_checks_shapes():
    generator = np.random.default_rng(2)
    a, b = rows(generator.normal(size=50)), rows(generator.normal(size=50))
    forward, backward = paired_bootstrap(a, b, mean), paired_bootstrap(b, a, mean)
    assert forward.delta == pytest.approx(-backward.delta)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))
    assert forward.p == backward.p
    with pytest.raises(ValueError, match="shape"):
        paired_bootstrap(a, b[:-1], mean)
