"""The energy prior in one dimension, where all can be integrated: moments of its chain, and L_alpha's gradient."""

import math

import pytest
import torch
from torch import nn

from multiebm.core.random import make_generator
from multiebm.mcmc.langevin import langevin
from multiebm.mcmc.run import run_chain
from multiebm.priors.energy import Energy, EnergyPrior
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.standard import StandardPrior
from multiebm.training.codes import prior_step
from small_models import energy_prior, make_state, small_model, vectors

SIGMAS = 4.0  # false alarm 6e-5 for a Gaussian statistic


class Quadratic(nn.Module):
    """f(z) = a z + b z^2, linear in its parameters."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (a, b))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.a * z + self.b * z.square()


def prior(
    family: str, net: nn.Module, steps: int = 50, step_size: float = 0.4, bound: float = 0.0, penalty: float = 0.0
) -> EnergyPrior:
    made = EnergyPrior(
        StandardPrior(family, 1),
        Energy(width=4, layers=1, steps=steps, step_size=step_size, bound=bound, penalty=penalty),
    )
    made.net = net  # type: ignore[assignment]
    return made


def moments(family: str, a: float, b: float) -> tuple[float, float, float]:
    """log Z, mean and variance of exp(a z + b z^2) p0(z), by quadrature in float64."""
    z = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    base = {"laplace": -z.abs() - math.log(2), "normal": -0.5 * z**2 - 0.5 * math.log(2 * math.pi)}[family]
    weight = (a * z + b * z**2 + base).exp()
    total = torch.trapezoid(weight, z)
    mean = torch.trapezoid(weight * z, z) / total
    variance = torch.trapezoid(weight * (z - mean) ** 2, z) / total
    return total.log().item(), mean.item(), variance.item()


def two_points(mean: float, variance: float) -> torch.Tensor:
    """Two points [2, 1] with exactly this mean and variance: exact samples, for anything that is quadratic."""
    sd = variance**0.5
    return torch.tensor([[mean - sd], [mean + sd]], dtype=torch.float64)


def assert_moment(values: torch.Tensor, expected: float, slack: float = 0.0):
    """The mean of `values` is `expected` within SIGMAS of its own standard error, plus `slack`."""
    error = SIGMAS * values.std().item() / len(values) ** 0.5
    assert values.mean().item() == pytest.approx(expected, abs=error + slack)


@pytest.mark.parametrize(("s", "variance"), [(0.1, 2.007), (0.2, 2.02), (0.4, 2.12), (0.6, 2.22)])
def test_without_a_tilt_the_chain_keeps_the_laplace_base_up_to_the_known_bias(s, variance):
    """Section 3.2: stationary variances of the unadjusted chain on Laplace(0, 1); the exact one is 2.

    The numbers there are simulated and rounded; slack 0.02. Steps: many mixing times (1 / s^2) of the base.
    """
    z = prior("laplace", Quadratic(0.0, 0.0), steps=int(8 / s**2) + 10, step_size=s).sample(20_000, make_generator(0))
    assert_moment(z.double()[:, 0], 0.0)
    assert_moment(z.double()[:, 0] ** 2, variance, slack=0.02)


def test_without_a_tilt_the_chain_on_the_normal_base_has_the_variance_of_the_recursion():
    """v' = (1 - s^2/2)^2 v + s^2 from v = 1."""
    s, v = 0.7, 1.0
    for _ in range(5):
        v = (1 - s**2 / 2) ** 2 * v + s**2
    z = prior("normal", Quadratic(0.0, 0.0), steps=5, step_size=s).sample(40_000, make_generator(0))
    assert v > 1.05
    assert_moment(z.double()[:, 0] ** 2, v)


@pytest.mark.parametrize("steps", [1, 2, 30])
def test_a_quadratic_tilt_of_the_normal_base_has_the_moments_of_the_recursion(steps):
    """f = 2 z - z^2 / 2: p is N(1, 1/2), log Z = 1 - log(2) / 2, and a step z' = (1 - s^2) z + s^2 + s e.

    With s = 0.8 the chain's variance tends to 0.735: the bias of 0.235 that a step so long has is resolved.
    """
    s, mean, variance = 0.8, 0.0, 1.0
    for _ in range(steps):
        mean, variance = (1 - s**2) * mean + s**2, (1 - s**2) ** 2 * variance + s**2
    assert moments("normal", 2.0, -0.5) == pytest.approx((1 - math.log(2) / 2, 1.0, 0.5), rel=1e-6)
    z = prior("normal", Quadratic(2.0, -0.5), steps, s).sample(40_000, make_generator(0)).double()[:, 0]
    assert_moment(z, mean)
    assert_moment((z - z.mean()) ** 2, variance)


