"""Linear decoders make every posterior a Gaussian; the latent chain must have its mean, and its covariance up to the
known bias of the unadjusted chain, 1 / (1 - s^2 lambda / 4) in every eigen-direction of the precision lambda."""

import math
from dataclasses import replace

import pytest
import torch

from multiebm.core.batch import Batch
from multiebm.core.random import make_generator
from multiebm.core.tree import per_item
from multiebm.models.model import MultimodalModel
from small_models import linear_model, random_views, whole

SIZES = {"a": 2, "b": 3, "c": 2}
SIGMA, CHAINS, STEP = 0.8, 20_000, 0.35
SIGMAS = 4.5  # with at most 25 numbers compared in a test: false alarm < 25 * 7e-6 < 2e-4; 4 numbers: < 3e-5


def exact_posterior(model: MultimodalModel, views, observed: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and precision over (z, W), W in the order of the modalities, given the first item's observed parts.

    Lambda = I + sum_m A_m^T A_m / sigma^2, mean = Lambda^-1 sum_m A_m^T (x_m - c_m) / sigma^2 (section 14.2).
    """
    d, p = model.generator.prior.dim, model.generator.private
    names = list(model.modalities)
    total = d + p * len(names)
    precision, linear = torch.eye(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    for i, name in enumerate(names):
        if name not in observed:
            continue
        decoder, weight = model.generator.decoders[name], model.generator.likelihoods[name].weight
        columns = list(range(d)) + list(range(d + i * p, d + (i + 1) * p))
        matrix = torch.zeros(model.modalities[name].size, total, dtype=torch.float64)
        matrix[:, columns] = decoder.matrix.detach().double()
        residual = views[name][0].double() - decoder.offset.detach().double()
        precision += weight * matrix.T @ matrix / SIGMA**2
        linear += weight * matrix.T @ residual / SIGMA**2
    return torch.linalg.solve(precision, linear), precision


def joint(model: MultimodalModel, latents) -> torch.Tensor:
    return torch.cat([latents["shared"], *(latents[n] for n in model.modalities if n in latents)], 1).double()


def chains(model: MultimodalModel, views, present: torch.Tensor, steps: int):
    """Ends of CHAINS latent chains for the first item, all from the origin."""
    repeated = {name: view[:1].expand(CHAINS, -1) for name, view in views.items()}
    latents = {k: v.expand(CHAINS, -1) * 0 for k, v in model.sample_latents(1, make_generator(0)).items()}
    return model.refine_latents(latents, Batch(repeated, present), make_generator(1), steps)[0]


def assert_gaussian(draws: torch.Tensor, mean: torch.Tensor, precision: torch.Tensor, step: float):
    values, directions = torch.linalg.eigh(precision)
    assert step**2 * values.max() < 4  # else the chain would diverge
    variance = 1 / (values * (1 - step**2 * values / 4))
    centred = (draws - mean) @ directions
    n = len(draws)
    assert (centred.mean(0).abs() < SIGMAS * (variance / n).sqrt()).all()
    assert ((centred.var(0) / variance - 1).abs() < SIGMAS * (2 / n) ** 0.5).all()
    correlation = torch.corrcoef(centred.T) - torch.eye(len(values))
    assert correlation.abs().max() < SIGMAS / n**0.5


@pytest.mark.parametrize("observed", [["a", "b", "c"], ["a", "c"], ["b"], []])
def test_the_chain_has_mean_and_covariance_of_the_subset_posterior(observed):
    """Eqs. (8) and (17), 14.2."""
    model = linear_model(SIZES, shared=2, scale=SIGMA, latent_chain={"steps": 3, "step_size": STEP})
    views = random_views(model.modalities, 1, seed=3)
    present = torch.tensor([name in observed for name in SIZES]).expand(CHAINS, -1)
    mean, precision = exact_posterior(model, views, observed)
    slowest = 1 - STEP**2 * torch.linalg.eigvalsh(precision).min().item() / 2
    steps = math.ceil(math.log(1e-4) / math.log(slowest))
    assert_gaussian(joint(model, chains(model, views, present, steps)), mean, precision, STEP)


def test_items_with_different_presence_in_one_batch_have_their_own_posteriors():
    model = linear_model(SIZES, shared=2, scale=SIGMA, latent_chain={"steps": 3, "step_size": STEP})
    views = random_views(model.modalities, 1, seed=3)
    subsets = [["a", "b", "c"], ["c"]]
    present = torch.tensor([[name in subsets[i % 2] for name in SIZES] for i in range(CHAINS)])
    end = joint(model, chains(model, views, present, 120))
    for i, observed in enumerate(subsets):
        assert_gaussian(end[i::2], *exact_posterior(model, views, observed), STEP)


def test_with_private_latents_the_chain_samples_their_joint_posterior():
    """Eq. (16): the precision couples z with every w_m, and the w_m with each other only through z."""
    model = linear_model(SIZES, shared=2, private=1, scale=SIGMA, latent_chain={"steps": 3, "step_size": STEP})
    views = random_views(model.modalities, 1, seed=3)
    mean, precision = exact_posterior(model, views, list(SIZES))
    assert precision[2, 3] == precision[3, 4] == 0
    present = torch.ones(CHAINS, 3, dtype=torch.bool)
    assert_gaussian(joint(model, chains(model, views, present, 150)), mean, precision, STEP)


def test_the_weight_of_a_modality_multiplies_its_evidence():
    model = linear_model(SIZES, shared=2, scale=SIGMA, latent_chain={"steps": 3, "step_size": STEP})
    like = model.generator.likelihoods
    like["a"] = replace(like["a"], weight=0.25)
    views = random_views(model.modalities, 1, seed=3)
    present = torch.tensor([[True, False, False]]).expand(CHAINS, -1)
    mean, precision = exact_posterior(model, views, ["a"])
    assert_gaussian(joint(model, chains(model, views, present, 150)), mean, precision, STEP)


def test_the_gradient_of_the_joint_density_is_the_sum_of_the_parts():
    """Section 9: grad_z = sum_m grad log p(x_m | z, w_m) - z, and grad_w_m = grad log p(x_m | z, w_m) - w_m."""
    model = linear_model(SIZES, shared=2, private=1, scale=SIGMA)
    views = random_views(model.modalities, 4, seed=3)
    latents = {k: v.requires_grad_() for k, v in model.sample_latents(4, make_generator(0)).items()}
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    value = model.generator.log_joint(views, latents, present)
    grads = dict(zip(latents, torch.autograd.grad(value.sum(), list(latents.values())), strict=True))
    expected = {key: -latent.detach() for key, latent in latents.items()}
    for i, name in enumerate(SIZES):
        decoder = model.generator.decoders[name]
        mean = model.generator.decode(latents, name).detach()
        pull = per_item(present[:, i], mean) * (views[name] - mean) / SIGMA**2 @ decoder.matrix.detach()
        expected["shared"] = expected["shared"] + pull[:, :2]
        expected[name] = expected[name] + pull[:, 2:]
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-4, atol=1e-5)


def test_the_value_of_the_joint_density_is_that_of_the_gaussians():
    model = linear_model(SIZES, shared=2, private=1, scale=SIGMA)
    views = random_views(model.modalities, 3, seed=3)
    latents = model.sample_latents(3, make_generator(0))
    standard = torch.distributions.Normal(0.0, 1.0)
    expected = sum(standard.log_prob(latent).sum(1) for latent in latents.values())
    for name in SIZES:
        mean = model.generator.decode(latents, name).detach()
        expected = expected + torch.distributions.Normal(mean, SIGMA).log_prob(views[name]).sum(1)
    got = model.generator.log_joint(views, latents, whole(views).present).detach()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
