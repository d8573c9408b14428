"""Priors: values, moments, normalisation, what their parameters learn."""

import math

import pytest
import torch

from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.random import item_generators, make_generator
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import run_chain
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import RIDGE, ridge_for
from multiebm.priors.standard import StandardPrior

REFERENCE = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
FAMILY = pytest.mark.parametrize("family", ["normal", "laplace"])


@FAMILY
def test_the_log_density_is_the_sum_over_coordinates_and_broadcasts_over_leading_dimensions(family):
    z = torch.randn(2, 5, 3, generator=make_generator(0), dtype=torch.float64)
    expected = REFERENCE[family](torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(-1)
    torch.testing.assert_close(StandardPrior(family, 3).log_prob(z), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("family", "variance", "kurtosis"), [("normal", 1.0, 3.0), ("laplace", 2.0, 6.0)])
def test_samples_have_mean_0_and_the_variance_of_the_family(family, variance, kurtosis):
    """sd of the mean sqrt(v / N), of the variance v sqrt((kurtosis - 1) / N); 4 sigma: false alarm < 1e-4 each."""
    z = StandardPrior(family, 5).sample(40_000, make_generator(0))
    assert z.shape == (40_000, 5)
    n = z.numel()
    assert abs(z.mean()) < 4 * (variance / n) ** 0.5
    assert abs(z.var() - variance) < 4 * variance * ((kurtosis - 1) / n) ** 0.5


def test_a_standard_prior_is_normalised_and_its_samples_do_not_depend_on_the_batch():
    prior = StandardPrior("laplace", 3)
    assert prior.normalised
    assert prior.log_normalizer(10, make_generator(0)) == 0
    assert torch.equal(prior.sample(4, item_generators(0, 4))[2:3], prior.sample(1, item_generators(0, 1, first=2)))


def test_the_gradient_of_a_standard_prior_is_minus_z_or_minus_its_sign():
    z = torch.tensor([[0.5, -2.0]], dtype=torch.float64, requires_grad=True)
    for family, expected in (("normal", [-0.5, 2.0]), ("laplace", [-1.0, 1.0])):
        assert torch.autograd.grad(StandardPrior(family, 2).log_prob(z).sum(), z)[0][0].tolist() == expected


def test_one_component_starts_standard_and_becomes_the_maximum_likelihood_gaussian_of_its_codes():
    prior, z = MixturePrior(3, 1), torch.randn(7, 3, generator=make_generator(1))
    torch.testing.assert_close(prior.log_prob(z), StandardPrior("normal", 3).log_prob(z), rtol=0, atol=2e-3)
    mix = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, -1.0, 1.0]])
    codes = torch.randn(50, 3, generator=make_generator(2)) @ mix.T + torch.tensor([4.0, 0.0, -1.0])
    prior.fit(codes, decay=0.0)
    exact = torch.distributions.MultivariateNormal(codes.mean(0), torch.cov(codes.T, correction=0))
    torch.testing.assert_close(prior.log_prob(z), exact.log_prob(z), rtol=5e-3, atol=1e-3)
    draws = prior.sample(40_000, make_generator(3))
    torch.testing.assert_close(draws.mean(0), exact.mean, rtol=0, atol=0.08)
    torch.testing.assert_close(torch.cov(draws.T), exact.covariance_matrix, rtol=0.05, atol=0.08)
    assert torch.equal(prior.sample(4, item_generators(0, 4))[2:3], prior.sample(1, item_generators(0, 1, first=2)))


def test_sums_forget_at_their_decay():
    """Moments from (0, I) towards codes all at 1: after t steps the mean is 1 - decay^t."""
    prior = MixturePrior(2, 1)
    for _ in range(3):
        prior.fit(torch.ones(5, 2), decay=0.5)
    mean = 1 - 0.5**3
    torch.testing.assert_close(prior.mean[0], torch.full((2,), mean))
    second = 0.5**3 * torch.eye(2) + (1 - 0.5**3) * torch.ones(2, 2)
    found = prior.scale_tril[0] @ prior.scale_tril[0].T
    torch.testing.assert_close(found, second - mean**2 + RIDGE * torch.eye(2))


