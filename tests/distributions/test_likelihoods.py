"""Likelihoods of numbers and pictures against SciPy; their draws; scales that are learned."""

import numpy as np
import pytest
import scipy.stats
import torch

from multiebm.core.random import item_generators, make_generator
from multiebm.distributions.likelihoods import (
    DEGREES,
    LEAST_SCALE,
    LIKELIHOODS,
    START_SCALE,
    Bernoulli,
    LearnedScale,
    Likelihood,
)

SCIPY = {"normal": scipy.stats.norm, "laplace": scipy.stats.laplace, "student_t": scipy.stats.t(DEGREES)}
NAMES = pytest.mark.parametrize("name", list(LIKELIHOODS))
KOLMOGOROV = 2.3  # sup |F_n - F| sqrt(n) exceeds this with probability 2 exp(-2 * 2.3^2) = 5e-5


def frozen(name, loc, scale):
    return scipy.stats.t(DEGREES, loc, scale) if name == "student_t" else SCIPY[name](loc, scale)


def doubles(*shape, seed):
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


@NAMES
def test_the_density_is_scipys(name):
    x, mean = doubles(5, 3, seed=0) * 4, doubles(5, 3, seed=1)
    expected = frozen(name, mean.numpy(), 0.3).logpdf(x.numpy()).sum(1)
    like = Likelihood(LIKELIHOODS[name], 0.3, 2.0)
    np.testing.assert_allclose(like.log_density(x, mean), expected, rtol=1e-12)
    np.testing.assert_allclose(like.log_prob(x, mean), 2 * expected, rtol=1e-12)


@NAMES
def test_gaps_leave_the_density_of_the_other_cells_and_no_gradient(name):
    x, mean = doubles(2, 3, seed=0), doubles(2, 3, seed=1).requires_grad_()
    gaps = x.clone()
    gaps[0, 1] = torch.nan
    density = frozen(name, mean.detach().numpy(), 0.3).logpdf(x.numpy())
    found = Likelihood(LIKELIHOODS[name], 0.3, gaps=True).log_density(gaps, mean)
    np.testing.assert_allclose(found.detach(), [density[0, 0] + density[0, 2], density[1].sum()], rtol=1e-12)
    slope = torch.autograd.grad(found.sum(), mean)[0]
    assert slope[0, 1] == 0
    assert slope.isfinite().all()


@NAMES
def test_draws_follow_the_distribution_function(name):
    n = 40_000
    mean = torch.full((n, 1), 1.5)
    drawn = Likelihood(LIKELIHOODS[name], 0.3).sample(mean, make_generator(0))
    probability = np.sort(frozen(name, 1.5, 0.3).cdf(drawn[:, 0].double().numpy()))
    steps = np.arange(n + 1) / n
    assert max((steps[1:] - probability).max(), (probability - steps[:-1]).max()) * n**0.5 < KOLMOGOROV


@NAMES
def test_draws_are_finite_and_an_item_does_not_depend_on_the_others(name):
    like = Likelihood(LIKELIHOODS[name], 1.0)
    assert like.sample(torch.zeros(400_000, 1), make_generator(0)).isfinite().all()
    together = like.sample(torch.zeros(4, 3), item_generators(0, 4))
    assert torch.equal(together[3:], like.sample(torch.zeros(1, 3), item_generators(0, 1, first=3)))


def test_an_outlier_pulls_less_on_a_students_t_than_on_a_normal():
    """Its slope is (n + 1) r / (n s^2 + r^2): largest at r = s sqrt(n), and it falls as 1 / r."""
    x, mean = torch.tensor([[0.6, 30.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(Likelihood(LIKELIHOODS["student_t"], 0.3).log_density(x, mean).sum(), mean)[0]
    torch.testing.assert_close(slope, (DEGREES + 1) * x / (DEGREES * 0.3**2 + x.square()), rtol=1e-7, atol=0)
    assert slope[0, 1] < slope[0, 0]


@NAMES
def test_the_gradient_is_that_of_finite_differences(name):
    x, mean = doubles(3, 2, seed=0), doubles(3, 2, seed=1).requires_grad_()
    like = LearnedScale(LIKELIHOODS[name], (2,), 1.0, gaps=False).double()
    assert torch.autograd.gradcheck(lambda m, _: like.log_density(x, m), (mean, like.log_scale))


@NAMES
def test_a_learned_scale_begins_where_it_says_and_finds_that_of_the_noise(name):
    """20,000 draws: the estimate of a scale has an error below 1 %, at most 3 % is allowed."""
    true = torch.tensor([0.1, 0.7])
    x = Likelihood(LIKELIHOODS[name], true).sample(torch.zeros(20_000, 2), make_generator(0))
    like = LearnedScale(LIKELIHOODS[name], (2,), 1.0, gaps=False)
    torch.testing.assert_close(like.now.scale, torch.full((2,), START_SCALE))
    optimiser = torch.optim.Adam(like.parameters(), 0.005)
    for _ in range(200):
        optimiser.zero_grad()
        (-like.log_density(x, torch.zeros_like(x)).mean()).backward()
        optimiser.step()
    torch.testing.assert_close(like.now.scale, true, rtol=0.03, atol=0)


def test_a_learned_scale_has_a_floor():
    """Of data without noise the likelihood has no largest value, and the scale goes to its floor, not to 0."""
    like = LearnedScale(LIKELIHOODS["normal"], (1,), 1.0, gaps=False)
    optimiser = torch.optim.Adam(like.parameters(), 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        (-like.log_density(torch.zeros(4, 1), torch.zeros(4, 1)).mean()).backward()
        optimiser.step()
    assert LEAST_SCALE <= like.now.scale.item() < LEAST_SCALE + 1e-4


def test_bernoulli_is_scipys_of_black_and_white_and_a_cross_entropy_of_greys():
    mean = doubles(4, 1, 2, 3, seed=0).tanh()
    p = ((mean + 1) / 2).numpy()
    white = np.random.default_rng(0).integers(0, 2, p.shape)
    like = Bernoulli(3.0)
    found = like.log_density(torch.from_numpy(2.0 * white - 1), mean)
    expected = scipy.stats.bernoulli(p).logpmf(white).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(like.log_prob(torch.from_numpy(2.0 * white - 1), mean), 3 * expected, rtol=1e-9)
    grey = torch.zeros_like(mean)  # half black, half white
    both = 0.5 * (like.log_density(grey + 1, mean) + like.log_density(grey - 1, mean))
    torch.testing.assert_close(like.log_density(grey, mean), both)
    total = sum(like.log_density(torch.tensor([[v]]), torch.tensor([[0.4]])).exp() for v in (-1.0, 1.0))
    torch.testing.assert_close(total, torch.ones(1))


def test_bernoulli_draws_black_and_white_by_the_mean_and_is_finite_at_its_ends():
    """40,000 draws of probability 0.7: four deviations of the mean are 0.0092."""
    drawn = Bernoulli().sample(torch.full((40_000, 1), 0.4), make_generator(0))
    assert set(drawn.flatten().tolist()) == {-1.0, 1.0}
    assert abs(float((drawn > 0).float().mean()) - 0.7) < 0.0092
    ends = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    worst = Bernoulli().log_density(-ends.detach(), ends)
    assert worst.isfinite().all()
