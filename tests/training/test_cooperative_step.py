"""The cooperative step: order, starts, negatives, phases, steering, and replay."""

import math
from dataclasses import replace

import pytest
import torch

import multiebm.training.phases.bound as bound
import multiebm.training.phases.cooperative as module
import multiebm.training.phases.energy as energy
from multiebm.core.batch import Batch, mask_views
from multiebm.models.chains import Langevin
from multiebm.objectives.cooperative import energy_loss
from multiebm.training.codes import complete_items, prior_step
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.energy import Energy, energy_step
from small_models import LITERAL, energy_prior, make_state, mixed, random_views, small_model, take_step, whole

DEFAULT = Cooperative()


def setup(**sections):
    model = small_model(mixed(), **({"prior": energy_prior()} | sections))
    return model, make_state(model), whole(random_views(model.modalities, 8))


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of the model with a parameter that is not what it was."""
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return {"prior" if name.startswith("generator.prior") else name.split(".")[0] for name in moved}


def spy_on_data_chain(model, monkeypatch) -> list[tuple[dict, dict]]:
    """Start and end of every data chain of the model."""
    runs, refine = [], model.refine_data

    def spied(views, *args, **kwargs):
        end, info = refine(views, *args, **kwargs)
        runs.append(({n: v.detach().clone() for n, v in views.items()}, end))
        return end, info

    monkeypatch.setattr(model, "refine_data", spied)
    return runs


def spy_on_negatives(monkeypatch) -> list[dict]:
    seen, step = [], module.energy_step
    monkeypatch.setattr(module, "energy_step", lambda s, b, revised: (seen.append(revised), step(s, b, revised))[1])
    return seen


@pytest.mark.parametrize("settings", [LITERAL, DEFAULT, replace(DEFAULT, negatives="refresh")])
def test_the_same_seed_gives_the_same_step_bit_for_bit(settings):
    results = []
    for _ in range(2):
        model, state, batch = setup()
        metrics = [take_step(state, batch, settings) for _ in range(2)]
        results.append((metrics, model.state_dict(), state.rng.get_state()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(v, results[1][1][k]) for k, v in results[0][1].items())
    assert torch.equal(results[0][2], results[1][2])


def test_another_seed_gives_another_step():
    ends = []
    for seed in (0, 1):
        model = small_model(mixed())
        take_step(make_state(model, seed), whole(random_views(model.modalities, 8)), LITERAL)
        ends.append(parameters(model))
    assert any(not torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_zero_chain_steps_are_legal_and_revise_nothing(monkeypatch):
    """z~ = z0 and X~ = X0 exactly; with X~ = G(z) the synthetic term of a normal likelihood has no gradient."""
    model, state, batch = setup(data_chain={"steps": 0}, latent_chain={"steps": 0})
    runs, negatives = spy_on_data_chain(model, monkeypatch), spy_on_negatives(monkeypatch)
    refine, codes = model.refine_latents, []

    def spied(latents, *args):
        end, info = refine(latents, *args)
        codes.append((latents, end))
        return end, info

    monkeypatch.setattr(model, "refine_latents", spied)
    metrics = take_step(state, batch, replace(LITERAL, reconstruction=0.0))
    for start, end in (*runs, *codes):
        assert all(torch.equal(start[k], end[k]) for k in start)
    assert all(torch.equal(negatives[0][n], runs[0][0][n]) for n in negatives[0])
    assert metrics["grad_norm/generator"] == 0.0
    assert metrics["data_chain/move_rms"] == metrics["latent_chain/move"] == metrics["latent_chain/gain"] == 0.0
    assert metrics["grad_norm/energy"] > 0


def test_the_data_chain_starts_at_decoded_prior_draws(monkeypatch):
    model, state, batch = setup(prior={"kind": "normal"})
    runs = spy_on_data_chain(model, monkeypatch)
    position = state.rng.get_state()
    expected = model.decode(model.sample_latents(8, state.rng))
    state.rng.set_state(position)
    take_step(state, batch, LITERAL)
    assert all(torch.equal(runs[0][0][n], expected[n]) for n in expected)


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, [1.0]), (0.25, [0.25, 1.0])])
def test_chains_start_at_the_temperature_and_the_prior_learns_from_itself(temperature, expected, monkeypatch):
    model, state, batch = setup()
    model.generator.temperature = temperature
    drawn, sample = [], model.generator.prior.sample
    monkeypatch.setattr(
        model.generator.prior, "sample", lambda n, g, t=1.0: (drawn.append((t, sample(n, g, t))), drawn[-1][1])[1]
    )
    learnt, step = [], module.prior_step
    monkeypatch.setattr(module, "prior_step", lambda s, up, down: (learnt.append(down), step(s, up, down))[1])
    take_step(state, batch, DEFAULT)
    assert [t for t, _ in drawn] == expected
    assert torch.equal(learnt[0], drawn[-1][1])


def test_the_data_chain_starts_from_what_draws_of_the_priors_decode_to(monkeypatch):
    model, state, batch = setup(prior={"kind": "normal"})
    runs = spy_on_data_chain(model, monkeypatch)
    position = state.rng.get_state()
    latents = model.sample_latents(8, state.rng)
    expected = model.decode(latents)
    state.rng.set_state(position)
    take_step(state, batch, LITERAL)
    for name in expected:
        torch.testing.assert_close(runs[0][0][name], expected[name])


def test_reused_negatives_are_the_revised_samples_the_generator_learnt_from(monkeypatch):
    model, state, batch = setup()
    runs, negatives = spy_on_data_chain(model, monkeypatch), spy_on_negatives(monkeypatch)
    take_step(state, batch, LITERAL)
    assert len(runs) == 1
    assert negatives[0] is runs[0][1]


def test_refreshed_negatives_restart_from_the_updated_generator_at_the_same_latents(monkeypatch):
    model, state, batch = setup()
    runs, negatives = spy_on_data_chain(model, monkeypatch), spy_on_negatives(monkeypatch)
    drawn, sample = [], model.sample_latents
    monkeypatch.setattr(model, "sample_latents", lambda *args: drawn.append(sample(*args)) or drawn[-1])
    take_step(state, batch, replace(LITERAL, negatives="refresh"))
    assert len(runs) == 2
    assert negatives[0] is runs[1][1]
    updated = model.decode(drawn[0])  # the energy's update came later and does not touch the decoders
    assert all(torch.equal(runs[1][0][n], updated[n]) for n in updated)
    assert any(not torch.equal(runs[0][0][n], updated[n]) for n in updated)


def test_generator_and_inference_rest_while_the_energy_learns_first():
    model, state, batch = setup()
    for phase in (Energy(), Energy(), LITERAL):
        before = parameters(model)
        take_step(state, batch, phase)
        resting = {"energy", "prior"}
        assert changed(model, before) == (resting if phase is not LITERAL else resting | {"generator", "inference"})


def test_a_warm_up_step_leaves_the_energy_alone_and_the_prior_until_its_time():
    for step, part in ((4, {"generator", "inference"}), (5, {"generator", "inference", "prior"})):
        model, state, batch = setup()
        state.step, before = step, parameters(model)
        take_step(state, batch, Bound(prior_from=5))
        assert changed(model, before) == part


def test_the_prior_learns_from_revised_codes_and_reuses_its_own_draws(monkeypatch):
    model, state, batch = setup()
    seen, drawn, sample = [], [], model.sample_latents
    monkeypatch.setattr(model, "sample_latents", lambda *args: drawn.append(sample(*args)) or drawn[-1])
    monkeypatch.setattr(module, "prior_step", lambda s, up, down: seen.append((up, down)) or prior_step(s, up, down))
    refine, codes = model.refine_latents, []
    monkeypatch.setattr(model, "refine_latents", lambda *args: codes.append(refine(*args)) or codes[-1])
    take_step(state, batch, LITERAL)
    assert torch.equal(seen[0][0], codes[0][0]["shared"])
    assert seen[0][1] is drawn[0]["shared"]
    follow, followed = module.follow_codes, []
    monkeypatch.setattr(module, "follow_codes", lambda *args: followed.append(follow(*args)) or followed[-1])
    take_step(state, batch, replace(LITERAL, prior_codes="drawn"))
    assert seen[1][0].shape == (8, 3)  # one code per item, before the chain
    assert torch.equal(seen[1][0], followed[0]["shared"])
    assert not torch.equal(seen[1][0], codes[1][0]["shared"])


def test_the_prior_never_learns_from_codes_of_absent_parts(monkeypatch):
    seen = []
    for phase in (module, bound):
        monkeypatch.setattr(phase, "prior_step", lambda s, up, down: seen.append(up) or prior_step(s, up, down))
    model, state, batch = setup()
    present = torch.tensor([[True, False, True], [True, True, True], [False, False, True], [False, False, False]] * 2)
    batch = Batch(mask_views(batch.views, present), present)
    take_step(state, batch, Bound(prior_from=0))
    take_step(state, batch, replace(LITERAL, prior_codes="drawn"))
    take_step(state, batch, LITERAL)  # revised codes
    assert [codes.shape for codes in seen] == [(6, 3)] * 3  # two of the eight items have no part


def test_the_priors_negatives_are_its_own_samples(monkeypatch):
    """Codes of the posterior are never held against codes of the posterior."""
    model, state, batch = setup()
    seen, sampled, sample = [], [], model.generator.prior.sample
    monkeypatch.setattr(model.generator.prior, "sample", lambda *args: sampled.append(sample(*args)) or sampled[-1])
    monkeypatch.setattr(module, "prior_step", lambda s, up, down: seen.append(down) or prior_step(s, up, down))
    take_step(state, batch, LITERAL)
    assert any(seen[0] is draw for draw in sampled)


def mean_energy(model, views) -> float:
    return -model.score({n: model.modalities[n].to_raw(v) for n, v in views.items()}).mean().item()


def two_groups(model):
    """Two sets of views the energy tells apart clearly."""
    return random_views(model.modalities, 8, seed=0), {
        n: v * 0.1 + 0.9 for n, v in random_views(model.modalities, 8, seed=1).items()
    }


@pytest.mark.parametrize("swap", [False, True])
def test_the_displacement_grows_while_revised_samples_have_the_higher_energy_and_shrinks_otherwise(swap):
    model, state, _ = setup()
    model.data_chain = replace(model.data_chain, displacement_max=0.02)
    low, high = sorted(two_groups(model), key=lambda views: mean_energy(model, views))
    real, revised = (high, low) if swap else (low, high)
    model.displacement.fill_(0.005)
    gap = energy_step(state, real, revised)["energy/gap"]
    assert (gap > 0) == swap
    assert model.displacement.item() == pytest.approx(0.005 * math.exp(-0.02 if swap else 0.02), rel=1e-5)


@pytest.mark.parametrize(("swap", "bound"), [(False, 0.006), (True, 0.001)])
def test_the_displacement_stays_within_its_bounds_and_still_where_the_chain_is_not_displaced(swap, bound, monkeypatch):
    monkeypatch.setattr(energy, "STEER_RATE", 5.0)
    model, state, _ = setup()
    model.data_chain = replace(model.data_chain, displacement_max=0.006)
    low, high = sorted(two_groups(model), key=lambda views: mean_energy(model, views))
    real, revised = (high, low) if swap else (low, high)
    for chain in (model.data_chain, Langevin()):
        model.data_chain = chain
        energy_step(state, real, revised)
        assert model.displacement.item() == pytest.approx(bound)


def complete_ones(state, batch, present):
    """The items of the energy's positive phase where those with gaps are left out."""
    masked = Batch(mask_views(batch.views, present), present)
    return complete_items(state, state.model.inference(masked), masked, None, "skip")