def test_the_tilt_has_as_many_hidden_layers_as_asked_for_and_no_bias_at_its_end():
    net = EnergyPrior(StandardPrior("normal", 2), Energy(width=5, layers=3)).net
    weights = [part for part in net if isinstance(part, nn.Linear)]
    assert [tuple(part.weight.shape) for part in weights] == [(5, 2), (5, 5), (5, 5), (1, 5)]
    assert [part.bias is not None for part in weights] == [True, True, True, False]
    assert sum(isinstance(part, nn.GELU) for part in net) == 3


def test_a_gaussian_tilt_of_the_laplace_base_has_the_moments_of_section_10():
    """f = -(z - 2)^2 / 2: exactly 1.161 and 0.767; the chain with s = 0.2 has 1.17 and 0.78 (its bias)."""
    _, mean, variance = moments("laplace", 2.0, -0.5)
    assert (round(mean, 3), round(variance, 3)) == (1.161, 0.767)
    z = (
        prior("laplace", Quadratic(2.0, -0.5), steps=250, step_size=0.2)
        .sample(20_000, make_generator(0))
        .double()[:, 0]
    )
    assert_moment(z, 1.17, slack=0.005)
    assert_moment((z - z.mean()) ** 2, 0.78, slack=0.005)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_the_gradient_of_l_alpha_is_that_of_minus_e_q_f_plus_log_z(family):
    """L_alpha = mean f(z-) - mean f(z+) with exact z-; f is quadratic, so two points are exact samples."""
    a, b, h = 0.4, -0.3, 1e-5
    positive = torch.tensor([[0.3], [1.2], [-0.5], [2.0]], dtype=torch.float64)
    state = make_state(small_model(vectors(x=2), shared=1, prior=energy_prior()))
    net = Quadratic(a, b)
    state.optimisers["prior"] = torch.optim.SGD(net.parameters(), lr=0.0)
    _, mean, variance = moments(family, a, b)
    state.model.generator.prior = prior(family, net)
    metrics = prior_step(state, positive, two_points(mean, variance))

    def objective(a: float, b: float) -> float:
        return -(a * positive + b * positive**2).mean().item() + moments(family, a, b)[0]

    assert net.a.grad.item() == pytest.approx((objective(a + h, b) - objective(a - h, b)) / (2 * h), rel=1e-6)
    assert net.b.grad.item() == pytest.approx((objective(a, b + h) - objective(a, b - h)) / (2 * h), rel=1e-6)
    gap = (a * positive + b * positive**2).mean().item() - (a * mean + b * (variance + mean**2))
    assert metrics["prior/gap"] == pytest.approx(gap, rel=1e-9)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_the_gradient_of_the_log_normalizer_is_that_of_log_z(family, monkeypatch):
    a, b, h = 0.4, -0.3, 1e-5
    tilted = prior(family, Quadratic(a, b))
    _, mean, variance = moments(family, a, b)
    monkeypatch.setattr(tilted, "sample", lambda n, generator: two_points(mean, variance))
    grads = torch.autograd.grad(tilted.log_normalizer(2, make_generator(0)), [tilted.net.a, tilted.net.b])
    by_a = (moments(family, a + h, b)[0] - moments(family, a - h, b)[0]) / (2 * h)
    by_b = (moments(family, a, b + h)[0] - moments(family, a, b - h)[0]) / (2 * h)
    assert [g.item() for g in grads] == pytest.approx([by_a, by_b], rel=1e-6)


def test_the_log_normalizer_from_the_chain_has_the_gradient_of_log_z_up_to_sampling_and_bias():
    """d log Z / d a = E[z] = 1.161 for f = 2 z - z^2 / 2; the chain with s = 0.1 is within its bias of 0.005."""
    tilted = prior("laplace", Quadratic(2.0, -0.5), steps=600, step_size=0.1)
    n = 10_000
    grad = torch.autograd.grad(tilted.log_normalizer(n, make_generator(0)), tilted.net.a)[0].item()
    assert grad == pytest.approx(1.161, abs=SIGMAS * (0.767 / n) ** 0.5 + 0.005)


def test_the_density_is_tilt_plus_base_and_the_chain_climbs_exactly_that():
    tilted = prior("laplace", Quadratic(2.0, -0.5), steps=3, step_size=0.3)
    z = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    expected = 2 * z[:, 0] - 0.5 * z[:, 0] ** 2 - z[:, 0].abs() - math.log(2)
    torch.testing.assert_close(tilted.log_prob(z), expected.double(), rtol=1e-12, atol=0)
    g = make_generator(4)
    start = tilted.base.sample(5, g)
    by_hand, _ = run_chain(langevin(tilted.log_prob, 0.3), start, 3, g)
    assert torch.equal(tilted.sample(5, make_generator(4)), by_hand)


