"""Gaussians by the factor of their precision, against torch's by the factor of their covariance."""

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from multiebm.core.random import make_generator
from multiebm.distributions.gaussian import kl_to_standard, log_prob, rsample

rng = torch.Generator().manual_seed(0)
SQUARE = torch.randn(5, 3, 3, generator=rng, dtype=torch.float64)
PRECISION = SQUARE @ SQUARE.mT + torch.eye(3, dtype=torch.float64)
LOC = torch.randn(5, 3, generator=rng, dtype=torch.float64)
ROOT = torch.linalg.cholesky(PRECISION)
EXACT = MultivariateNormal(LOC, precision_matrix=PRECISION)


def test_the_density_is_torchs():
    x = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(log_prob(x, LOC, ROOT), EXACT.log_prob(x))


def test_the_divergence_to_the_standard_density_is_torchs():
    standard = MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(kl_to_standard(LOC, ROOT), kl_divergence(EXACT, standard))


def test_draws_have_the_mean_and_the_covariance():
    """Four standard errors of 40,000 draws: of a mean 4 sqrt(v / n), of a covariance at most 4 v sqrt(2 / n)."""
    n = 40_000
    drawn = rsample(make_generator(0), LOC.expand(n, 5, 3), ROOT)
    covariance = torch.linalg.inv(PRECISION)
    spread = covariance.diagonal(dim1=1, dim2=2)
    assert ((drawn.mean(0) - LOC).abs() < 4 * (spread / n).sqrt()).all()
    off = drawn - drawn.mean(0)
    found = torch.einsum("nbi,nbj->bij", off, off) / n
    assert ((found - covariance).abs() < 4 * (2 / n) ** 0.5 * spread.amax(1)[:, None, None]).all()
