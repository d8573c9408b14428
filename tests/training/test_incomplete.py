"""Cooperative steps on items with gaps: what stands in for the absent parts, and what the energy then learns."""

from dataclasses import replace

import pytest
import torch

import multiebm.training.phases.cooperative as module
from multiebm.core.batch import Batch, mask_views
from multiebm.objectives.cooperative import energy_loss
from multiebm.training.codes import complete_items, refine_codes
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.energy import Energy
from small_models import LITERAL, energy_prior, make_state, mixed, random_views, small_model, take_step, whole

PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()
WITH_GAPS = [1, 2, 3, 4, 6]  # items with some part, but not all; 0 and 5 are complete, 7 has nothing


def setup(present=PRESENT, **sections):
    model = small_model(mixed(), **({"prior": energy_prior()} | sections))
    views = random_views(model.modalities, len(present))
    return model, make_state(model), Batch(mask_views(views, present), present)


@pytest.mark.parametrize("settings", [LITERAL, Cooperative()], ids=["literal", "anchored"])
def test_filled_with_every_part_held_fixed_complete_items_give_the_same_step_bit_for_bit(settings, monkeypatch):
    """Decoded from their codes and revised, by a generator of its own, they are the data: the clamp leaves none out."""
    results = []
    for general in (False, True):
        model, state, batch = setup(torch.ones(8, 3, dtype=torch.bool))

        def filled(state, posterior, batch, codes, incomplete):
            generator = torch.Generator().manual_seed(1)
            return state.model.refine_data(state.model.fill(batch, codes.latents), generator, clamp=batch.present)[0]

        if general:
            monkeypatch.setattr(module, "complete_items", filled)
        results.append((take_step(state, batch, settings), model.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(v, results[1][1][k]) for k, v in results[0][1].items())


def test_filled_items_keep_what_was_seen_and_get_the_rest_from_their_revised_codes():
    """With a data chain of no step an absent part is the mean of the item's own revised code."""
    model, state, batch = setup(data_chain={"steps": 0}, private=0)
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "random_expert")
    data = complete_items(state, posterior, batch, codes)
    means = model.decode({key: value[WITH_GAPS] for key, value in codes.latents.items()})
    for i, name in enumerate(model.modalities):
        view = batch.views[name]
        assert len(data[name]) == 7
        assert torch.equal(data[name][:2], view[[0, 5]])
        for row, item in enumerate(WITH_GAPS):
            expected = view[item] if PRESENT[item, i] else means[name][row]
            torch.testing.assert_close(data[name][2 + row], expected, rtol=1e-5, atol=1e-6)


def test_the_chain_of_a_filled_item_moves_its_absent_parts_alone():
    model, state, batch = setup()
    posterior = model.inference(batch)
    codes, started, refine = refine_codes(state, posterior, batch, "random_expert"), [], model.refine_data
    model.refine_data = lambda start, *args, **more: started.append(start) or refine(start, *args, **more)
    data = complete_items(state, posterior, batch, codes)
    for i, name in enumerate(model.modalities):
        seen = PRESENT[WITH_GAPS, i]
        assert torch.equal(data[name][2:][seen], batch.views[name][WITH_GAPS][seen])
        moved = (data[name][2:] != started[0][name]).flatten(1).any(1)
        assert torch.equal(moved, ~seen)
        assert not data[name].requires_grad
        assert data[name].isfinite().all()


@pytest.mark.parametrize("alone", [True, False])
def test_rows_with_any_part_train_all_three_models(alone):
    """No item is complete; the energy learns too, also in the steps that are its own."""
    present = torch.tensor([[True, False, True], [False, True, True]] * 4)
    model, state, batch = setup(present)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    take_step(state, batch, Energy() if alone else Cooperative())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    parts = {"prior" if name.startswith("generator.prior") else name.split(".")[0] for name in moved}
    assert parts == ({"energy", "prior"} if alone else {"energy", "prior", "generator", "inference"})


