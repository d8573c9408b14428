"""Normal and Laplace against torch.distributions, and their draws against their own distribution functions."""

import pytest
import torch

from multiebm.core.random import item_generators, make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.likelihoods import Likelihood

REFERENCE = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
# sup |F_n - F| sqrt(n) exceeds this with probability 2 exp(-2 * 2.3^2) = 5e-5 (Kolmogorov)
KOLMOGOROV = 2.3
NAMES = pytest.mark.parametrize("name", ["normal", "laplace"])


def doubles(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


@NAMES
def test_the_log_density_is_that_of_torch_in_float64(name):
    x, loc, scale = doubles(50, 3, seed=0) * 4, doubles(50, 3, seed=1), doubles(50, 3, seed=2).exp()
    expected = REFERENCE[name](loc, scale).log_prob(x)
    torch.testing.assert_close(FAMILIES[name].log_prob(x, loc, scale), expected, rtol=1e-12, atol=1e-12)


@NAMES
def test_draws_follow_the_distribution_function(name):
    n = 40_000
    loc, scale = torch.tensor([1.5]), torch.tensor([0.3])
    draws = FAMILIES[name].rsample(make_generator(0), loc.expand(n, 1), scale.expand(n, 1))[:, 0]
    probability = REFERENCE[name](loc, scale).cdf(draws.double()).sort().values
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - probability).max(), (probability - steps[:-1]).max())
    assert distance * n**0.5 < KOLMOGOROV


@NAMES
def test_a_draw_is_differentiable_location_by_1_and_scale_by_the_standard_draw(name):
    loc, scale = torch.full((200, 2), 0.7, requires_grad=True), torch.full((200, 2), 1.3, requires_grad=True)
    draw = FAMILIES[name].rsample(make_generator(3), loc, scale)
    to_loc, to_scale = torch.autograd.grad(draw.sum(), [loc, scale])
    torch.testing.assert_close(to_loc, torch.ones_like(loc))
    torch.testing.assert_close(to_scale, ((draw - loc) / scale).detach(), rtol=1e-4, atol=1e-5)


@NAMES
def test_no_draw_is_infinite_and_per_item_draws_do_not_depend_on_the_batch(name):
    rsample = FAMILIES[name].rsample
    assert rsample(make_generator(0), torch.zeros(400_000), torch.ones(())).isfinite().all()
    together = rsample(item_generators(0, 4), torch.zeros(4, 3), torch.ones(4, 3))
    assert torch.equal(together[3:], rsample(item_generators(0, 1, first=3), torch.zeros(1, 3), torch.ones(1, 3)))


@NAMES
def test_a_likelihood_is_the_weighted_sum_over_the_coordinates_of_an_item(name):
    x, mean = doubles(4, 3, 2, 2, seed=0), doubles(4, 3, 2, 2, seed=1)
    likelihood = Likelihood(FAMILIES[name], 0.3, weight=2.5)
    expected = 2.5 * REFERENCE[name](mean, 0.3).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(likelihood.log_prob(x, mean), expected, rtol=1e-12, atol=0)


def test_the_slope_of_a_likelihood_in_its_mean_is_the_residual_or_its_sign():
    """Section 2.2: (x - mean) / sigma^2 for the normal, sign(x - mean) / b for the Laplace."""
    x, mean = doubles(5, 3, seed=0), doubles(5, 3, seed=1).requires_grad_()
    for name, expected in (("normal", (x - mean) / 0.09), ("laplace", (x - mean).sign() / 0.3)):
        slope = torch.autograd.grad(Likelihood(FAMILIES[name], 0.3).log_prob(x, mean).sum(), mean)[0]
        torch.testing.assert_close(slope, expected.detach(), rtol=1e-6, atol=0)


@NAMES
def test_the_divergence_is_the_mean_log_ratio_over_draws(name):
    """KL(q || p) by 100,000 draws from q for 6 pairs of densities; 4 sigma of the draws: false alarm 6e-5 a pair."""
    n, family = 100_000, FAMILIES[name]
    loc, loc_p = doubles(6, seed=0) * 2, doubles(6, seed=1)
    scale, scale_p = (0.5 * doubles(6, seed=2)).exp(), (0.5 * doubles(6, seed=3)).exp()
    x = family.rsample(make_generator(4), loc.expand(n, 6), scale)
    ratio = family.log_prob(x, loc, scale) - family.log_prob(x, loc_p, scale_p)
    assert ((ratio.mean(0) - family.kl(loc, scale, loc_p, scale_p)).abs() < 4 * ratio.std(0) / n**0.5).all()


@NAMES
def test_the_divergence_is_that_of_torch_in_float64(name):
    loc, loc_p = doubles(50, 3, seed=0) * 4, doubles(50, 3, seed=1)
    scale, scale_p = doubles(50, 3, seed=2).exp(), doubles(50, 3, seed=3).exp()
    expected = torch.distributions.kl_divergence(REFERENCE[name](loc, scale), REFERENCE[name](loc_p, scale_p))
    torch.testing.assert_close(FAMILIES[name].kl(loc, scale, loc_p, scale_p), expected, rtol=1e-12, atol=1e-12)


@NAMES
def test_the_divergence_of_a_density_from_itself_is_0_and_least(name):
    """Its logarithm, quotients and exponential are those of 1 and 0, exact to a rounding; so is the zero slope."""
    loc, scale = doubles(50, 3, seed=0).requires_grad_(), doubles(50, 3, seed=1).exp().requires_grad_()
    value = FAMILIES[name].kl(loc, scale, loc.detach(), scale.detach())
    for found in (value, *torch.autograd.grad(value.sum(), [loc, scale])):
        torch.testing.assert_close(found.detach(), torch.zeros(50, 3).double(), rtol=0, atol=1e-14)
