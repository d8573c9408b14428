"""Annealed importance sampling where Z is known: Gaussian and Laplace bases with quadratic tilts in one dimension."""

import math

import pytest
import torch

from multiebm.core.random import make_generator
from multiebm.mcmc.annealing import annealed_log_weights, log_normalizer_of
from multiebm.priors.standard import StandardPrior

SIGMAS = 4.0


def weights(family: str, a: float, b: float, n: int, stages: int, seed: int = 0) -> torch.Tensor:
    base, generator = StandardPrior(family, 1), make_generator(seed)
    tilt = lambda z: a * z[:, 0] + b * z[:, 0] ** 2  # noqa: E731
    return annealed_log_weights(base.log_prob, tilt, base.sample(n, generator), stages, 0.5, generator)


def log_z(family: str, a: float, b: float) -> float:
    z = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    base = {"laplace": -z.abs() - math.log(2), "normal": -0.5 * z**2 - 0.5 * math.log(2 * math.pi)}[family]
    return torch.trapezoid((a * z + b * z**2 + base).exp(), z).log().item()


@pytest.mark.parametrize(("family", "a", "b"), [("normal", 1.0, -0.5), ("laplace", 2.0, -0.5), ("normal", 3.0, -2.0)])
@pytest.mark.parametrize("stages", [1, 4, 100])
def test_the_mean_weight_is_z_for_any_number_of_stages(family, a, b, stages):
    """An identity of the method, not a limit: one stage is plain importance sampling from the base."""
    found = weights(family, a, b, 20_000, stages).double().exp()
    error = SIGMAS * found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(math.exp(log_z(family, a, b)), abs=error)


def test_more_stages_make_the_weights_more_even_and_the_error_smaller():
    few, many = (log_normalizer_of(weights("normal", 3.0, -2.0, 4000, stages)) for stages in (1, 200))
    assert many.error < 0.5 * few.error
    assert many.value == pytest.approx(log_z("normal", 3.0, -2.0), abs=SIGMAS * many.error)


def test_the_error_is_the_spread_over_repetitions():
    """50 repetitions: their standard deviation is known to 10 %, so within 4 sigma of 40 % of the mean error."""
    found = [log_normalizer_of(weights("laplace", 1.0, -0.5, 500, 10, seed)) for seed in range(50)]
    spread = torch.tensor([f.value for f in found]).std().item()
    assert spread == pytest.approx(sum(f.error for f in found) / 50, rel=0.4)


def test_one_path_of_one_stage_weighs_the_tilt_at_its_start():
    start = torch.tensor([[0.5], [-2.0]])
    found = annealed_log_weights(lambda z: -z.abs().sum(1), lambda z: 3 * z[:, 0], start, 1, 0.1, make_generator(0))
    torch.testing.assert_close(found, torch.tensor([1.5, -6.0]))
    assert log_normalizer_of(found[:1].repeat(7)) == pytest.approx((1.5, 0.0, 1.0), abs=1e-6)


def test_where_one_path_carries_the_weight_the_error_says_at_most_one_and_the_share_of_paths_tells():
    """Weights 1 and n - 1 times e^-50: the estimate is log(1 / n), its error 1, and n paths are worth one."""
    found = log_normalizer_of(torch.tensor([0.0, *[-50.0] * 99]))
    assert found == pytest.approx((-math.log(100), 1.0, 0.01), abs=1e-5)
