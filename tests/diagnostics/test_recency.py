"""The recency curve recovers planted trends from batches of images of one or several sizes."""

import math

import pytest
import torch

from sinkbench.diagnostics.recency import RecencyCurve, fit_trend
from sinkbench.errors import UsageError

N = 24


def trend(n: int, kappa: float) -> torch.Tensor:
    """Attention (n,) of density 2 exp(κ x)."""
    return 2 * torch.linspace(0, kappa, n, dtype=torch.float64).exp() / n


def image_of(n: int) -> torch.Tensor:
    return torch.arange(40)[None] < n


def rows_of(n: int, *kappas: float) -> torch.Tensor:
    rows = torch.full((1, len(kappas), 40), 0.9, dtype=torch.float64)
    rows[0, :, :n] = torch.stack([trend(n, kappa) for kappa in kappas])
    return rows


def test_images_of_one_size_give_the_exact_curve():
    curve = RecencyCurve()
    for noise in (0.5, 1.5):
        curve.update(rows_of(N, 1.2, -0.3) * noise, image_of(N), image_of(N))
    found = curve.curve()
    assert found.density.shape == (2, N)
    torch.testing.assert_close(found.density[0] / N, trend(N, 1.2))
    assert found.tokens.tolist() == [2] * N
    fit = fit_trend(found)
    assert fit.kappa.tolist() == pytest.approx([1.2, -0.3])
    assert fit.scale.tolist() == pytest.approx([2, 2])
    assert fit.r2.tolist() == pytest.approx([1, 1])


def test_the_published_trend_per_token_is_recovered():
    per_token = 0.002253
    curve = RecencyCurve()
    weights = (per_token * torch.arange(576.0, dtype=torch.float64)).exp()[None, None] / 2000
    curve.update(weights, torch.ones(1, 576).bool(), torch.ones(1, 576).bool())
    assert float(fit_trend(curve.curve()).kappa) / 575 == pytest.approx(per_token)


def test_images_of_several_sizes_share_relative_bins():
    curve = RecencyCurve(bins=8)
    for n in (16, 24, 32):
        curve.update(rows_of(n, 0.8), image_of(n), image_of(n))
    found = curve.curve()
    assert found.density.shape == (1, 8)
    assert found.tokens.sum() == 72
    assert float(fit_trend(found).kappa) == pytest.approx(0.8, rel=0.05)


def test_padding_patches_do_not_count_and_the_others_keep_their_place():
    curve = RecencyCurve()
    real = image_of(N).clone()
    real[0, :5] = False
    rows = rows_of(N, 1.2)
    rows[..., :5] = 77
    curve.update(rows, image_of(N), real)
    found = curve.curve()
    assert found.density[0, :5].isnan().all()
    torch.testing.assert_close(found.density[0, 5:] / N, trend(N, 1.2)[5:])
    assert float(fit_trend(found).kappa) == pytest.approx(1.2)


def test_each_image_of_a_sample_starts_anew():
    curve = RecencyCurve()
    rows = torch.cat([rows_of(N, 0.5)[..., :N], rows_of(N, 0.5)[..., :N]], dim=-1)
    curve.update(rows, torch.ones(1, 48).bool(), torch.ones(1, 48).bool(), sizes=[[N, N]])
    torch.testing.assert_close(curve.curve().density[0] / N, trend(N, 0.5))
    with pytest.raises(UsageError, match=r"\[\[24, 23\]\] tokens were given for \[48\]"):
        curve.update(rows, torch.ones(1, 48).bool(), torch.ones(1, 48).bool(), sizes=[[N, N - 1]])


def test_batches_are_singles_and_samples_without_image_add_nothing(valid, spread):
    sizes = valid.sum(1).tolist()
    generator = torch.Generator().manual_seed(0)
    singles = [torch.rand(2, n, generator=generator) for n in sizes]
    together, apart = RecencyCurve(bins=4), RecencyCurve(bins=4)
    together.update(spread(singles), valid, valid)
    together.update(torch.rand(1, 2, 5), torch.zeros(1, 5).bool(), torch.zeros(1, 5).bool())
    for single, n in zip(singles, sizes, strict=True):
        apart.update(single[None], torch.ones(1, n).bool(), torch.ones(1, n).bool())
    for one, other in zip(together.curve(), apart.curve(), strict=True):
        torch.testing.assert_close(one, other)


def test_no_image_no_curve():
    with pytest.raises(UsageError, match="without an image"):
        RecencyCurve().curve()


def test_an_even_curve_has_no_trend():
    curve = RecencyCurve()
    curve.update(torch.full((1, 1, N), 1 / N), torch.ones(1, N).bool(), torch.ones(1, N).bool())
    assert abs(float(fit_trend(curve.curve()).kappa)) < 1e-6
    assert math.isclose(float(fit_trend(curve.curve()).scale), 1, rel_tol=1e-5)
