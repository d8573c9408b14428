"""Fusions of experts against quadrature, quantile functions, explicit inverses and double loops."""

import math
from functools import reduce

import pytest
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.distributions.fusion import FUSIONS, dependent, geometric, hellinger, product, wasserstein

EVERY = pytest.mark.parametrize("name", list(FUSIONS))
RHO = 0.7  # correlation wherever a test does not vary it; the other fusions ignore it
GRID = torch.linspace(-60, 60, 120_001, dtype=torch.float64)  # 13 scales beyond every expert of these tests
# sums on GRID converge faster than any power of the spacing, so only rounding is left: 1e5 terms of 1e-16
QUADRATURE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # some tens of roundings in float64


def random_experts(e: int, b: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Locations and scales [E, B, D] in float64."""
    draws = make_generator(seed)
    loc, log_scale = (torch.randn(e, b, d, generator=draws, dtype=torch.float64) for _ in range(2))
    return 1.5 * loc, (0.5 * log_scale).exp()


def random_subsets(k: int, e: int, b: int, seed: int = 1) -> Tensor:
    """Membership [K, E, B] that differs per item: the first subset has every expert, the last one has none."""
    inside = torch.rand(k, e, b, generator=make_generator(seed)) < 0.6
    inside[0], inside[-1] = True, False
    return inside


def each_subset(inside: Tensor, *values: Tensor):
    """Yield (k, b, values [n, D] of the members of subset k of item b) wherever it has any."""
    for k, b in inside.any(1).nonzero().tolist():
        yield k, b, [value[inside[k, :, b], b] for value in values]


def moments(log_density: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of an unnormalised log density [G, D] on GRID, in every dimension."""
    weight, at = log_density.softmax(0), GRID[:, None]
    mean = (weight * at).sum(0)
    return mean, (weight * (at - mean).square()).sum(0).sqrt()


def log_densities(loc: Tensor, scale: Tensor) -> Tensor:
    """Log densities of n Gaussians [n, D] on GRID: [n, G, D]."""
    return torch.distributions.Normal(loc[:, None], scale[:, None]).log_prob(GRID[:, None])


@pytest.mark.parametrize(
    ("rule", "pooled"),
    [
        (product, lambda log_q: log_q.sum(0)),
        (geometric, lambda log_q: log_q.mean(0)),
        (hellinger, lambda log_q: 2 * (0.5 * log_q).logsumexp(0)),
    ],
    ids=["product", "geometric", "hellinger"],
)
def test_in_one_dimension_the_moments_are_those_of_the_pooled_density_by_quadrature(rule, pooled):
    (loc, scale), inside = random_experts(3, 4, 1), random_subsets(5, 3, 4)
    found = rule(loc, scale, inside)
    for k, b, (at, width) in each_subset(inside, loc, scale):
        for value, expected in zip(found, moments(pooled(log_densities(at, width))), strict=True):
            torch.testing.assert_close(value[k, b], expected, **QUADRATURE)


def test_a_product_is_that_of_two_gaussians_taken_again_and_again():
    """N(a, u) N(b, v) is proportional to N((a v + b u) / (u + v), u v / (u + v))."""
    (loc, scale), inside = random_experts(4, 5, 3), random_subsets(6, 4, 5)
    found = product(loc, scale, inside)

    def two(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (a, u), (b, v) = one, other
        return (a * v + b * u) / (u + v), u * v / (u + v)

    for k, b, (at, width) in each_subset(inside, loc, scale):
        mean, variance = reduce(two, zip(at, width.square(), strict=True))
        torch.testing.assert_close(found[0][k, b], mean, **EXACT)
        torch.testing.assert_close(found[1][k, b], variance.sqrt(), **EXACT)


def test_a_prior_expert_multiplies_the_product_by_the_standard_normal():
    (loc, scale), inside = random_experts(3, 4, 2), random_subsets(5, 3, 4)[:-1]
    with_prior = torch.cat([inside, torch.ones_like(inside[:, :1])], 1)
    found = product(torch.cat([loc, torch.zeros(1, 4, 2)]), torch.cat([scale, torch.ones(1, 4, 2)]), with_prior)
    for k, b, (at, width) in each_subset(inside, loc, scale):
        log_density = log_densities(at, width).sum(0) - 0.5 * GRID[:, None].square()
        for value, expected in zip(found, moments(log_density), strict=True):
            torch.testing.assert_close(value[k, b], expected, **QUADRATURE)


@pytest.mark.parametrize("family", [torch.distributions.Normal, torch.distributions.Laplace])
def test_the_quantile_function_of_a_barycentre_is_the_mean_of_the_quantile_functions(family):
    (loc, scale), inside = random_experts(4, 5, 3), random_subsets(6, 4, 5)
    found, p = wasserstein(loc, scale, inside), torch.linspace(0.01, 0.99, 99, dtype=torch.float64)[:, None, None]
    for k, b, (at, width) in each_subset(inside, loc, scale):
        quantiles = family(found[0][k, b], found[1][k, b]).icdf(p[:, 0])
        torch.testing.assert_close(quantiles, family(at, width).icdf(p).mean(1), **EXACT)


def pooled_in_a_double_loop(loc: list[list[float]], scale: list[list[float]]) -> tuple[list[float], list[float]]:
    """Mean and deviation of (sum_i sqrt q_i)^2 in every dimension, of n experts [n][D], without tensors."""
    n, dim = len(loc), len(loc[0])
    total, first, second = 0.0, [0.0] * dim, [0.0] * dim
    for i in range(n):
        for j in range(n):
            mass, at, variance = 1.0, [], []
            for d in range(dim):
                u, v, gap = scale[i][d] ** 2, scale[j][d] ** 2, loc[i][d] - loc[j][d]
                mass *= math.sqrt(2 * scale[i][d] * scale[j][d] / (u + v)) * math.exp(-(gap**2) / (4 * (u + v)))
                at.append((loc[i][d] * v + loc[j][d] * u) / (u + v))
                variance.append(2 * u * v / (u + v))
            total += mass
            for d in range(dim):
                first[d] += mass * at[d]
                second[d] += mass * (variance[d] + at[d] ** 2)
    mean = [value / total for value in first]
    return mean, [math.sqrt(b / total - a**2) for a, b in zip(mean, second, strict=True)]


def test_hellinger_pooling_weighs_a_pair_by_its_overlap_over_all_dimensions():
    (loc, scale), inside = random_experts(4, 5, 3), random_subsets(6, 4, 5)
    found = hellinger(loc, scale, inside)
    for k, b, (at, width) in each_subset(inside, loc, scale):
        for value, expected in zip(found, pooled_in_a_double_loop(at.tolist(), width.tolist()), strict=True):
            assert value[k, b].tolist() == pytest.approx(expected, rel=1e-11, abs=1e-12)
    alone = hellinger(loc[..., :1], scale[..., :1], inside)
    assert (found[0][0, :, :1] - alone[0][0]).abs().min() > 1e-3  # the other dimensions matter


def test_in_two_dimensions_hellinger_moments_are_those_of_a_quadrature_over_the_plane():
    """Locations within 3, scales 0.5 to 1: the square reaches 9 scales out, where 1e-17 of the mass is left."""
    draws = make_generator(3)
    loc, scale = (torch.rand(3, 1, 2, generator=draws, dtype=torch.float64) for _ in range(2))
    loc, scale = 6 * loc - 3, 0.5 + 0.5 * scale
    found = hellinger(loc, scale, torch.ones(1, 3, 1, dtype=torch.bool))
    line = torch.linspace(-12, 12, 401, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line)
    log_q = torch.distributions.Normal(loc, scale).log_prob(plane).sum(-1)
    weight = (2 * (0.5 * log_q).logsumexp(0)).softmax(0)[:, None]
    mean = (weight * plane).sum(0)
    torch.testing.assert_close(found[0][0, 0], mean, **QUADRATURE)
    torch.testing.assert_close(found[1][0, 0].square(), (weight * (plane - mean).square()).sum(0), **QUADRATURE)


def test_hellinger_pooling_of_experts_far_apart_has_the_moments_of_their_mixture():
    """60 apart in one of two dimensions, scales of at most 2: the overlap is below exp(-60^2 / 32) = 1e-49."""
    _, scale = random_experts(3, 1, 2)
    scale = scale.clamp_max(2)
    loc = torch.tensor([[[-60.0, 1.0]], [[0.0, 0.5]], [[60.0, -2.0]]], dtype=torch.float64)
    found = hellinger(loc, scale, torch.ones(1, 3, 1, dtype=torch.bool))
    mean = loc.mean(0)
    torch.testing.assert_close(found[0][0], mean, **EXACT)
    torch.testing.assert_close(found[1][0].square(), (scale.square() + (loc - mean).square()).mean(0), **EXACT)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.99])
