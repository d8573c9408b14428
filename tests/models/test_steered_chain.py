"""A Langevin data chain whose one step size training steers: its temperature, and the density that it targets."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from multiebm.core.files import sealed
from multiebm.core.random import make_generator
from multiebm.experiments.saved import from_pretrained, save_pretrained, start_from
from multiebm.models.model import MultimodalModel
from multiebm.models.saving import HEADER
from multiebm.priors.prior import Settling
from multiebm.training.codes import steer_step_size
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.settle import take_average
from small_models import Again, make_state, mixed, random_views, small_model, take_step, vectors, whole

SIGMAS = 4.0  # of a two-sided test on a Gaussian statistic: false alarm 6e-5
STEERED = {"kind": "langevin", "step_size": "steered"}


class Times(nn.Module):
    """An energy times a number."""

    def __init__(self, energy: nn.Module, factor: float) -> None:
        super().__init__()
        self.energy, self.factor = energy, factor

    def forward(self, views):
        return self.factor * self.energy(views)


class Wells(nn.Module):
    """E = 2 (x^2 - 1)^2 + x / 2 of one number: the well on the right is shallower by about 1."""

    def forward(self, views):
        x = views["a"][:, 0]
        return 2 * (x.square() - 1).square() + x / 2


class Pair(nn.Module):
    """E = (a^2 + b^2) / 2 + (a - b)^2 / 2: given a, b is N(a / 2, T / 2) under exp(-E / T)."""

    def forward(self, views):
        a, b = views["a"][:, 0], views["b"][:, 0]
        return 0.5 * (a.square() + b.square()) + 0.5 * (a - b).square()


def steered_model(modalities=None, s: float = 0.4, **chain) -> MultimodalModel:
    model = small_model(modalities or mixed(), data_chain=STEERED | {"steps": 3} | chain)
    model.step_size.fill_(s)
    return model


@pytest.mark.parametrize("clamp", [None, torch.tensor([[True, False, False]] * 4)])
def test_with_the_step_size_that_steering_left_it_is_the_langevin_chain_bit_for_bit(clamp):
    model = steered_model(s=0.37)
    fixed = small_model(
        mixed(), data_chain={"kind": "langevin", "steps": 3, "step_size": model.data_step_size, "noise_scale": 0.001}
    )
    views = random_views(model.modalities, 4)
    ends = [m.refine_data(views, make_generator(1), clamp=clamp)[0] for m in (model, fixed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in views)
    assert not torch.equal(ends[0]["left"], views["left"]) or clamp is not None


def test_a_model_whose_steps_are_not_steered_so_has_no_step_size_in_its_weights():
    displaced, fixed = (small_model(mixed(), data_chain={"steps": 3, "kind": k}) for k in ("displaced", "langevin"))
    assert set(displaced.state_dict()) == set(fixed.state_dict()) == set(steered_model().state_dict()) - {"step_size"}
    assert (displaced.data_step_size, displaced.data_temperature) == (None, None)
    assert (fixed.data_step_size, fixed.data_temperature) == (0.5, pytest.approx((0.001 / 0.5) ** 2))
    assert steered_model(s=0.5, noise_scale=0.25).data_temperature == 0.25


@pytest.mark.parametrize("factor", [1e-3, 50.0, 1e4])
def test_an_energy_of_another_scale_is_climbed_by_the_same_steps_once_steering_has_converged(factor):
    """Moves are as long as asked on average, ends are the same, and E / T is: s^2 goes as 1 / c and T as c."""
    ends, sizes, temperatures = [], [], []
    for c in (1.0, factor):
        model = steered_model(vectors(a=2, b=3), noise_scale=0.002)
        model.energy, size = Times(model.energy, c), sum(m.size for m in model.modalities.values())
        model.displacement.fill_(0.007)
        views = random_views(model.modalities, 6)
        for _ in range(25):
            end, chain = model.refine_data(views, make_generator(2))
            steer_step_size(model, chain)
        s = model.data_step_size
        assert (0.5 * s**2 * chain.grad_norm).mean().item() / size**0.5 == pytest.approx(0.007, rel=1e-4)
        ends, sizes, temperatures = [*ends, end], [*sizes, s], [*temperatures, model.data_temperature]
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-5)
    assert sizes[0] / sizes[1] == pytest.approx(factor**0.5, rel=1e-4)
    assert temperatures[1] / temperatures[0] == pytest.approx(factor, rel=1e-4)


def test_the_first_step_of_training_finds_the_step_size_and_later_ones_follow_half_the_way_on_a_log_scale():
    model = steered_model(s=0.5)
    _, chain = model.refine_data(random_views(model.modalities, 6), make_generator(2))
    size = sum(m.size for m in model.modalities.values())
    asked = (2 * 0.004 * size**0.5 / chain.grad_norm.mean().item()) ** 0.5
    steer_step_size(model, chain)
    assert model.data_step_size == pytest.approx(0.5**0.5 * asked**0.5, rel=1e-5)
    model.energy_steps.zero_()
    steer_step_size(model, chain)
    assert model.data_step_size == pytest.approx(asked, rel=1e-5)
    nothing = chain._replace(grad_norm=torch.zeros_like(chain.grad_norm))
    steer_step_size(model, nothing)
    assert model.data_step_size == pytest.approx(asked, rel=1e-5)


TOP = 0.0627  # between the two wells
GRID = torch.linspace(-4, 4, 8001, dtype=torch.float64)


def share_on_the_right(potential: torch.Tensor) -> float:
    """Mass of exp(-potential) in the shallower well, by quadrature on GRID."""
    weight = (potential.min() - potential).exp()
    return float(weight[GRID > TOP].sum() / weight.sum())


def occupied(chain: dict, s: float | None = None, displacement: float = 0.0, n: int = 4000) -> float:
    """Share of n long chains, begun evenly in both wells, that end in the shallower."""
    model = small_model(vectors(a=1), data_chain=chain | {"steps": 400})
    model.energy, start = Wells(), {"a": torch.tensor([[1.0], [-1.0]]).repeat(n // 2, 1)}
    model.displacement.fill_(displacement)
    if s is not None:
        model.step_size.fill_(s)
    end, _ = model.refine_data(start, make_generator(0))
    return float((end["a"] > TOP).float().mean())


WITHIN = 0.01 + SIGMAS * (0.25 / 4000) ** 0.5  # the bias of a finite step, and 4 sigma of 4,000 items
ENERGY = Wells()({"a": GRID[:, None]})


@pytest.mark.parametrize(("noise", "expected"), [(0.25, 0.290), (0.3, 0.349)])
def test_two_wells_are_occupied_as_exp_of_minus_e_over_t_says(noise, expected):
    temperature = (noise / 0.25) ** 2
    assert share_on_the_right(ENERGY / temperature) == pytest.approx(expected, abs=1e-3)
    assert occupied(STEERED | {"noise_scale": noise}, 0.25) == pytest.approx(expected, abs=WITHIN)


def test_displaced_steps_occupy_two_wells_by_their_widths_whatever_their_depths():
    """Moves d sign(-E') + n eps: the density is exp(-2 d / n^2 times the way uphill), which has no depths."""
    d, n = 0.02, 0.2
    uphill = ENERGY.diff(prepend=ENERGY[:1]).sign().cumsum(0) * (GRID[1] - GRID[0])
    expected = share_on_the_right(2 * d / n**2 * uphill)
    assert expected > share_on_the_right(ENERGY) + 0.1
    found = occupied({"kind": "displaced", "noise_scale": n}, displacement=d)
    assert found == pytest.approx(expected, abs=WITHIN)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_with_a_part_held_fixed_it_draws_from_the_conditional_at_its_temperature(temperature):
    n, s = 4000, 0.3
    model = steered_model(vectors(a=1, b=1), s, steps=150, noise_scale=s * temperature**0.5)
    model.energy = Pair()
    start = {"a": torch.full((n, 1), 1.5), "b": torch.zeros(n, 1)}
    end, _ = model.refine_data(start, make_generator(0), clamp=torch.tensor([[True, False]]).expand(n, 2))
    assert torch.equal(end["a"], start["a"])
    variance = temperature * 0.5 / (1 - s**2 / (4 * 0.5))
    assert end["b"].mean().item() == pytest.approx(0.75, abs=SIGMAS * (variance / n) ** 0.5)
    assert end["b"].var().item() == pytest.approx(variance, rel=SIGMAS * (2 / n) ** 0.5)


def test_when_training_is_over_the_step_size_is_that_of_the_averaged_weights():
    """Another draw of samples moves as far as asked: the mean of 400 norms, and what 128 of them left in s."""
    model = steered_model(vectors(a=2, b=3), s=7.0, noise_scale=0.01)
    model.displacement.fill_(0.01)
    state = make_state(model)
    state.average = {name: 0.5 * p.detach() for name, p in model.energy.named_parameters(prefix="energy")}
    state.stream = Again(whole(random_views(model.modalities, 8)))
    take_average(state, Settling())
    drawn = model.decode(model.sample_latents(400, make_generator(5)))
    _, chain = model.refine_data(drawn, make_generator(6))
    mean = (0.5 * model.data_step_size**2 * chain.grad_norm).mean().item() / 5**0.5
    assert mean == pytest.approx(0.01, rel=0.1)


def test_a_model_whose_steps_were_displaced_may_begin_a_steered_one(tmp_path: Path):
    old, new = small_model(mixed(), seed=1), steered_model(s=0.3)
    save_pretrained(old, tmp_path)
    start_from(new, tmp_path)
    assert new.data_step_size == pytest.approx(0.3)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


def test_training_logs_the_temperature_the_acceptance_and_the_scale_of_the_energy():
    model = steered_model(s=0.4, noise_scale=0.1)
    state, batch = make_state(model), whole(random_views(model.modalities, 8))
    rng = state.rng.get_state()
    metrics = take_step(state, batch, Cooperative())
    assert metrics["data_chain/step_size"] == pytest.approx(0.4)
    assert metrics["data_chain/temperature"] == pytest.approx(0.0625)
    assert metrics["energy/data_std_over_T"] == pytest.approx(metrics["energy/data_std"] / model.data_temperature)
    assert model.data_step_size != pytest.approx(0.4)
    again = steered_model(s=0.4, noise_scale=0.1)
    state.rng.set_state(rng)
    x0 = again.decode(again.sample_latents(8, state.rng))
    _, chain = again.refine_data(x0, state.rng)
    assert metrics["data_chain/acceptance"] == pytest.approx(chain.acceptance[:-1].mean().item())
    assert 0 < metrics["data_chain/acceptance"] < 1


def test_displaced_steps_have_no_temperature_to_log():
    model = small_model(mixed())
    metrics = take_step(make_state(model), whole(random_views(model.modalities, 8)), Cooperative())
    missing = ("data_chain/step_size", "data_chain/temperature", "data_chain/acceptance", "energy/data_std_over_T")
    assert not set(missing) & set(metrics)


def test_a_saved_model_keeps_the_step_size_and_older_files_of_both_chains_load(tmp_path: Path):
    """Files of before have no `displacement_max` beside `step_size`, and no tensor of that name."""
    model = steered_model(s=0.123)
    save_pretrained(model, tmp_path / "steered")
    assert torch.equal(from_pretrained(tmp_path / "steered").step_size, model.step_size)
    for kind, left_out in (("displaced", ()), ("langevin", ("displacement_max",))):
        old, folder = small_model(mixed(), data_chain={"steps": 3, "kind": kind}), tmp_path / kind
        save_pretrained(old, folder)
        header = json.loads((folder / HEADER).read_text())
        del header["sha256"]
        for key in left_out:
            del header["model"]["data_chain"][key]
        (folder / HEADER).write_bytes(sealed(header))
        views = random_views(old.modalities, 3)
        ends = [m.refine_data(views, make_generator(0))[0] for m in (old.eval(), from_pretrained(folder))]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in views)
