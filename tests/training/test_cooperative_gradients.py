"""The gradient-flow table (section 5.4): which loss reaches which parameters, and that nothing passes a kernel."""

from dataclasses import replace

import pytest
import torch

import multiebm.training.phases.cooperative as module
from multiebm.core.random import make_generator
from multiebm.nn.spectral import frozen
from multiebm.objectives.cooperative import inference_loss
from multiebm.objectives.vae import vae_loss
from multiebm.training.codes import prior_step, refine_codes
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.energy import energy_step
from small_models import (
    LITERAL,
    clear_gradients,
    energy_prior,
    make_state,
    mixed,
    parameters_with_gradient,
    random_views,
    small_model,
    take_step,
    whole,
)


def setup(**sections):
    model = small_model(mixed(), **({"prior": energy_prior()} | sections))
    return model, make_state(model), whole(random_views(model.modalities, 8))


def names(model, part: str) -> set[str]:
    """Parameters of one part: omega, phi, theta or alpha."""
    prefix = {"omega": "generator.", "phi": "inference.", "theta": "energy.", "alpha": "generator.prior."}[part]
    found = {name for name, _ in model.named_parameters() if name.startswith(prefix)}
    return found - names(model, "alpha") if part == "omega" else found


def auxiliary(model) -> set[str]:
    return {name for name, _ in model.named_parameters() if "auxiliary" in name}


def revised_sample(model, n: int = 8):
    x0 = model.generator(model.sample_latents(n, make_generator(1)))
    return model.refine_data(x0, make_generator(2))[0]


def test_l_theta_reaches_the_energy_and_nothing_else():
    model, state, batch = setup()
    energy_step(state, batch.views, revised_sample(model))
    assert parameters_with_gradient(model) == names(model, "theta")


def test_l_alpha_reaches_the_tilt_and_nothing_else():
    model, state, batch = setup()
    codes, _ = model.inference(batch).sample(make_generator(0))
    assert codes["shared"].requires_grad
    prior_step(state, codes["shared"], model.sample_latents(8, make_generator(0))["shared"])
    assert parameters_with_gradient(model) == names(model, "alpha")


@pytest.mark.parametrize("what", ["reconstruction", "synthetic"])
def test_either_half_of_l_omega_reaches_the_decoders_and_nothing_else(what):
    """-log p(X | z~) and -log p(X~ | z): fresh forward passes of the decoders; codes and revised data are constants."""
    model, state, batch = setup()
    g = state.rng
    posterior = model.inference(batch)
    z = model.sample_latents(8, g)
    x0 = model.generator(z)
    revised, _ = model.refine_data(x0, g)
    codes = refine_codes(state, posterior, batch, "random_expert")
    if what == "reconstruction":
        loss = -model.generator.log_likelihood(batch.views, model.generator(codes.latents)).sum()
    else:
        loss = -model.generator.log_likelihood(revised, x0).sum()
    loss.backward()
    assert parameters_with_gradient(model) == names(model, "omega") - auxiliary(model)


def test_l_phi_reaches_the_encoders_and_nothing_else():
    model, state, batch = setup()
    posterior = model.inference(batch)
    z = model.sample_latents(8, state.rng)
    revised, _ = model.refine_data(model.generator(z), state.rng)
    codes = refine_codes(state, posterior, batch, "random_expert")
    log_q = codes.posterior.log_prob(codes.latents, batch.present)
    log_qs = model.inference(whole(revised)).log_prob(z, batch.present)
    inference_loss(log_q, 1.0, log_qs, LITERAL.inference_synthetic).backward()
    assert parameters_with_gradient(model) == names(model, "phi")


@pytest.mark.parametrize("tilt", [False, True])
def test_the_warm_up_bound_reaches_decoders_and_encoders_and_never_the_tilt(tilt):
    model, state, batch = setup()
    posterior = model.inference(batch)
    model.generator.prior.in_bound = tilt
    prior = model.generator.prior.for_bound(learns=True)
    loss, _ = vae_loss(model.generator, prior, posterior, batch, state.rng, module.STRATIFIED)
    loss.backward()
    assert parameters_with_gradient(model) == names(model, "omega") | names(model, "phi")


