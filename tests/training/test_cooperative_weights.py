"""lambda_s, the optimisers' parts and rates: what the settings of a step mean."""

from dataclasses import replace

import pytest
import torch

from multiebm.training.codes import RefinedSamples
from small_models import LITERAL, energy_prior, make_state, mixed, random_views, small_model, take_step, whole


def setup(**sections):
    model = small_model(mixed(), **sections)
    return model, make_state(model), whole(random_views(model.modalities, 8))


def constant_views(model, value: float, n: int = 8):
    return {name: torch.full((n, *m.shape), value) for name, m in model.modalities.items()}


def weight(state, batch, own, revised, x0, **changes) -> float:
    samples = RefinedSamples(z := {"shared": torch.zeros(8, 3)}, z, x0, revised)
    return replace(LITERAL, **changes)._lambda_s(state, batch, own, samples)


def test_a_fixed_lambda_s_is_itself():
    model, state, batch = setup()
    zero = constant_views(model, 0.0)
    assert weight(state, batch, zero, zero, zero, synthetic=50.0) == 50.0
    assert "residual/synthetic" not in state.numbers


def test_balance_divides_running_residuals_after_taking_off_the_noise_floor():
    """D = 197 coordinates, K = 3 steps, n = 0.1: the floor is 5.91. Residuals 197 * 1 and 197 * 0.3^2 = 17.73."""
    model, state, _ = setup(data_chain={"steps": 3, "kind": "displaced", "noise_scale": 0.1})
    size = sum(m.size for m in model.modalities.values())
    assert size == 197
    zero, one, near = (constant_views(model, v) for v in (0.0, 1.0, 0.3))
    first = weight(state, whole(one), zero, near, zero, synthetic="balance")
    assert first == pytest.approx(197 / (17.73 - 5.91), rel=1e-4)
    second = weight(state, whole(constant_views(model, 2.0)), zero, near, zero, synthetic="balance")
    recon = 0.99 * 197 + 0.01 * 4 * 197
    assert state.numbers["residual/reconstruction"] == pytest.approx(recon, rel=1e-5)
    assert second == pytest.approx(recon / (17.73 - 5.91), rel=1e-4)


def test_balance_is_clipped_where_the_chain_adds_only_noise():
    model, state, batch = setup(data_chain={"steps": 3, "kind": "displaced", "noise_scale": 0.1})
    zero, tiny = constant_views(model, 0.0), constant_views(model, 0.01)
    assert weight(state, batch, zero, tiny, zero, synthetic="balance") == 70.0


def test_the_weight_of_a_step_is_reported():
    _, state, batch = setup()
    assert take_step(state, batch, replace(LITERAL, synthetic=7.0))["weight/synthetic"] == 7.0
    assert 1.0 <= take_step(state, batch, replace(LITERAL, synthetic="balance"))["weight/synthetic"] <= 70.0


def decoder_gradient(**changes) -> torch.Tensor:
    _, state, batch = setup()
    take_step(state, batch, replace(LITERAL, **changes))
    return torch.cat([p.grad.flatten() for p in state.model.generator.decoders.parameters()])


def test_weights_enter_the_generators_gradient_linearly():
    recon = decoder_gradient(reconstruction=1.0, synthetic=0.0)
    synthetic = decoder_gradient(reconstruction=0.0, synthetic=1.0)
    both = decoder_gradient(reconstruction=0.5, synthetic=3.0)
    torch.testing.assert_close(both, 0.5 * recon + 3 * synthetic, rtol=1e-3, atol=1e-3 * both.abs().max().item())
    assert synthetic.abs().max() > 0


def test_each_optimiser_owns_its_part_and_every_parameter_has_one_owner():
    model, state, _ = setup(prior=energy_prior())
    owner = {}
    for name, optimiser in state.optimisers.items():
        for group in optimiser.param_groups:
            for p in group["params"]:
                assert id(p) not in owner
                owner[id(p)] = name
    for name, p in model.named_parameters():
        part = "prior" if name.startswith("generator.prior") else name.split(".")[0]
        assert owner[id(p)] == part


def test_a_model_with_a_standard_prior_has_no_optimiser_for_it():
    _, state, _ = setup()
    assert set(state.optimisers) == {"generator", "inference", "energy"}


def test_the_metrics_of_a_step_say_what_the_chains_did():
    model, state, batch = setup(data_chain={"steps": 3, "kind": "displaced", "noise_scale": 0.002})
    metrics = take_step(state, batch, LITERAL)
    assert metrics["energy/drop"] == pytest.approx(metrics["energy/generated"] - metrics["energy/refined"], abs=1e-5)
    assert metrics["energy/drop"] > 0
    assert metrics["data_chain/noise_floor_rms"] == pytest.approx(3**0.5 * 0.002)
    step = metrics["data_chain/displacement"]
    assert step == pytest.approx(0.004)
    assert 0 < metrics["data_chain/move_rms"] < 3 * step + 3 * 3**0.5 * 0.002
    assert {f"log_likelihood/{name}" for name in model.modalities} <= metrics.keys()
