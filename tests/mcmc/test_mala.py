"""MALA: the acceptance formula by hand, and invariance of symmetric and asymmetric targets."""

import math

import torch

from multiebm.core.random import make_generator, rand, randn
from multiebm.mcmc.langevin import mala
from multiebm.mcmc.run import run_chain

KOLMOGOROV = 2.3  # sup |F_n - F| sqrt(n) exceeds it with probability 2 exp(-2 * 2.3^2) = 5e-5


def skewed(u):
    return (3 * u - u.exp()).sum(1)


def test_one_step_accepts_by_the_formula_of_section_7():
    s, u = 0.9, torch.randn(500, 2, generator=make_generator(1))
    kernel = mala(skewed, s)
    state, info = kernel.step(make_generator(2), kernel.init(u))
    g = make_generator(2)
    proposal = u + 0.5 * s**2 * (3 - u.exp()) + s * randn(g, u.shape, u)
    coin = rand(g, (500, 1), u)[:, 0]

    def log_normal(x, mean):
        return (-(x - mean).square() / (2 * s**2) - math.log(s) - 0.5 * math.log(2 * math.pi)).sum(1)

    back = log_normal(u, proposal + 0.5 * s**2 * (3 - proposal.exp()))
    forth = log_normal(proposal, u + 0.5 * s**2 * (3 - u.exp()))
    acceptance = (skewed(proposal) - skewed(u) + back - forth).clamp(max=0).exp()
    torch.testing.assert_close(info.acceptance, acceptance, rtol=1e-3, atol=1e-6)
    clear = (coin - acceptance).abs() > 1e-4
    accepted = (state.position == proposal).all(1) | ((state.position - proposal).abs().amax(1) < 1e-6)
    assert torch.equal(accepted[clear], (coin < acceptance)[clear])
    assert torch.equal(state.position[~accepted], u[~accepted])
    assert 50 < accepted.sum() < 450  # both branches were exercised


def test_the_state_after_a_step_holds_density_and_gradient_of_its_own_position():
    u = torch.randn(200, 2, generator=make_generator(1))
    kernel = mala(skewed, 0.9)
    state, info = kernel.step(make_generator(2), kernel.init(u))
    torch.testing.assert_close(state.logdensity, skewed(state.position))
    torch.testing.assert_close(state.grad, 3 - state.position.exp())
    torch.testing.assert_close(info.move_norm, (state.position - u).norm(dim=1))


def test_a_gaussian_keeps_exactly_its_variance_where_ula_would_have_a_bias():
    """Started from N(0, 2): ULA with s = 1 would go to 2.286. Relative sd of a variance sqrt(2 / N); 4 sigma."""
    v, n = 2.0, 40_000
    u = v**0.5 * torch.randn(n, 1, generator=make_generator(0))
    end, info = run_chain(mala(lambda x: -x.square().sum(1) / (2 * v), 1.0), u, 15, make_generator(1))
    assert abs(end.var() / v - 1) < 4 * (2 / n) ** 0.5
    assert abs(end.mean()) < 4 * (v / n) ** 0.5
    assert 0.7 < info.acceptance.mean() < 0.99


def test_an_asymmetric_target_is_left_invariant():
    """log Gamma(3) variables stay what they are: their exponentials pass Kolmogorov's test against Gamma(3)."""
    n = 40_000
    gamma = -torch.rand(n, 3, generator=make_generator(0), dtype=torch.float64).clamp_min(1e-15).log().sum(1)
    end, info = run_chain(mala(skewed, 0.9), gamma.log().float()[:, None], 15, make_generator(1))
    probability = torch.special.gammainc(torch.tensor(3.0).double(), end[:, 0].double().exp()).sort().values
    steps = torch.arange(n + 1).double() / n
    distance = torch.maximum((steps[1:] - probability).max(), (probability - steps[:-1]).max())
    assert distance * n**0.5 < KOLMOGOROV
    assert 0.6 < info.acceptance.mean() < 0.99


def test_a_proposal_of_no_probability_is_refused_and_the_item_stays():
    def half_line(u):
        return torch.where(u > 0, -u, -torch.inf).sum(1)

    u = torch.full((200, 1), 0.05)
    end, info = run_chain(mala(half_line, 1.0), u, 1, make_generator(0))
    assert (end > 0).all()
    assert (info.acceptance == 0).any()
    assert info.acceptance.isfinite().all()