def test_all_experts_fill_an_item_once_from_one_of_its_own_codes_at_random():
    """With a data chain of no step an absent part is the mean of that code; in 30 draws every code of an item comes."""
    model, state, batch = setup(data_chain={"steps": 0}, private=0)
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "all_experts")
    means = model.decode(codes.latents)
    taken = set()
    for _ in range(30):
        data = complete_items(state, posterior, batch, codes)
        assert {len(view) for view in data.values()} == {7}
        for row, item in enumerate(WITH_GAPS):
            absent = [name for i, name in enumerate(model.modalities) if not PRESENT[item, i]]
            apart = [(means[name] - data[name][2 + row]).abs().flatten(1).amax(1) for name in absent]
            match = (torch.stack(apart).amax(0) < 1e-5).nonzero()[:, 0].tolist()
            assert len(match) == 1
            assert codes.item[match[0]] == item
            taken.add(match[0])
    assert taken == {i for i, item in enumerate(codes.item.tolist()) if item in WITH_GAPS}


def test_the_filled_positive_phase_has_the_gradient_of_the_marginal_likelihood():
    """E = (1 + t) (a^2 + b^2) / 2 - t a b: pi is N(0, P^-1), and for data of which b is missing

        d / dt -log pi(a) = E_{pi(b | a)}[dE/dt] - E_pi[dE/dt],

    the loss of the energy with b drawn from pi(b | a). Two points have the moments of each Gaussian exactly.
    """
    t, a = 0.7, torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)

    def precision(t):
        return torch.stack([torch.stack([1 + t, -t]), torch.stack([-t, 1 + t])])

    def energy(t, x):
        return 0.5 * ((x @ precision(t)) * x).sum(-1)

    theta = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    loc, sd = t / (1 + t) * a, (1 / (1 + t)) ** 0.5
    filled = torch.cat([torch.stack([a, loc + sign * sd], 1) for sign in (-1, 1)])
    root = torch.linalg.cholesky(torch.linalg.inv(precision(torch.tensor(t, dtype=torch.float64))))
    samples = torch.cat([2**0.5 * root.T, -(2**0.5) * root.T])  # mean 0 and covariance P^-1
    loss = energy_loss(energy(theta, filled), energy(theta, samples)).total
    loss.backward()

    def objective(t: float) -> float:
        variance = torch.linalg.inv(precision(torch.tensor(t, dtype=torch.float64)))[0, 0]
        return (0.5 * variance.log() + 0.5 * a.square() / variance).mean().item()

    h = 1e-5
    assert theta.grad.item() == pytest.approx((objective(t + h) - objective(t - h)) / (2 * h), rel=1e-6)


def test_a_long_chain_fills_from_the_conditional_of_the_energy():
    """E = (a^2 + b^2) / 2 + (a - b)^2 / 2 over two numbers: given a, b is N(a / 2, 1 / 2); 4 sigma of 4,000 items."""

    class Pair(torch.nn.Module):
        def forward(self, views):
            a, b = views["a"][:, 0], views["b"][:, 0]
            return 0.5 * (a.square() + b.square()) + 0.5 * (a - b).square()

    from small_models import linear_model

    n, s = 4000, 0.3
    model = linear_model({"a": 1, "b": 1}, shared=1, data_chain={"steps": 150, "kind": "langevin", "step_size": s})
    model.data_chain = replace(model.data_chain, noise_scale=s)
    model.energy = Pair()
    present = torch.tensor([[True, False]]).expand(n, 2)
    batch = Batch(mask_views({k: torch.full((n, 1), 1.5) for k in ("a", "b")}, present), present)
    state = make_state(small_model(mixed()))
    state.model = model
    b = complete_items(state, model.inference(batch), batch, None)["b"][:, 0]
    variance = 0.5 / (1 - s**2 / (4 * 0.5))
    assert b.mean().item() == pytest.approx(0.75, abs=4 * (variance / n) ** 0.5)
    assert b.var().item() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)


def test_whole_batches_are_handed_over_as_they_are():
    model, state, _ = setup()
    batch = whole(random_views(model.modalities, 4))
    assert complete_items(state, model.inference(batch), batch, None) is batch.views