def two_clusters(n: int, seed: int) -> torch.Tensor:
    """A quarter of the codes at (-2, 0) with deviation 0.1, the rest at (2, 1) with deviation 0.3."""
    draws = make_generator(seed)
    noise, first = torch.randn(n, 2, generator=draws), torch.rand(n, 1, generator=draws) < 0.25
    return torch.where(first, torch.tensor([-2.0, 0.0]) + 0.1 * noise, torch.tensor([2.0, 1.0]) + 0.3 * noise)


@pytest.mark.parametrize("way", ["refit", "online"])
def test_two_clusters_are_found_with_their_shares_places_and_spreads(way):
    prior = MixturePrior(2, 2)
    if way == "refit":
        prior.refit(two_clusters(4000, 0))
    else:
        for step in range(500):
            prior.fit(two_clusters(64, step), decay=0.98)
    left, right = prior.mean[:, 0].argsort().tolist()
    assert prior.log_weight[left].exp().item() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(prior.mean[left], torch.tensor([-2.0, 0.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(prior.mean[right], torch.tensor([2.0, 1.0]), rtol=0, atol=0.06)
    deviation = prior.scale_tril.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(deviation[left], torch.full((2,), 0.1), rtol=0.15, atol=0)
    torch.testing.assert_close(deviation[right], torch.full((2,), 0.3), rtol=0.15, atol=0)
    draws = prior.sample(4000, make_generator(5))
    assert (draws[:, 0] < 0).float().mean().item() == pytest.approx(0.25, abs=0.06)


def test_the_density_of_a_mixture_is_that_of_torch_and_each_step_raises_the_likelihood():
    """Expectation maximisation never lowers the likelihood of its codes (the ridge may cost a hair)."""
    prior, codes = MixturePrior(2, 3), two_clusters(500, 1)
    values = []
    for _ in range(6):
        weights = torch.distributions.Categorical(logits=prior.log_weight)
        parts = torch.distributions.MultivariateNormal(prior.mean, scale_tril=prior.scale_tril)
        reference = torch.distributions.MixtureSameFamily(weights, parts)
        torch.testing.assert_close(prior.log_prob(codes), reference.log_prob(codes), rtol=1e-4, atol=1e-3)
        values.append(prior.log_prob(codes).mean().item())
        prior.fit(codes, decay=0.0)
    assert all(b > a - 0.01 for a, b in zip(values[1:], values[2:], strict=False))
    assert values[-1] > values[0] + 1


def test_a_component_without_weight_takes_half_of_the_heaviest_and_nothing_else_moves():
    """Mass, mean and covariance of the whole mixture are those of the codes: the split keeps all three."""
    prior = MixturePrior(2, 3)
    prior.mean.copy_(torch.tensor([[4.0, 1.0], [-3.0, 0.0], [50.0, 50.0]]))
    codes = torch.cat([two_clusters(900, 0), 2.0 + torch.randn(100, 2, generator=make_generator(1))])
    assert prior.component_log_prob(codes).softmax(-1)[:, 2].sum() < 1e-6  # nothing belongs to the third
    prior.fit(codes, decay=0.0)
    torch.testing.assert_close(prior.count[2], prior.count[:2].max())  # halves of the heaviest
    assert prior.count.sum().item() == pytest.approx(1, abs=1e-6)
    assert prior.count.min() > 0.1
    mean = (prior.count[:, None] * prior.mean).sum(0)
    torch.testing.assert_close(mean, codes.mean(0), rtol=0, atol=1e-4)
    off = prior.mean - mean
    total = prior.scatter.sum(0) + torch.einsum("k,ki,kj->ij", prior.count, off, off)
    torch.testing.assert_close(total, torch.cov(codes.T, correction=0), rtol=1e-4, atol=1e-4)


def test_the_split_is_along_the_longest_axis():
    prior = MixturePrior(2, 2)
    codes = torch.randn(4000, 2, generator=make_generator(0)) * torch.tensor([3.0, 0.2])
    prior.mean.copy_(torch.tensor([[0.0, 0.0], [0.0, 500.0]]))
    prior.fit(codes, decay=0.0)
    apart = (prior.mean[0] - prior.mean[1]).abs()
    torch.testing.assert_close(apart, torch.tensor([3.0, 0.0]), rtol=0.05, atol=0.05)
    deviation = prior.scale_tril.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(deviation[:, 0], torch.full((2,), 3 * 0.75**0.5), rtol=0.05, atol=0)


def test_on_a_variance_of_the_ridge_the_chain_does_not_oscillate_and_at_most_doubles_the_variance():
    """v = s^2 / 2: the factor 1 - s^2 / 2v is 0, so every step draws anew, N(mean, s^2) = N(mean, 2v); 4 sigma."""
    prior = MixturePrior(1, 1, ridge=ridge_for(0.2))
    prior.fit(torch.full((5, 1), 3.0), decay=0.0)
    start = torch.full((20_000, 1), 4.0)
    z, _ = run_chain(langevin(prior.log_prob, 0.2), start, 3, make_generator(0))
    assert z.mean().item() == pytest.approx(3, abs=4 * 0.2 / 20_000**0.5)
    assert z.var().item() == pytest.approx(0.04, rel=4 * (2 / 20_000) ** 0.5)


def test_the_ridge_bounds_every_variance_from_below():
    prior = MixturePrior(2, 1, ridge=0.04)
    prior.fit(torch.ones(5, 2), decay=0.0)
    torch.testing.assert_close(prior.scale_tril[0], 0.2 * torch.eye(2))


def test_small_variances_far_from_the_origin_survive():
    """Codes of deviation 0.1 at distance 300: the difference of their squares would be lost in float32."""
    codes = 0.1 * torch.randn(500, 4, generator=make_generator(0)) + 150.0
    prior = MixturePrior(4, 1)
    for step in range(60):
        prior.fit(codes[step * 8 : step * 8 + 8], decay=0.9)
    prior.fit(codes, decay=0.0)
    torch.testing.assert_close(prior.mean[0], codes.mean(0))
    found = prior.scale_tril[0] @ prior.scale_tril[0].T
    torch.testing.assert_close(found, torch.cov(codes.T, correction=0) + RIDGE * torch.eye(4), rtol=1e-3, atol=1e-5)


def test_too_few_codes_leave_a_mixture_as_it_is():
    prior, z = MixturePrior(3, 2), torch.randn(4, 3, generator=make_generator(0))
    before = prior.log_prob(z)
    prior.refit(z)
    assert torch.equal(prior.log_prob(z), before)


@pytest.mark.parametrize(("family", "variance"), [("normal", 0.25), ("laplace", 2 * 0.25**2)])
def test_at_a_temperature_a_standard_prior_is_its_density_to_the_inverse_power(family, variance):
    """N(0, 1)^(1/T) has variance T; exp(-|z|)^(1/T) has scale T, so variance 2 T^2. 4 sigma of 5 % relative."""
    z = StandardPrior(family, 5).sample(40_000, make_generator(0), temperature=0.25)
    assert z.var().item() == pytest.approx(variance, rel=4 * (5 / z.numel()) ** 0.5)


def test_at_a_temperature_components_shrink_and_keep_their_shares():
    prior = MixturePrior(2, 2)
    prior.refit(two_clusters(4000, 0))
    draws = prior.sample(20_000, make_generator(0), temperature=0.25)
    left = draws[:, 0] < 0
    assert left.float().mean().item() == pytest.approx(0.25, abs=0.04)
    torch.testing.assert_close(draws[left].std(0), torch.full((2,), 0.05), rtol=0.15, atol=0)
    torch.testing.assert_close(draws[~left].std(0), torch.full((2,), 0.15), rtol=0.15, atol=0)


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="got 'gauss'; known: normal, laplace"):
        StandardPrior("gauss", 2)


LEARNED_SCALE = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def prior_of_learned_scale(family: str) -> StandardPrior:
    prior = StandardPrior(family, 3, learned=True).double()
    assert prior.log_scale is not None
    prior.log_scale.data = LEARNED_SCALE.log()
    return prior


@FAMILY
def test_a_learned_scale_starts_at_1_and_the_density_follows_it(family):
    z = torch.randn(2, 5, 3, generator=make_generator(0), dtype=torch.float64)
    torch.testing.assert_close(StandardPrior(family, 3, learned=True).log_prob(z), StandardPrior(family, 3).log_prob(z))
    expected = REFERENCE[family](0.0, LEARNED_SCALE).log_prob(z).sum(-1)
    torch.testing.assert_close(prior_of_learned_scale(family).log_prob(z), expected, rtol=1e-12, atol=1e-12)
    assert list(StandardPrior(family, 3).parameters()) == []


def test_a_learned_scale_moves_towards_the_spread_of_its_codes():
    """d log p / d log s = z^2 / s^2 - 1 for the normal, |z| / s - 1 for the Laplace."""
    z = torch.randn(7, 3, generator=make_generator(0), dtype=torch.float64)
    for family, expected in (("normal", (z / LEARNED_SCALE).square() - 1), ("laplace", z.abs() / LEARNED_SCALE - 1)):
        prior = prior_of_learned_scale(family)
        slope = torch.autograd.grad(prior.log_prob(z).sum(), prior.log_scale)[0]
        torch.testing.assert_close(slope, expected.sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "variance", "kurtosis", "exponent"), [("normal", 1.0, 3.0, 1), ("laplace", 2.0, 6.0, 2)]
)
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_samples_of_a_learned_scale_have_its_variances(family, variance, kurtosis, exponent, temperature):
    """Variance v s^2 T for the normal, v s^2 T^2 for the Laplace; 4 sigma for means and variances of 3 dimensions."""
    n = 40_000
    z = prior_of_learned_scale(family).sample(n, make_generator(0), temperature).detach()
    expected = variance * LEARNED_SCALE.square() * temperature**exponent
    assert (z.mean(0).abs() < 4 * (expected / n).sqrt()).all()
    assert ((z.var(0) / expected - 1).abs() < 4 * ((kurtosis - 1) / n) ** 0.5).all()


@FAMILY
@pytest.mark.parametrize("learned", [False, True])
def test_the_divergence_from_a_prior_is_the_mean_log_ratio_over_draws_summed_over_dimensions(family, learned):
    """100,000 draws for each of 4 densities; 4 sigma of the draws: false alarm 6e-5 each."""
    n, draws = 100_000, make_generator(0)
    prior = prior_of_learned_scale(family) if learned else StandardPrior(family, 3)
    loc, log_scale = (torch.randn(4, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    q = REFERENCE[family](loc, (0.5 * log_scale).exp())
    z = prior.family.rsample(draws, q.loc.expand(n, 4, 3), q.scale)
    ratio = (q.log_prob(z).sum(-1) - prior.log_prob(z)).detach()
    found = prior.kl(q.loc, q.scale).detach()
    assert ((ratio.mean(0) - found).abs() < 4 * ratio.std(0) / n**0.5).all()
    reference = REFERENCE[family](torch.zeros(3), LEARNED_SCALE if learned else torch.ones(3))
    torch.testing.assert_close(found, torch.distributions.kl_divergence(q, reference).sum(-1), rtol=1e-12, atol=1e-12)


def test_the_divergence_pulls_a_learned_scale_towards_the_second_moment_of_the_posterior():
    """d KL / d log s = 1 - E[z^2] / s^2 for the normal and 1 - E|z| / s for the Laplace, E|z| = d + b exp(-d / b)."""
    loc, scale = torch.tensor([[0.5, -2.0, 0.0]]).double(), torch.tensor([[0.2, 1.5, 3.0]]).double()
    away = loc.abs() + scale * (-loc.abs() / scale).exp()
    for family, expected in (
        ("normal", 1 - (loc.square() + scale.square()) / LEARNED_SCALE.square()),
        ("laplace", 1 - away / LEARNED_SCALE),
    ):
        prior = prior_of_learned_scale(family)
        slope = torch.autograd.grad(prior.kl(loc, scale).sum(), prior.log_scale)[0]
        torch.testing.assert_close(slope, expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e6, 1e25, math.nan, math.inf])
@pytest.mark.parametrize("components", [1, 5])
def test_codes_without_a_covariance_are_a_divergence_and_no_other_error(scale, components):
    """Codes on a line: squares beside which the ridge is lost, squares that overflow, and no numbers at all."""
    draws = make_generator(0)
    codes = torch.randn(64, 1, generator=draws) * torch.randn(1, 8, generator=draws) * scale
    for learn in (MixturePrior(8, components).refit, lambda seen: MixturePrior(8, components).fit(seen, 0.0)):
        with pytest.raises(DivergenceError, match="cannot be fitted to codes"):
            learn(codes)
