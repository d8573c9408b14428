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