def test_the_tilt_in_the_bound_moves_the_encoders_gradient():
    gradients = []
    for in_bound in (False, True):
        model, state, batch = setup()
        model.generator.prior.in_bound = in_bound
        take_step(state, batch, Bound(prior_from=0))
        gradients.append([p.grad for p in model.inference.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_tilt_in_the_anchor_moves_the_encoders_gradient_and_no_decoders():
    found = []
    for tilt in (False, True):
        model, state, batch = setup()
        model.generator.prior.in_bound = tilt
        take_step(state, batch, replace(LITERAL, anchor=1.0))
        found.append([[p.grad for p in part.parameters()] for part in (model.inference, model.generator.decoders)])
    assert any(not torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_the_literal_step_leaves_the_auxiliary_scales_alone_and_the_anchor_does_not():
    for anchor in (0.0, 1.0):
        model, state, batch = setup()
        take_step(state, batch, replace(LITERAL, anchor=anchor))
        got = parameters_with_gradient(model)
        everything = {name for name, _ in model.named_parameters()}
        assert got == (everything if anchor else everything - auxiliary(model))


def by_hand(model, state, batch, lambda_s: float, lambda_i: float):
    """Section 6, with every loss on its own graph and three separate backward passes."""
    g = state.rng
    complete = batch.present
    with torch.no_grad():
        z = model.sample_latents(8, g)
    revised, _ = model.refine_data(model.decode(z), g)
    with torch.no_grad():
        z0, _ = model.inference(batch).sample(g)
    refined, _ = model.refine_latents(z0, batch, g)

    def log_p(views, latents):
        return model.generator.log_likelihood(views, model.generator(latents)).sum(1).mean()

    def log_q(views, latents):
        return model.inference(whole(views)).log_prob(latents, complete).mean()

    (-log_p(batch.views, refined) - lambda_s * log_p(revised, z)).backward()
    (-log_q(batch.views, refined) - lambda_i * log_q(revised, z)).backward()
    # one forward pass of both phases: in training mode each pass is a power iteration
    energies = model.energy({n: torch.cat([batch.views[n], revised[n]]) for n in revised})
    (energies[:8].mean() - energies[8:].mean()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("private", [0, 2])
def test_one_literal_step_has_the_gradients_of_the_three_losses_taken_separately(private):
    model, state, batch = setup(private=private, prior={"kind": "normal"})
    settings = replace(LITERAL, synthetic=2.0, inference_synthetic=0.3)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    position = state.rng.get_state()
    expected = by_hand(model, state, batch, 2.0, 0.3)
    with torch.no_grad():
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
    state.rng.set_state(position)
    clear_gradients(model)
    take_step(state, batch, settings)
    assert parameters_with_gradient(model) == expected.keys()
    for name, p in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-3, atol=1e-4 * float(expected[name].abs().max()))


def test_refined_samples_send_nothing_back_to_the_encoders():
    """z and X~ of the data chain are constants: lambda_s does not touch phi."""
    gradients = []
    for synthetic in (0.0, 100.0):
        model, state, batch = setup()
        take_step(state, batch, replace(LITERAL, synthetic=synthetic))
        gradients.append([p.grad for p in model.inference.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_chains_alone_give_no_parameter_a_gradient():
    model, state, batch = setup()
    revised_sample(model)
    refine_codes(state, model.inference(batch), batch, "random_expert")
    assert parameters_with_gradient(model) == set()


def test_a_step_updates_each_power_iteration_once_and_restores_every_flag():
    """One forward pass of the energy in training mode; the chains, in evaluation mode, leave the vectors alone."""
    model, state, batch = setup()
    norms = [m for n, m in model.energy.named_modules() if n.endswith("parametrizations.weight.0")]
    calls = [0] * len(norms)
    for i, norm in enumerate(norms):
        inner = norm._power_method

        def counted(*args, i=i, inner=inner):
            calls[i] += 1
            return inner(*args)

        norm._power_method = counted
    take_step(state, batch, LITERAL)
    assert len(norms) > 10
    assert calls == [1] * len(norms)
    assert all(p.requires_grad for p in model.parameters())
    assert all(part.training for part in model.modules())


def test_the_energys_forward_in_its_loss_is_in_training_mode_and_one_pass_over_both_phases():
    model, state, batch = setup()
    seen = []
    model.energy.register_forward_hook(lambda net, args, out: seen.append((net.training, len(out))))
    energy_step(state, batch.views, revised_sample(model))
    assert [s for s in seen if s[0]] == [(True, 16)]


def test_frozen_in_a_bound_draw_gives_the_prior_its_flags_back():
    model, _, _ = setup()
    with frozen(model.generator.prior):
        assert not any(p.requires_grad for p in model.generator.prior.parameters())
        assert all(p.requires_grad for p in model.generator.decoders.parameters())
    assert all(p.requires_grad for p in model.parameters())
