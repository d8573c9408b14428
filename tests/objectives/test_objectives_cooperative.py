"""The parts of the three losses that are plain arithmetic."""

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import make_generator
from multiebm.objectives.cooperative import balanced_weight, inference_loss, squared_residuals
from multiebm.objectives.settings import BoundSettings
from multiebm.objectives.vae import Draw, bound_loss
from small_models import random_views, small_model, vectors, whole

PRESENT = torch.tensor([[True, True], [True, False], [True, False]])


def test_squared_residuals_are_sums_over_an_item_and_means_over_the_items_that_have_the_part():
    views = {"a": torch.zeros(3, 2), "b": torch.zeros(3, 1, 2)}
    means = {"a": torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]]), "b": torch.full((3, 1, 2), 3.0)}
    assert squared_residuals(views, means, PRESENT).tolist() == [2.0, 18.0]


@pytest.mark.parametrize(
    ("recon", "synthetic", "floor", "expected"),
    [
        (60.0, 5.0, 2.0, 20.0),  # R_rec / (R_syn - floor)
        (1.0, 5.0, 2.0, 1.0),  # never below 1
        (1e4, 5.0, 2.0, 70.0),  # never above 70
        (10.0, 2.0, 2.0, 70.0),  # at the noise floor the chain adds nothing but noise
        (10.0, 1.0, 2.0, 70.0),  # and below it, by chance
    ],
)
def test_lambda_s_is_the_ratio_of_residuals_less_the_noise_floor_clipped_to_1_and_70(recon, synthetic, floor, expected):
    assert balanced_weight(recon, synthetic, floor) == pytest.approx(expected)


def posterior_of(model, batch):
    q, latents = model.inference(batch), model.sample_latents(len(batch.present), make_generator(0))
    return q, latents, q.shared.log_prob(latents["shared"]) - q.shared.mean_log_prob(latents["shared"])


def test_without_a_mix_the_inference_loss_is_minus_the_mean_of_log_q():
    log_q, gap = torch.tensor([1.0, 4.0]), torch.tensor([100.0, 200.0])
    assert inference_loss(log_q, gap).item() == -2.5


def test_the_mix_is_the_convex_combination_of_section_5_3_with_private_terms_whole():
    """-(1 - eta) log q(z | X) - eta / M sum_k log q_k(z | x_k) - sum_m log q_m(w_m | x_m)."""
    model, eta = small_model(vectors(a=2, b=3), energy=None), 0.3
    batch = whole(random_views(model.modalities, 5))
    q, latents, gap = posterior_of(model, batch)
    z = latents["shared"]
    private = sum(q.private[name].log_prob(latents[name]) for name in ("a", "b"))
    expected = -((1 - eta) * q.shared.log_prob(z) + eta * q.shared.component_log_prob(z).mean(0) + private).mean()
    torch.testing.assert_close(inference_loss(q.log_prob(latents, batch.present), gap, eta), expected)
    assert (gap > 0).all()  # Jensen


def test_the_mix_runs_over_the_experts_that_are_present():
    model, eta = small_model(vectors(a=2, b=3, c=2), private=0, energy=None), 0.3
    present = torch.tensor([[True, False, True]] * 4)
    batch = Batch(mask_views(random_views(model.modalities, 4), present), present)
    q, latents, gap = posterior_of(model, batch)
    components = q.shared.component_log_prob(latents["shared"])[[0, 2]]
    log_q = components.logsumexp(0) - torch.tensor(2.0).log()
    expected = -((1 - eta) * log_q + eta * components.mean(0)).mean()
    torch.testing.assert_close(inference_loss(q.log_prob(latents, present), gap, eta), expected)


def test_the_mix_keeps_an_expert_with_no_responsibility_learning():
    model = small_model(vectors(a=2, b=2), private=0, energy=None)
    batch = whole(random_views(model.modalities, 1))
    gradients = []
    for eta in (0.0, 0.1):
        q = model.inference(batch)
        loc = q.shared.loc
        z = loc[0].detach()  # at the first expert; the second is moved far away
        far = q.shared._replace(loc=torch.stack([loc[0], loc[1] + 100]))
        loss = inference_loss(far.log_prob(z), far.log_prob(z) - far.mean_log_prob(z), eta)
        gradients.append(torch.autograd.grad(loss, loc)[0][1].abs().max().item())
    assert gradients[0] == 0
    assert gradients[1] > 1


def test_the_bound_sums_what_is_present_and_weighs_the_ratio_by_beta():
    log_likelihood = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan], [-4.0, -torch.inf]])
    known = torch.where(PRESENT, log_likelihood, 0.0)[None, None]
    drawn = Draw({}, {}, torch.tensor([[[0.5, 1.0, 1.5]]]), torch.zeros(1, 3), PRESENT[None])
    loss = bound_loss(known, drawn, None, None, PRESENT, BoundSettings(), 2.0)  # neither prior nor posterior is asked
    assert loss.item() == pytest.approx((3 + 3 + 4 - 2 * 3.0) / 3)
