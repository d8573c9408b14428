"""Energies in both spaces: what the combined step is without a tilt, and the halves that settings take away."""

from dataclasses import replace

import pytest
import torch

import multiebm.training.phases.cooperative as module
from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.models.inference import SHARED
from multiebm.objectives.vae import vae_loss
from multiebm.training.codes import refine_codes
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from small_models import (
    LITERAL,
    energy_prior,
    make_state,
    mixed,
    random_views,
    small_model,
    take_step,
    whole,
)

DEFAULT = Cooperative()
MCMC = replace(LITERAL, inference=0.0, anchor=1.0, synthetic=0.0, inference_synthetic=0.0)
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()


def pair(family: str):
    """A model with a plain prior, and its twin with a tilt that is 0 and stays 0 and a chain of no step."""
    plain = small_model(mixed(), family=family, prior={"kind": family})
    tilted = small_model(mixed(), family=family, prior=energy_prior(steps=0))
    tilted.load_state_dict(plain.state_dict(), strict=False)
    tilted.generator.prior.in_bound = True
    torch.nn.init.zeros_(tilted.generator.prior.net[-1].weight)
    states = [make_state(model) for model in (plain, tilted)]
    states[1].optimisers["prior"].param_groups[0]["lr"] = 0.0
    return states


def assert_equal_parts(one, other):
    """Every parameter and buffer that the plain model has is the same bit for bit."""
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "incomplete"])
@pytest.mark.parametrize("family", ["normal", "laplace"])
@pytest.mark.parametrize(
    "settings",
    [LITERAL, DEFAULT, replace(LITERAL, negatives="refresh")],
    ids=["literal", "anchored", "refreshed"],
)
def test_a_combined_step_without_a_tilt_is_the_cooperative_step_bit_for_bit(settings, family, gaps):
    plain, tilted = pair(family)
    three_equal_steps(plain, tilted, settings, gaps)
    assert_equal_parts(plain.model, tilted.model)


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "incomplete"])
@pytest.mark.parametrize("positive", ["refined", "drawn"])
def test_on_a_fitted_base_it_is_the_step_of_the_mixture_alone_bit_for_bit(positive, gaps):
    """The base of the presets, fitted on the way as the mixture is; private latents have mixtures too.

    The tilt's step is that of the latent chain here: the larger of the two decides the base's ridge.
    """
    plain = small_model(mixed(), prior={"kind": "mixture", "components": 2}, private_components=2)
    tilted = small_model(mixed(), prior=energy_prior(steps=0, components=2, step_size=0.1), private_components=2)
    tilted.load_state_dict(at_the_base(plain), strict=False)
    torch.nn.init.zeros_(tilted.generator.prior.net[-1].weight)
    states = [make_state(model) for model in (plain, tilted)]
    states[1].optimisers["prior"].param_groups[0]["lr"] = 0.0
    three_equal_steps(*states, replace(DEFAULT, prior_codes=positive), gaps)
    theirs = tilted.state_dict()
    for name, tensor in at_the_base(plain).items():
        assert torch.equal(tensor, theirs[name]), name


def at_the_base(plain) -> dict[str, torch.Tensor]:
    """The weights of a model with a fitted mixture by the names they have beneath a tilt."""
    return {name.replace("generator.prior.", "generator.prior.base."): v for name, v in plain.state_dict().items()}


def three_equal_steps(plain, tilted, settings, gaps):
    for seed in range(3):
        batch = whole(random_views(mixed(), 8, seed))
        if gaps:
            batch = Batch(mask_views(batch.views, PRESENT), PRESENT)
        expected, got = (take_step(state, batch, settings) for state in (plain, tilted))
        assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_the_warm_ups_bound_without_a_tilt_is_that_of_the_plain_prior_bit_for_bit(family):
    """The loss and every gradient (a warm-up step also draws codes for the tilt, so its later draws are others)."""
    batch, found = whole(random_views(mixed(), 8)), []
    for state in pair(family):
        model = state.model
        posterior = model.inference(batch)
        prior = model.generator.prior.for_bound(learns=True)
        loss, _ = vae_loss(model.generator, prior, posterior, batch, make_generator(3), module.STRATIFIED, 1.3)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_without_a_tilt_every_answer_is_that_of_the_plain_prior(family):
    """Samples, completions, codes, chains and likelihoods, bit for bit, where nothing is given too; log Z is 0."""
    batch = whole(random_views(mixed(), 8))
    some = Batch(mask_views(batch.views, PRESENT), PRESENT)
    raw = {name: m.to_raw(batch.views[name]) for name, m in mixed().items()}
    plain, tilted = (
        {
            "sample": model.sample(6, seed=1),
            "impute": model.impute({"left": raw["left"]}, seed=1),
            "infer_latents": (start := model.infer_latents(some, make_generator(1))),
            "refine_latents": model.refine_latents(start, some, make_generator(2))[0],
            "log_joint": {"": model.generator.log_joint(some.views, start, some.present)},
            "log_likelihood": {"": model.log_likelihood(raw, samples=20)},
            "score": {"": model.score(raw)},
        }
        for model in (state.model.eval() for state in pair(family))
    )
    for question, answer in plain.items():
        for name, value in answer.items():
            assert torch.equal(value, tilted[question][name]), (question, name)