def test_only_complete_items_enter_the_positive_phase_of_the_energy_where_gaps_are_left_out():
    """Against the loss by hand: five complete items of eight against all eight revised samples."""
    present = torch.ones(8, 3, dtype=torch.bool)
    present[[1, 4, 6], [0, 1, 2]] = False
    model, state, batch = setup()
    revised = random_views(model.modalities, 8, seed=9)
    metrics = energy_step(state, complete_ones(state, batch, present), revised)
    twin, _, _ = setup()
    energies = twin.energy({n: torch.cat([v[present.all(1)], revised[n]]) for n, v in batch.views.items()})
    gap = energies[:5].mean() - energies[5:].mean()
    gap.backward()
    assert metrics["energy/gap"] == pytest.approx(gap.item(), rel=1e-5)
    assert metrics["energy/data"] == pytest.approx(energies[:5].mean().item(), rel=1e-5)
    for got, expected in zip(model.energy.parameters(), twin.energy.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_one_complete_item_is_enough_and_gives_finite_metrics():
    model, state, batch = setup()
    present = torch.zeros(8, 3, dtype=torch.bool)
    present[3] = True
    metrics = energy_step(state, complete_ones(state, batch, present), batch.views)
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert metrics["energy/data_std"] == 0.0


def test_without_an_item_in_the_positive_phase_the_energy_rests():
    model, state, batch = setup()
    present = torch.tensor([[True, False, True]] * 8)
    before, displacement = parameters(model), model.displacement.clone()
    assert energy_step(state, complete_ones(state, batch, present), batch.views) == {}
    assert changed(model, before) == set()
    assert torch.equal(model.displacement, displacement)


@pytest.mark.parametrize(("gate", "swap", "rests"), [(1e-4, False, True), (1e-4, True, False), (0.0, False, False)])
def test_the_energy_waits_while_data_lie_further_below_revised_samples_than_the_gate(gate, swap, rests):
    """Steering goes on, and a gap of the other sign is never waited for."""
    model, state, _ = setup()
    low, high = sorted(two_groups(model), key=lambda views: mean_energy(model, views))
    real, revised = (high, low) if swap else (low, high)
    model.displacement.fill_(0.002)
    model.energy.gate = gate
    before, displacement = parameters(model), model.displacement.clone()
    metrics = energy_step(state, real, revised)
    assert (metrics["energy/gap"] < -1e-4) == (not swap)
    assert changed(model, before) == (set() if rests else {"energy"})
    assert metrics["energy/rests"] == float(rests)
    assert not torch.equal(model.displacement, displacement)


def test_the_penalty_is_of_the_squares_of_both_phases():
    ones, twos = torch.ones(4), torch.full((4,), 2.0)
    assert energy_loss(ones, twos, penalty=0.1).total.item() == pytest.approx((1 - 2) + 0.1 * (1 + 4))


def test_the_energy_lowers_data_and_raises_revised_samples():
    model, state, batch = setup()
    revised = random_views(model.modalities, 8, seed=9)
    gaps = [energy_step(state, batch.views, revised)["energy/gap"] for _ in range(30)]
    assert gaps[-1] < gaps[0]


def test_diagnostics_are_of_the_encoders_the_chains_and_the_samples_before_the_update():
    model, state, batch = setup()
    with torch.no_grad():
        scale = model.inference(batch).experts.scale
    metrics = take_step(state, batch, DEFAULT)
    assert metrics["encoder/scale_mean"] == pytest.approx(scale.mean().item(), rel=1e-5)
    assert metrics["encoder/scale_min"] == pytest.approx(scale.min().item(), rel=1e-5)
    shares = [metrics[f"responsibility_of/{i}"] for i in range(len(model.modalities))]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert min(shares) == metrics["responsibility/min"] > 0
    assert 0 <= metrics["latent_chain/acceptance"] <= 1


def test_the_spread_of_energies_is_that_of_generated_data_and_revised_samples(monkeypatch):
    model, state, batch = setup()
    runs = spy_on_data_chain(model, monkeypatch)
    energies = {}

    def at_the_end(s, b, revised):
        with torch.no_grad():
            views = {"generated": runs[0][0], "data": b, "revised": revised}
            energies.update({name: model.energy(view).std(correction=0).item() for name, view in views.items()})
        return energy_step(s, b, revised)

    monkeypatch.setattr(module, "energy_step", at_the_end)
    metrics = take_step(state, batch, DEFAULT)
    for name, expected in energies.items():
        # spectral norms take a step of power iteration in between
        assert metrics[f"energy/{name}_std"] == pytest.approx(expected, rel=1e-2)