def test_a_bound_keeps_the_tilt_within_it_and_small_tilts_as_they_are():
    def tilt(bound: float, z: torch.Tensor) -> torch.Tensor:
        return prior("normal", Quadratic(3.0, 0.0), bound=bound).tilt(z).detach()

    z = torch.linspace(-50, 50, 101, dtype=torch.float64)[:, None]
    assert tilt(5.0, z).abs().max() <= 5.0
    assert tilt(0.0, z).abs().max() == 150.0
    torch.testing.assert_close(tilt(5.0, z), 5 * torch.tanh(3 * z[:, 0] / 5), rtol=1e-12, atol=0)
    small = torch.tensor([[0.001]], dtype=torch.float64)
    assert tilt(5.0, small).item() == pytest.approx(0.003, rel=1e-6)


def test_the_penalty_adds_the_mean_squares_of_the_tilt_on_both_kinds_of_codes():
    positive, negative = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[-1.0], [3.0], [0.0]]).double()
    net = Quadratic(1.0, 0.0)  # f(z) = z
    plain = prior("normal", net).loss(positive, negative).item()
    assert plain == pytest.approx(2 / 3 - 1.5)
    assert prior("normal", net, penalty=0.1).loss(positive, negative).item() == pytest.approx(
        plain + 0.1 * (2.5 + 10 / 3)
    )


def test_no_gradient_of_the_loss_reaches_the_codes():
    positive = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    negative = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    prior("normal", Quadratic(1.0, 0.5)).loss(positive, negative).backward()
    assert positive.grad is None
    assert negative.grad is None


def test_a_draw_leaves_no_gradient_and_restores_the_networks_flags():
    tilted = EnergyPrior(StandardPrior("normal", 2), Energy(width=4, layers=1, steps=3))
    z = tilted.sample(6, make_generator(0))
    assert not z.requires_grad
    assert all(p.grad is None and p.requires_grad for p in tilted.parameters())
    assert tilted.training
    assert not tilted.normalised


@pytest.mark.parametrize("temperature", [0.5, 0.25])
def test_a_temperature_samples_the_density_to_its_inverse_power(temperature):
    """f = -z^2 on N(0, 1): variance 1 / 3, so T / 3 at temperature T; the chain's own variance is v / (1 - s^2 / 4v)
    with v = 1 / 3 times T, as start and noise both shrink."""
    tilted = prior("normal", Quadratic(0.0, -1.0), steps=200, step_size=0.2)
    z = tilted.sample(20_000, make_generator(0), temperature)
    expected = temperature * (1 / 3) / (1 - 0.2**2 / (4 / 3))
    assert z.var().item() == pytest.approx(expected, rel=SIGMAS * (2 / 20_000) ** 0.5)


def test_a_cool_chain_starts_at_its_cool_base():
    """One step of size 0.01 hardly moves: what comes out is N(0, T), so the variance is T; 4 sigma."""
    z = prior("normal", Quadratic(0.0, 0.0), steps=1, step_size=0.01).sample(20_000, make_generator(0), 0.25)
    assert z.var().item() == pytest.approx(0.25, rel=SIGMAS * (2 / 20_000) ** 0.5 + 0.001)


def test_on_a_mixture_a_cool_chain_keeps_the_shares_and_cools_each_mode():
    """Modes at -5 and 5 with shares 1 : 3 and variance 0.09: at T = 1/4 the shares stay, the variances are a quarter,
    up to the chain's bias v / (1 - s^2 T / 4 T v); 4 sigma."""
    base = MixturePrior(1, 2)
    g = make_generator(1)
    noise = 0.3 * torch.randn(4000, 1, generator=g)
    base.refit(torch.where(torch.arange(4000)[:, None] % 4 > 0, 5 + noise, noise - 5))
    tilted = EnergyPrior(base, Energy(width=4, layers=1, steps=40, step_size=0.1))
    torch.nn.init.zeros_(tilted.net[-1].weight)
    z = tilted.sample(20_000, make_generator(0), 0.25)[:, 0]
    assert (z > 0).float().mean().item() == pytest.approx(0.75, abs=SIGMAS * (0.75 * 0.25 / 20_000) ** 0.5 + 1e-3)
    for mode, weight in ((z[z > 0], 3), (z[z < 0], 1)):
        own = base.scale_tril[base.mean[:, 0].sign() == mode.mean().sign()].item() ** 2
        expected = 0.25 * own / (1 - 0.1**2 / (4 * own))
        assert mode.var().item() == pytest.approx(expected, rel=SIGMAS * (2 / (5000 * weight)) ** 0.5), weight


def test_temperature_one_is_the_prior_itself():
    tilted = prior("laplace", Quadratic(2.0, -0.5), steps=3, step_size=0.3)
    assert torch.equal(tilted.sample(5, make_generator(4)), tilted.sample(5, make_generator(4), 1.0))