def test_the_consensus_of_dependent_experts_is_that_of_the_inverted_covariance(rho):
    """The inverse loses a factor of the condition number, below 1e5 here: 1e-16 * 1e5 and room for sums."""
    (loc, scale), inside = random_experts(4, 5, 3), random_subsets(6, 4, 5)
    found = dependent(loc, scale, inside, rho)
    for k, b, (at, width) in each_subset(inside, loc, scale):
        n = len(at)
        common = torch.full((n, n), rho, dtype=torch.float64).fill_diagonal_(1.0)
        for d in range(3):
            solved = torch.linalg.inv(common * torch.outer(width[:, d], width[:, d])).sum(1)
            torch.testing.assert_close(found[0][k, b, d], solved @ at[:, d] / solved.sum(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found[1][k, b, d], solved.sum().rsqrt(), rtol=1e-9, atol=0)


def test_an_expert_that_only_repeats_a_sharper_one_gets_a_negative_weight():
    """Scales 0.5, 1.2, 0.8 and rho 0.4: the solution of Sigma w = 1, scaled to sum 1, rounds to 0.86, -0.02, 0.17."""
    loc, scale = torch.eye(3).double()[:, None], torch.tensor([0.5, 1.2, 0.8]).double()[:, None, None].expand(3, 1, 3)
    weight = dependent(loc, scale, torch.ones(1, 3, 1, dtype=torch.bool), 0.4)[0][0, 0]
    assert weight.tolist() == pytest.approx([0.86, -0.02, 0.17], abs=0.005)
    assert weight.sum().item() == pytest.approx(1, abs=1e-12)


def test_without_correlation_the_consensus_is_the_product():
    (loc, scale), inside = random_experts(4, 5, 3), random_subsets(6, 4, 5)
    for value, expected in zip(dependent(loc, scale, inside, 0.0), product(loc, scale, inside), strict=True):
        torch.testing.assert_close(value, expected, **EXACT)


@EVERY
def test_one_expert_alone_is_returned(name):
    loc, scale = random_experts(4, 5, 3)
    inside = torch.eye(4, dtype=torch.bool)[:, :, None].expand(4, 4, 5)
    for value, expected in zip(FUSIONS[name].rule(loc, scale, inside, RHO), (loc, scale), strict=True):
        torch.testing.assert_close(value, expected, **EXACT)


@EVERY
def test_a_sharp_expert_far_from_0_is_returned_in_float32(name):
    """About 10 roundings of 6e-8, at most 1 / (1 - rho) = 3.3 times as large after a difference: 2e-6 relative."""
    loc, scale = torch.tensor([[[30.0, -100.0]]]), torch.tensor([[[0.02, 0.01]]])
    found = FUSIONS[name].rule(loc, scale, torch.ones(1, 1, 1, dtype=torch.bool), RHO)
    for value, expected in zip(found, (loc, scale), strict=True):
        torch.testing.assert_close(value, expected, rtol=2e-6, atol=0)


@EVERY
def test_a_subset_without_experts_is_the_standard_density_and_sends_no_gradient(name):
    loc, scale = (value.requires_grad_() for value in random_experts(3, 2, 2))
    at, width = FUSIONS[name].rule(loc, scale, torch.zeros(1, 3, 2, dtype=torch.bool), RHO)
    assert torch.equal(at, torch.zeros_like(at))
    assert torch.equal(width, torch.ones_like(width))
    for slope in torch.autograd.grad(at.sum() + width.sum(), [loc, scale]):
        assert torch.equal(slope, torch.zeros_like(slope))


@pytest.mark.parametrize(
    ("name", "rho", "variance"),
    [
        ("product", 0.0, 1 / 3),
        ("geometric", 0.0, 1.0),
        ("wasserstein", 0.0, 1.0),
        ("hellinger", 0.0, 1.0),
        ("dependent", 0.0, 1 / 3),
        ("dependent", 0.5, 2 / 3),
        ("dependent", 1 - 1e-7, 1.0),
    ],
)
def test_identical_experts_keep_their_place_and_variance_unless_they_are_independent(name, rho, variance):
    """Consensus: (1 + (n - 1) rho) / n of it, within 1e-7 of 1 at the last rho, where 1 - rho loses 1e-9 to rounding.

    A product counts the experts as independent evidence, so it divides the variance by their number.
    """
    loc, scale = (value.expand(3, 4, 2) for value in random_experts(1, 4, 2))
    at, width = FUSIONS[name].rule(loc, scale, torch.ones(1, 3, 4, dtype=torch.bool), rho)
    torch.testing.assert_close(at[0], loc[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(width[0].square(), variance * scale[0].square(), rtol=1e-7, atol=0)


@EVERY
def test_the_order_of_the_experts_does_not_matter(name):
    (loc, scale), inside, order = random_experts(4, 5, 3), random_subsets(6, 4, 5), [2, 0, 3, 1]
    found = FUSIONS[name].rule(loc, scale, inside, RHO)
    again = FUSIONS[name].rule(loc[order], scale[order], inside[:, order], RHO)
    for value, expected in zip(again, found, strict=True):
        torch.testing.assert_close(value, expected, **EXACT)


@EVERY
def test_gradients_are_those_of_finite_differences_with_a_subset_without_experts_among_the_others(name):
    """Central differences of step 1e-6: 1e-12 of curvature and 1e-16 / 1e-6 of rounding, well below the 1e-5 asked."""
    loc, scale = (value.requires_grad_() for value in random_experts(3, 2, 2))
    inside, rule = random_subsets(4, 3, 2), FUSIONS[name].rule
    assert torch.autograd.gradcheck(lambda at, width: rule(at, width, inside, RHO), (loc, scale))


@EVERY
def test_values_and_gradients_are_finite_for_the_sharpest_and_widest_experts_an_encoder_gives(name):
    """Every pair out of scales 1e-6 to exp(5) at locations -30, 0 and 30, and the same expert twice."""
    cases = torch.cartesian_prod(torch.tensor([-30.0, 0.0, 30.0]), torch.tensor([1e-6, 1e-3, 1.0, 148.0]))
    first, second = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
    both = torch.stack([cases[first], cases[second]])  # [2, B, (loc, scale)]
    loc, scale = both[..., :1].clone().requires_grad_(), both[..., 1:].clone().requires_grad_()
    found = FUSIONS[name].rule(loc, scale, torch.ones(1, 2, 144, dtype=torch.bool), RHO)
    slopes = torch.autograd.grad(found[0].sum() + found[1].sum(), [loc, scale])
    assert all(value.isfinite().all() for value in (*found, *slopes))
    assert found[1].min() > 0


def test_an_unknown_fusion_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="got 'prodct'; known: product, .*dependent.*Did you mean 'product'"):
        FUSIONS["prodct"]