def test_the_anchor_never_teaches_the_tilt(monkeypatch):
    """Its own step left out, a tilt inside the anchor's bound has no gradient after a whole step."""
    monkeypatch.setattr(module, "prior_step", lambda *given: {})
    model, state, batch = setup()
    model.generator.prior.in_bound = True
    take_step(state, batch, DEFAULT)
    assert all(p.grad is None for p in model.generator.prior.parameters())


def setup(**sections):
    model = small_model(mixed(), **({"prior": energy_prior()} | sections))
    model.generator.prior.in_bound = True
    return model, make_state(model), whole(random_views(model.modalities, 8))


def moved_parts(model, step) -> set[str]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    return {"prior" if name.startswith("generator.prior") else name.split(".")[0] for name in moved}


def test_without_an_energy_the_step_is_the_latent_chains_half():
    model, state, batch = setup(energy=None)
    got: dict[str, float] = {}
    assert moved_parts(model, lambda: got.update(take_step(state, batch, MCMC))) == {
        "generator",
        "inference",
        "prior",
    }
    assert "latent_chain/gain" in got
    assert not [name for name in got if name.startswith(("energy/", "data_chain/"))]


def test_with_weight_0_the_inference_model_learns_from_the_anchor_alone():
    """Its gradient is that of the anchor by hand; with nll it is another."""
    gradients = {}
    for name, settings in {"elbo": MCMC, "nll": replace(MCMC, inference=1.0)}.items():
        model, state, batch = setup(energy=None)
        take_step(state, batch, settings)
        gradients[name] = [p.grad.clone() for p in model.inference.parameters()]
    model, state, batch = setup(energy=None)
    codes = refine_codes(
        state, model.inference(batch), batch, "random_expert"
    )  # draws what the step drew before its anchor
    assert codes.latents[SHARED].shape == (8, 3)
    posterior = model.inference(batch)
    prior = model.generator.prior.for_bound(learns=True)
    vae_loss(model.generator, prior, posterior, batch, state.rng, module.STRATIFIED)[0].backward()
    for got, p in zip(gradients["elbo"], model.inference.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(a, b) for a, b in zip(gradients["elbo"], gradients["nll"], strict=True))


def test_all_experts_start_a_chain_each_from_their_own_code():
    """Codes of hidden parts start none; with no step of the chain the codes are those of the experts, row by row."""
    model, state, batch = setup(latent_chain={"steps": 0})
    for shift, encoder in enumerate(model.inference.encoders.values()):  # experts 40 apart
        bias = [p for n, p in encoder.named_parameters() if n.endswith("bias")][-1]
        bias.data[:3] += 40 * shift
    batch = Batch(mask_views(batch.views, PRESENT), PRESENT)
    posterior = model.inference(batch)
    codes = refine_codes(state, posterior, batch, "all_experts")
    expert, item = PRESENT.T.nonzero(as_tuple=True)
    assert torch.equal(codes.item, item)
    assert torch.equal(codes.batch.present, PRESENT[item])
    assert len(codes.latents[SHARED]) == int(PRESENT.sum())
    loc, scale = posterior.experts.loc[expert, item], posterior.experts.scale[expert, item]
    apart = ((codes.latents[SHARED] - loc) / scale).detach()
    assert apart.abs().max() < 5  # standard normal, 42 numbers
    assert torch.equal((codes.latents[SHARED].mean(1) / 40).round().long(), expert)


def test_before_it_learns_a_tilt_is_in_no_bound():
    """It starts as a random function; the loss is that of a tilt of 0 until `prior_after`."""
    losses = []
    for zero in (True, False):
        for step in (4, 5):
            model, state, batch = setup(energy=None)
            if zero:
                torch.nn.init.zeros_(model.generator.prior.net[-1].weight)
            state.step = step
            losses.append(take_step(state, batch, Bound(prior_from=5))["loss/elbo"])
    assert losses[0] == losses[1] == losses[2]
    assert losses[3] != losses[0]


def test_the_positive_phase_of_all_experts_is_the_codes_of_every_expert(monkeypatch):
    seen, revised, prior_step, revise = [], [], module.prior_step, module.refine_codes
    monkeypatch.setattr(module, "prior_step", lambda s, up, down: seen.append(up) or prior_step(s, up, down))
    monkeypatch.setattr(module, "refine_codes", lambda *args: revised.append(revise(*args)) or revised[-1])
    _, state, batch = setup(energy=None)
    take_step(state, batch, replace(MCMC, positive_phase="all_experts"))
    take_step(state, batch, MCMC)
    assert [codes.shape for codes in seen] == [(24, 3), (8, 3)]
    assert all(torch.equal(up, codes.latents[SHARED]) for up, codes in zip(seen, revised, strict=True))
    assert revised[0].item.tolist() == [*range(8)] * 3  # every expert's code of every item
