from functools import partial

import pytest
import torch
from scipy.linalg import sqrtm

from multiebm.core.errors import DataError
from multiebm.evaluation.frechet import Moments, frechet_distance, frechet_results, moments, symmetric_root


def features_with(mean, covariance, n=50, seed=0):
    """Return features whose *sample* moments are exactly these: whiten a draw, then colour it."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def test_identical_feature_sets_are_at_distance_zero():
    features = torch.randn(300, 128, generator=torch.Generator().manual_seed(0)) * 5
    assert abs(float(frechet_distance(moments(features), moments(features)))) < 1e-9
    fewer_than_dimensions = features[:40]
    assert abs(float(frechet_distance(moments(fewer_than_dimensions), moments(fewer_than_dimensions)))) < 1e-3


def test_commuting_gaussians_have_the_closed_form():
    """Diagonal: sum of (mu_r - mu_g)^2 + (s_r - s_g)^2."""
    mean, other = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.0, 1.0, 0.5]).double()
    s, t = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 2.5, 1.0]).double()
    real, generated = features_with(mean, torch.diag(s**2)), features_with(other, torch.diag(t**2), n=80, seed=1)
    expected = (mean - other).square().sum() + (s - t).square().sum()
    assert float(frechet_distance(moments(real), moments(generated))) == pytest.approx(float(expected), rel=1e-10)


def test_two_by_two_gaussians_that_do_not_commute_have_the_closed_form():
    """Tr (C D)^(1/2) = sqrt(Tr CD + 2 sqrt(det C det D)) in two dimensions."""
    c, d = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 3.0]]).double()
    root_trace = ((c @ d).trace() + 2 * (torch.det(c) * torch.det(d)).sqrt()).sqrt()
    expected = 4 + c.trace() + d.trace() - 2 * root_trace
    zero, two = torch.zeros(2).double(), torch.tensor([2.0, 0.0]).double()
    assert float(frechet_distance(Moments(zero, c), Moments(two, d))) == pytest.approx(float(expected), rel=1e-12)


def test_it_agrees_with_the_matrix_square_root_of_the_product():
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    a, b = (draw(200, 30) @ draw(30, 30) for _ in "ab")
    real, generated = moments(a), moments(b)
    root = torch.from_numpy(sqrtm((real.covariance @ generated.covariance).numpy()).real)
    expected = (real.mean - generated.mean).square().sum()
    expected += (real.covariance + generated.covariance - 2 * root).trace()
    assert float(frechet_distance(real, generated)) == pytest.approx(float(expected), rel=1e-8)


def test_the_symmetric_root_squares_to_the_matrix():
    c = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double()
    assert torch.allclose(symmetric_root(c) @ symmetric_root(c), c, atol=1e-12)


def test_results_name_the_mean_and_every_modality():
    zero, one = torch.zeros(2).double(), torch.eye(2).double()
    real = {name: features_with(zero, one) for name in ("a", "b")}
    generated = {"a": real["a"] + 1, "b": real["b"] + 2}
    results = frechet_results(real, generated, "fcd", torch.Generator().manual_seed(0))
    assert list(results) == ["fcd", "fcd/a", "fcd/b"]
    assert [result.value for result in results.values()] == pytest.approx([5, 2, 8])
    assert all(result.n == 50 and result.standard_error > 0 for result in results.values())


def test_the_error_is_the_deviation_over_independent_draws_in_order_of_magnitude():
    """A shift d of unit Gaussians: the distance deviates by about 2 d / sqrt(N). Five resamples know a deviation
    to a factor of 4 (chi-square, 4 degrees, below 0.25 or above 64: false alarm 8e-3; the seed is fixed)."""
    generator = torch.Generator().manual_seed(0)
    real = {"a": torch.randn(4000, 2, generator=generator)}
    generated = {"a": torch.randn(1000, 2, generator=generator) + torch.tensor([3.0, 0.0])}
    error = frechet_results(real, generated, "fcd", generator)["fcd"].standard_error
    assert 0.25 < error / (2 * 3 / 1000**0.5) < 4


def test_a_modality_without_two_real_items_is_left_out():
    generator = torch.Generator().manual_seed(0)
    real = {"a": torch.randn(50, 2, generator=generator), "b": torch.randn(1, 2, generator=generator)}
    results = frechet_results(real, dict.fromkeys("ab", real["a"] + 1), "fcd", generator)
    assert list(results) == ["fcd", "fcd/a"]
    assert results["fcd"].value == pytest.approx(2, abs=1e-4)
    assert frechet_results({"b": real["b"]}, {"b": real["a"]}, "fcd", generator) == {}


def test_one_item_has_no_covariance():
    with pytest.raises(DataError, match=r"\(1, 4\), expected \[N >= 2, F\]"):
        moments(torch.zeros(1, 4))
