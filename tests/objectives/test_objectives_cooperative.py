"""The parts of the three losses that are plain arithmetic."""

import pytest
import torch

from multiebm.objectives.cooperative import balanced_weight, generator_loss, inference_loss, squared_residuals
from multiebm.objectives.vae import BoundSettings, Draw, bound_loss

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


def test_the_losses_of_generator_and_inference_are_weighed_means():
    log_px, log_ps = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan], [-4.0, -torch.inf]]), torch.tensor([[1.0, 3.0]])
    assert generator_loss(log_px, PRESENT, 0.5, None, 9.0).item() == pytest.approx(0.5 * 10 / 3)
    assert generator_loss(log_px, PRESENT, 0.5, log_ps, 2.0).item() == pytest.approx(0.5 * 10 / 3 - 2 * 4)
    log_q = torch.tensor([1.0, 4.0])
    assert inference_loss(log_q, 1.0, None, 9.0).item() == -2.5
    assert inference_loss(log_q, 2.0, torch.tensor([3.0]), 0.1).item() == pytest.approx(-2 * 2.5 - 0.1 * 3)


def test_the_bound_sums_what_is_present_and_weighs_the_ratio_by_beta():
    log_likelihood = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan], [-4.0, -torch.inf]])
    known = torch.where(PRESENT, log_likelihood, 0.0)[None, None]
    drawn = Draw({}, {}, torch.tensor([[[0.5, 1.0, 1.5]]]), torch.zeros(1, 3), PRESENT[None])
    loss = bound_loss(known, drawn, None, None, PRESENT, BoundSettings(), 2.0)  # neither prior nor posterior is asked
    assert loss.item() == pytest.approx((3 + 3 + 4 - 2 * 3.0) / 3)
