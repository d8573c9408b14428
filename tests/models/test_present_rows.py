"""Networks work on the parts there are, and nothing else about a posterior, a bound or a chain's density changes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.core.tree import rows_of, rows_present, spread
from multiebm.models.generator import Generator
from multiebm.models.inference import SHARED
from multiebm.objectives.vae import BoundSettings, draw, log_likelihoods
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from small_models import energy_prior, make_state, mixed, random_views, small_model, take_step

PRESENT = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1]]).bool()
COUNTS = {"face": 4, "left": 1, "right": 3}  # nobody has the left part: one row stands in for it


def setup():
    model = small_model(mixed())
    return model, Batch(mask_views(random_views(model.modalities, len(PRESENT)), PRESENT), PRESENT)


def count_rows(networks):
    """Count the rows that each network is called with, over all calls."""
    seen: Counter[str] = Counter()
    for name, network in networks.items():
        network.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: len(given[0])}))
    return seen


def test_encoders_see_present_parts_and_absent_experts_are_the_base_density():
    model, batch = setup()
    seen = count_rows(model.inference.encoders)
    posterior = model.inference(batch)
    assert seen == COUNTS
    for i, (name, encoder) in enumerate(model.inference.encoders.items()):
        (loc, scale), (w_loc, w_scale) = encoder(batch.views[name])
        here = PRESENT[:, i, None]
        found = (posterior.experts.loc[i], posterior.experts.scale[i], *posterior.private[name][:2])
        for value, whole, absent in zip(found, (loc, scale, w_loc, w_scale), (0.0, 1.0, 0.0, 1.0), strict=True):
            torch.testing.assert_close(value, torch.where(here, whole, absent), rtol=1e-5, atol=1e-6)


def test_decoders_make_the_means_that_are_wanted():
    model, _ = setup()
    latents = model.sample_latents(len(PRESENT), make_generator(0))
    everything = model.decode(latents)
    seen = count_rows(model.generator.decoders)
    means = model.decode(latents, PRESENT)
    assert seen == COUNTS
    for i, (name, mean) in enumerate(means.items()):
        assert mean[~PRESENT[:, i]].abs().sum() == 0
        torch.testing.assert_close(mean[PRESENT[:, i]], everything[name][PRESENT[:, i]], rtol=1e-5, atol=1e-6)


def test_filling_decodes_the_absent_parts_alone():
    model, batch = setup()
    seen = count_rows(model.generator.decoders)
    model.fill(batch, model.sample_latents(len(PRESENT), make_generator(0)))
    assert seen == {"face": 2, "left": 6, "right": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"components": "one"},
        {"components": "all"},
        {"components": "all", "unseen": "skipped"},
        {"components": "all", "estimator": "iwae", "samples": 3},
        {"components": "all", "estimator": "predictive", "samples": 3},
        {"components": "one", "estimator": "predictive", "samples": 3},
    ],
    ids=str,
)
def test_a_bound_has_the_terms_and_gradients_of_decoding_everything(settings):
    """Against every decoder on every draw, terms of absent parts put to 0 afterwards."""
    model, batch = setup()
    s = BoundSettings(**settings)
    generator, results = model.generator, []
    for everything in (False, True):
        posterior = model.inference(batch)
        drawn = draw(generator, generator.prior, posterior, batch, make_generator(1), s)
        n, c, b = drawn.log_ratio.shape
        if everything:
            flat = {key: value.flatten(0, 2) for key, value in drawn.latents.items()}
            views = {name: view.repeat(n * c, *[1] * (view.dim() - 1)) for name, view in batch.views.items()}
            log_px = generator.log_likelihood(views, generator(flat)).view(n, c, b, -1)
            log_px = torch.where(drawn.seen if s.unseen == "skipped" else PRESENT, log_px, 0.0)
        else:
            log_px = log_likelihoods(generator, drawn, batch, s)
        model.zero_grad()
        log_px.logsumexp(0).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((log_px.detach(), gradients))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    nobodys = {name for name in results[1][1] if name.startswith("generator.") and ".left" in name}
    assert results[1][1].keys() - results[0][1].keys() == nobodys
    largest = max(gradient.abs().max().item() for gradient in results[1][1].values())
    for name, gradient in results[1][1].items():
        found = results[0][1].get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6 * largest)


def test_the_density_of_the_latent_chain_decodes_present_parts_alone():
    model, batch = setup()
    latents = model.sample_latents(len(PRESENT), make_generator(0))
    terms = torch.where(PRESENT, model.generator.log_likelihood(batch.views, model.decode(latents)), 0.0).sum(1)
    prior = model.generator.prior.log_prob(latents[SHARED])
    prior = prior + sum(model.generator.private_priors[name].log_prob(latents[name]) for name in model.modalities)
    seen = count_rows(model.generator.decoders)
    torch.testing.assert_close(model.generator.log_joint(batch.views, latents, PRESENT), prior + terms)
    assert seen == {"face": 4, "right": 3}


SETTINGS = {
    "default": Cooperative(),
    "codes and anchor": Cooperative(reconstruction=1.0, synthetic="balance"),
    "every expert": Cooperative(reconstruction=1.0, positive_phase="all_experts"),
    "anchor alone": Cooperative(reconstruction=0.0),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_cooperative_step_is_that_of_decoding_everything(name, monkeypatch):
    """Metrics, and weights after the step, where decoders that are asked for some parts give them all."""
    results = []
    for everything in (False, True):
        model, batch = setup()
        if everything:
            forward = Generator.forward
            monkeypatch.setattr(Generator, "forward", lambda self, z, wanted=None, whole=forward: whole(self, z))
        metrics = take_step(make_state(model), batch, SETTINGS[name])
        results.append((metrics, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4, abs=1e-5)
    largest = max(gradient.abs().max().item() for gradient in results[1][1].values())
    for parameter, gradient in results[1][1].items():
        found = results[0][1].get(parameter, torch.zeros_like(gradient))
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5 * largest)


PRIORS = {"normal": {"kind": "normal"}, "energy": energy_prior(), "mixture": energy_prior(components=2)}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ["warm-up", *SETTINGS])
def test_steps_on_items_without_any_part_teach_the_inference_model_nothing(name, prior):
    """The batch has a loss too, with a gradient of 0; what the energy's samples teach is switched off."""
    model = small_model(mixed(), prior=PRIORS[prior], private_components=2)
    absent = torch.zeros_like(PRESENT)
    batch = Batch(mask_views(random_views(model.modalities, len(absent)), absent), absent)
    before = {name: p.clone() for name, p in model.inference.named_parameters()}
    if name == "warm-up":
        metrics = take_step(make_state(model), batch, Bound(prior_from=0))
        assert metrics["loss/elbo"] == 0
    else:
        metrics = take_step(make_state(model), batch, replace(SETTINGS[name], inference_synthetic=0.0))
    assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert all(torch.equal(p, before[name]) for name, p in model.inference.named_parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_an_encoder_of_a_part_that_nobody_has_stays_as_it_is():
    model, batch = setup()
    before = {name: p.clone() for name, p in model.inference.named_parameters()}
    take_step(make_state(model), batch, Bound())
    moved = {name.split(".")[1] for name, p in model.inference.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"face", "right"}


def test_rows_of_and_spread_are_inverse_where_rows_are_and_fill_elsewhere():
    present = torch.tensor([[0, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]]).bool()
    some, whole, none = rows_present(present)
    x = torch.arange(8.0).view(4, 2)
    assert some.tolist() == [1, 2]
    assert whole is None
    assert none.tolist() == []
    assert rows_of(x, some).tolist() == [[2, 3], [4, 5]]
    assert spread(rows_of(x, some), some, 4, 7.0).tolist() == [[7, 7], [2, 3], [4, 5], [7, 7]]
    assert rows_of(x, None) is x
    assert spread(x, None, 4) is x
    assert rows_of(x, none).tolist() == [[0, 1]]  # networks want a row
    assert spread(rows_of(x, none), none, 4).tolist() == [[0, 0]] * 4
