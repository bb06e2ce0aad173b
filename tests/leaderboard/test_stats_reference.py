"""The statistics against scipy's and statsmodels' on simulated answers, and how often they are right."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sinkbench.leaderboard import stats

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import check_coverage

scipy_stats = pytest.importorskip("scipy.stats")
sm = pytest.importorskip("statsmodels.api")


def mean(totals):
    return totals[..., 0] / totals[..., 1]


def answers(seed, n_clusters=80, size=(1, 9)):
    """Right or wrong answers of two methods, and the image of each; an image's questions are alike."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(*size, size=n_clusters)
    image = np.repeat(np.arange(n_clusters), sizes)
    hard = generator.normal(size=n_clusters)[image] + generator.normal(size=len(image))
    first, second = (
        hard + generator.normal(size=len(image)) * 0.8 + generator.normal(size=n_clusters)[image] * 0.4 < bound
        for bound in (0.6, 0.8)
    )
    return first.astype(float), second.astype(float), image


def sums(values, image):
    return np.stack([np.bincount(image, weights=values), np.bincount(image).astype(float)], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_that_of_statsmodels_and_scipys_binomial_test(seed):
    from statsmodels.stats.contingency_tables import mcnemar

    first, second, _ = answers(seed)
    table = [[np.sum((first == a) & (second == b)) for b in (1, 0)] for a in (1, 0)]
    ours = stats.mcnemar_exact(first, second)
    assert (ours.only_baseline, ours.only_method) == (table[0][1], table[1][0])
    assert ours.p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)
    discordant = int(table[0][1] + table[1][0])
    assert ours.p == pytest.approx(scipy_stats.binomtest(int(table[0][1]), discordant, 0.5).pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_holm_is_that_of_statsmodels(n):
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(n).uniform(size=n) ** 3
    assert stats.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist(), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_clustered_error_is_that_of_ols_with_cluster_robust_covariance(seed):
    """statsmodels' small-sample factor is G/(G-1) * (n-1)/(n-k), and k = 1 for a mean: ours."""
    first, _, image = answers(seed)
    fitted = sm.OLS(first, np.ones(len(first))).fit(cov_type="cluster", cov_kwds={"groups": image}, use_t=True)
    ours = stats.clustered_mean_ci(sums(first, image))
    assert ours.stderr == pytest.approx(float(fitted.bse[0]), rel=1e-9)
    assert ours[:2] == pytest.approx(fitted.conf_int()[0].tolist(), rel=1e-9)


def test_single_samples_have_wilsons_interval():
    """Of n - 1 samples, for our standard error divides by n - 1, and with t for z: both go away as n grows."""
    from statsmodels.stats.proportion import proportion_confint

    values = np.repeat([1.0, 0.0], [4700, 300])
    ours = stats.clustered_mean_ci(sums(values, np.arange(5000)), proportion=True)
    assert ours[:2] == pytest.approx(proportion_confint(4700, 5000, method="wilson"), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_sign_flip_test_is_scipys_permutation_test(seed):
    """Swapping which method gave an image's answers, 20 000 times; their p has a standard error of 0.0034 at most."""
    first, second, image = answers(seed, n_clusters=30)
    differences = np.bincount(image, weights=second - first)
    theirs = scipy_stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: np.sum(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=seed,
        vectorized=True,
    )
    assert stats.sign_flip_p(differences) == pytest.approx(theirs.pvalue, abs=0.014)


def scipy_interval(data, statistic, n_clusters, **options):
    """scipy's percentile interval at the level of ours, and its standard error."""
    t = scipy_stats.t.ppf(0.975, n_clusters - 1)
    level = 1 - 2 * scipy_stats.norm.cdf(-t * np.sqrt(n_clusters / (n_clusters - 1)))
    found = scipy_stats.bootstrap(
        data, statistic, confidence_level=level, method="percentile", n_resamples=20_000, rng=7, paired=True, **options
    )
    return found.confidence_interval, found.standard_error


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_is_scipys(seed):
    """Ends of 2000 and of 20 000 resamples agree within a sixth of the standard error (4 of their own)."""
    first, _, image = answers(seed)
    table = sums(first, image)
    theirs, error = scipy_interval(
        (table[:, 0], table[:, 1]), lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis), len(table)
    )
    ours = stats.bootstrap_ci(table, mean, seed=seed)
    assert ours.stderr == pytest.approx(error, rel=0.08)
    assert ours[:2] == pytest.approx((theirs.low, theirs.high), abs=error / 6)


@pytest.mark.parametrize("seed", range(3))
def test_the_paired_bootstrap_is_scipys(seed):
    first, second, image = answers(seed)
    tables = sums(first, image), sums(second, image)

    def delta(a, b, n, axis):
        return b.sum(axis=axis) / n.sum(axis=axis) - a.sum(axis=axis) / n.sum(axis=axis)

    theirs, error = scipy_interval((tables[0][:, 0], tables[1][:, 0], tables[0][:, 1]), delta, len(tables[0]))
    ours = stats.paired_bootstrap(*tables, mean, seed=seed)
    assert ours.stderr == pytest.approx(error, rel=0.08)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=error / 6)


