"""Eq. (10): the energy loss has the gradient of KL(p_data || pi), though log Z is never computed."""

import math

import pytest
import torch
from torch import Tensor

from multiebm.objectives.cooperative import energy_loss


def energy(x: Tensor, centre: Tensor, log_precision: Tensor) -> Tensor:
    return 0.5 * log_precision.exp() * (x - centre).square()


def two_points(mean: float, variance: float) -> Tensor:
    """Exactly this mean and variance: exact samples for an energy that is quadratic in x."""
    return torch.tensor([mean - variance**0.5, mean + variance**0.5], dtype=torch.float64)


def divergence(data: tuple[float, float], centre: float, log_precision: float, temperature: float) -> float:
    """KL(N(data) || exp(-E / T) / Z) of two Gaussians; pi has variance T / precision."""
    variance = temperature * math.exp(-log_precision)
    mean, spread = data
    return 0.5 * (math.log(variance / spread) + (spread + (mean - centre) ** 2) / variance - 1)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_gradient_is_that_of_the_divergence_times_the_temperature(temperature):
    """-T d KL / d theta = -E_data[dE] + E_pi[dE] (18); with c_T = 1 / T it is the KL's own gradient."""
    data, centre, log_precision, h = (1.3, 0.6), 0.4, 0.2, 1e-5
    theta = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (centre, log_precision)]
    revised = two_points(centre, temperature * math.exp(-log_precision))
    loss = energy_loss(energy(two_points(*data), *theta), energy(revised, *theta)).total / temperature
    got = [g.item() for g in torch.autograd.grad(loss, theta)]

    def kl(shift: float, stretch: float) -> float:
        return divergence(data, centre + shift, log_precision + stretch, temperature)

    by_centre = (kl(h, 0) - kl(-h, 0)) / (2 * h)
    by_precision = (kl(0, h) - kl(0, -h)) / (2 * h)
    assert got == pytest.approx([by_centre, by_precision], rel=1e-6)


def test_at_the_data_law_the_gradient_vanishes():
    theta = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.2)]
    points = two_points(0.4, math.exp(-0.2))
    grads = torch.autograd.grad(energy_loss(energy(points, *theta), energy(points.clone(), *theta)).total, theta)
    assert [g.item() for g in grads] == pytest.approx([0, 0], abs=1e-14)


def test_a_constant_added_to_the_energy_changes_neither_loss_nor_gap():
    data, revised = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 5.0, 8.0])
    first, second = energy_loss(data, revised), energy_loss(data + 7, revised + 7)
    assert first.total.item() == second.total.item() == first.gap.item() == -3.0
    assert (first.data.item(), first.refined.item()) == (2.0, 5.0)


def test_the_penalty_is_the_mean_square_of_both_phases_and_pulls_energies_to_zero():
    data = torch.tensor([1.0, 3.0], requires_grad=True)
    revised = torch.tensor([2.0, 4.0], requires_grad=True)
    loss = energy_loss(data, revised, penalty=0.1)
    assert loss.total.item() == pytest.approx(2 - 3 + 0.1 * (5 + 10))
    assert loss.gap.item() == -1.0
    by_data, by_revised = torch.autograd.grad(loss.total, [data, revised])
    torch.testing.assert_close(by_data, (1 + 0.2 * data.detach()) / 2)
    torch.testing.assert_close(by_revised, (-1 + 0.2 * revised.detach()) / 2)


def test_the_reported_parts_carry_no_graph():
    loss = energy_loss(torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True))
    assert loss.total.requires_grad
    assert not any(part.requires_grad for part in loss[1:])
