"""The unadjusted chain has a known bias; the sampler must have exactly that one, and no other."""

import math

import pytest
import torch

from multiebm.core.random import make_generator
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import run_chain

SIGMAS = 4.0  # of a two-sided test on a Gaussian statistic: false alarm 6e-5


def stationary(v: float, s: float, n: float | None, chains: int = 20_000, dim: int = 1) -> torch.Tensor:
    """Ends of chains on N(0, v), long enough that the start has been forgotten to 1e-9."""
    contraction = abs(1 - s**2 / (2 * v))
    steps = math.ceil(math.log(1e-9) / math.log(contraction)) if contraction else 2
    kernel = langevin(lambda x: -x.square().sum(1) / (2 * v), s, n)
    return run_chain(kernel, torch.zeros(chains, dim), steps, make_generator(0))[0]


def assert_variance(draws: torch.Tensor, expected: float):
    """Relative sd of a variance from N Gaussian draws is sqrt(2 / N)."""
    tolerance = SIGMAS * (2 / draws.numel()) ** 0.5
    assert draws.var(unbiased=False).item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("v", "s"), [(2.0, 1.0), (0.5, 0.9), (1.0, 1.9), (3.0, 0.8)])
def test_ula_with_step_s_on_a_gaussian_of_variance_v_has_variance_v_over_1_minus_s2_over_4v(v, s):
    assert_variance(stationary(v, s, None), v / (1 - s**2 / (4 * v)))


def test_the_bias_is_seen_where_it_is_large():
    """v = 2, s = 1: 2.286, which a sampler without the bias (2.0) or with another step (s/2: 2.065) would miss."""
    variance = stationary(2.0, 1.0, None).var().item()
    assert 2.19 < variance < 2.38


@pytest.mark.parametrize(("s", "n"), [(1.0, 0.3), (0.8, 0.8), (0.6, 1.2), (1.5, 0.1)])
def test_ula_with_noise_n_on_half_x_squared_has_variance_t_over_1_minus_s2_over_4(s, n):
    """Eq. (3'): T = (n / s)^2."""
    assert_variance(stationary(1.0, s, n), (n / s) ** 2 / (1 - s**2 / 4))


def test_before_stationarity_mean_and_variance_follow_the_recursion():
    """m' = c m, v' = c^2 v + s^2, c = 1 - s^2 / 2v; three steps from a Gaussian start at mean 3."""
    v, s, n_chains = 1.0, 0.8, 50_000
    u = 3 + 0.5 * torch.randn(n_chains, 1, generator=make_generator(1))
    end, _ = run_chain(langevin(lambda x: -x.square().sum(1) / (2 * v), s), u, 3, make_generator(2))
    c, mean, variance = 1 - s**2 / (2 * v), 3.0, 0.25
    for _ in range(3):
        mean, variance = c * mean, c**2 * variance + s**2
    assert end.mean().item() == pytest.approx(mean, abs=SIGMAS * (variance / n_chains) ** 0.5)
    assert_variance(end, variance)


def test_with_correlated_coordinates_each_eigen_direction_has_its_own_bias():
    precision = torch.tensor([[2.0, 1.2], [1.2, 1.5]])
    s, chains = 0.9, 20_000
    kernel = langevin(lambda x: -0.5 * (x @ precision * x).sum(1), s)
    end, _ = run_chain(kernel, torch.zeros(chains, 2), 200, make_generator(0))
    values, directions = torch.linalg.eigh(precision)
    for value, direction in zip(values.tolist(), directions.T, strict=True):
        assert_variance(end @ direction, 1 / (value * (1 - s**2 * value / 4)))
    # the two projections are independent: the sd of their correlation is 1 / sqrt(N)
    assert abs(torch.corrcoef((end @ directions).T)[0, 1]) < SIGMAS / chains**0.5


def law_after(steps: int, s: float, n: float, start: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid and density of the ULA chain on log p = 3 u - exp(u), from a point, by quadrature of its own kernel."""
    grid = torch.linspace(-9, 5, 1601, dtype=torch.float64)
    width = grid[1] - grid[0]
    drift = grid + 0.5 * s**2 * (3 - grid.exp())
    kernel = torch.exp(-(grid[:, None] - drift[None]).square() / (2 * n**2)) / (n * (2 * math.pi) ** 0.5)
    first = start + 0.5 * s**2 * (3 - math.exp(start))
    density = torch.exp(-(grid - first).square() / (2 * n**2)) / (n * (2 * math.pi) ** 0.5)
    for _ in range(steps - 1):
        density = kernel @ density * width
    return grid, density * width


@pytest.mark.parametrize(("s", "n", "steps"), [(0.5, 0.5, 2), (0.5, 0.5, 25), (0.6, 0.4, 25)])
def test_on_an_asymmetric_target_the_law_of_the_chain_is_that_of_its_transition_density(s, n, steps):
    """Mean, variance and third moment against quadrature: a wrong sign or factor of the drift is far outside."""
    chains = 40_000
    kernel = langevin(lambda u: (3 * u - u.exp()).sum(1), s, n)
    end = run_chain(kernel, torch.full((chains, 1), 0.2), steps, make_generator(0))[0][:, 0].double()
    grid, weight = law_after(steps, s, n, 0.2)
    assert weight.sum().item() == pytest.approx(1, abs=1e-6)
    mean = (weight * grid).sum()
    moment = {k: (weight * (grid - mean) ** k).sum().item() for k in range(2, 7)}
    got = end - mean
    assert got.mean().abs().item() < SIGMAS * (moment[2] / chains) ** 0.5
    for k in (2, 3):
        sd = ((moment[2 * k] - moment[k] ** 2) / chains) ** 0.5
        assert got.pow(k).mean().item() == pytest.approx(moment[k], abs=SIGMAS * sd)
    if steps == 25:
        assert moment[3] / moment[2] ** 1.5 < -0.1  # the target leans to the left