def test_the_simulation_summarises_as_the_paired_bootstrap_does():
    """Boards of a batch share their resamples, as they would have them one by one."""
    tables = check_coverage._accuracy(np.random.default_rng(0), 3, 40, check_coverage.ALIKE["weak"], 0.8, True)[1]
    totals = [stats.resample_totals(check_coverage._wide(table)).reshape(-1, 3, 3) for table in tables]
    for board in range(3):
        deltas = mean(totals[1][:, board]) - mean(totals[0][:, board])
        alone = stats.paired_bootstrap(tables[0][board], tables[1][board], mean)
        assert stats.paired_summary(alone.delta, deltas, 40) == alone


@pytest.mark.parametrize(("kind", "rate"), [("accuracy", 0.9), ("single", 0.75), ("f1", 0.9), ("chair", 0.9)])
def test_intervals_hold_the_truth(kind, rate):
    """Quick: 500 boards of 100 images have a standard error of one point; tools/check_coverage.py does the rest."""
    found = check_coverage.measure(kind, clusters=100, alike="strong", rate=rate, draws=500, seed=1)
    for name in check_coverage.judged(kind, 100):
        assert found[name] == pytest.approx(0.95 if name.startswith("covered") else 0.05, abs=0.03), name


def test_mcnemar_sees_too_much_where_questions_share_images_and_sign_flips_do_not():
    found = check_coverage.measure("accuracy", clusters=100, alike="strong", rate=0.75, draws=500, seed=1)
    assert found["false_mcnemar"] > 0.08
    assert found["false_sign_flip"] < 0.07


def test_the_simulations_truth_is_what_many_images_show():
    for name in ("_accuracy", "_f1", "_chair"):
        simulate = getattr(check_coverage, name)
        truth, tables = simulate(np.random.default_rng(2), 1, 60_000, check_coverage.ALIKE["strong"], 0.9, True)
        statistic = check_coverage.f1 if name == "_f1" else mean
        measured = [float(statistic(table[0].sum(axis=0))) for table in tables]
        assert measured == pytest.approx(truth, abs=0.004), name


def test_a_coverage_outside_its_limits_is_found():
    row = {"judged": ["covered_delta", "false_sign_flip"], "covered_delta": 0.95, "false_sign_flip": 0.05}
    assert not check_coverage.is_wrong([row, {**row, "false_mcnemar": 0.3}], 0.0)
    assert check_coverage.is_wrong([row, {**row, "covered_delta": 0.92}], 0.0)
    assert check_coverage.is_wrong([row, {**row, "covered_delta": 0.98}], 0.0)
    assert check_coverage.is_wrong([row, {**row, "false_sign_flip": 0.08}], 0.0)
    assert not check_coverage.is_wrong([{**row, "covered_delta": 0.92}], 0.011)
