"""The two chains of a model: which density, which step, what is held fixed, and what is left alone."""

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator, randn
from multiebm.models.model import MultimodalModel
from small_models import energy_prior, mixed, random_views, small_model, vectors, whole

SIZES = {"a": 2, "b": 3, "c": 2}


def energy_gradient(model: MultimodalModel, views):
    asked = {name: view.clone().requires_grad_() for name, view in views.items()}
    model.eval()
    grads = torch.autograd.grad(model.energy(asked).sum(), list(asked.values()))
    model.train()
    return dict(zip(views, grads, strict=True))


def test_the_data_chain_with_raw_steps_descends_the_energy_by_eq_3():
    chain = {"steps": 2, "kind": "langevin", "step_size": 0.6, "noise_scale": 0.05}
    model = small_model(mixed(), data_chain=chain)
    views = random_views(model.modalities, 4)
    end, info = model.refine_data(views, make_generator(3))
    g, x = make_generator(3), views
    for _ in range(2):
        grad = energy_gradient(model, x)
        x = {n: v - 0.5 * 0.6**2 * grad[n] + 0.05 * randn(g, v.shape, v) for n, v in x.items()}
    for name in views:
        torch.testing.assert_close(end[name], x[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(info.logdensity[-1], -model.eval().energy(end), rtol=1e-4, atol=1e-5)


def test_a_displaced_data_chain_moves_every_item_by_the_models_displacement_down_the_energy():
    model = small_model(mixed(), data_chain={"steps": 1, "kind": "displaced", "noise_scale": 0.0})
    model.displacement.fill_(0.02)
    views = random_views(model.modalities, 6)
    end, info = model.refine_data(views, make_generator(0))
    size = sum(m.size for m in model.modalities.values())
    move = torch.cat([(end[n] - views[n]).flatten(1) for n in views], 1)
    torch.testing.assert_close(move.norm(dim=1), torch.full((6,), 0.02 * size**0.5), rtol=1e-3, atol=0)
    grad = torch.cat([g.flatten(1) for g in energy_gradient(model, views).values()], 1)
    cosine = torch.nn.functional.cosine_similarity(move, grad)
    torch.testing.assert_close(cosine, -torch.ones(6), rtol=1e-3, atol=0)
    assert (info.logdensity[1] > info.logdensity[0]).all()


CLAMPS = [[True, False, False], [False, True, True], [False, False, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize("kind", [{"kind": "displaced"}, {"kind": "langevin", "step_size": 0.5}])
def test_observed_parts_come_back_bit_for_bit_and_the_others_move(kind):
    chain = kind | {"steps": 4, "noise_scale": 0.01}
    model = small_model(mixed(), data_chain=chain)
    views, clamp = random_views(model.modalities, 5), torch.tensor(CLAMPS)
    end, info = model.refine_data(views, make_generator(0), clamp=clamp, record=True)
    for i, name in enumerate(views):
        for item in range(5):
            assert torch.equal(end[name][item], views[name][item]) == bool(clamp[item, i])
            for position in info.positions:
                assert torch.equal(position[name][item], views[name][item]) or not clamp[item, i]


def test_with_parts_held_fixed_the_free_coordinates_alone_move_by_the_set_rms_length():
    model = small_model(mixed(), data_chain={"steps": 1, "kind": "displaced", "noise_scale": 0.0})
    model.displacement.fill_(0.03)
    views, clamp = random_views(model.modalities, 5), torch.tensor(CLAMPS)
    end, _ = model.refine_data(views, make_generator(0), clamp=clamp)
    sizes = torch.tensor([m.size for m in model.modalities.values()]).float()
    free = (~clamp).float() @ sizes
    move = torch.cat([(end[n] - views[n]).flatten(1) for n in views], 1).norm(dim=1)
    torch.testing.assert_close(move, 0.03 * free.sqrt(), rtol=1e-3, atol=1e-7)


def test_the_clamped_gradient_is_the_restriction_of_the_whole_gradient():
    """Section 10.4: pi(x_absent | x_observed) needs no normaliser, only the gradient's free coordinates."""
    model = small_model(mixed(), data_chain={"steps": 1, "kind": "langevin", "step_size": 0.8, "noise_scale": 0.0})
    views, clamp = random_views(model.modalities, 5), torch.tensor(CLAMPS)
    end, _ = model.refine_data(views, make_generator(0), clamp=clamp)
    grad = energy_gradient(model, views)
    for i, (name, view) in enumerate(views.items()):
        free = (~clamp[:, i]).float().reshape(-1, *[1] * (view.dim() - 1))
        torch.testing.assert_close(end[name], view - 0.32 * free * grad[name], rtol=1e-4, atol=1e-6)


def test_zero_steps_return_data_and_latents_as_they_are():
    model = small_model(mixed())
    views = random_views(model.modalities, 3)
    end, info = model.refine_data(views, make_generator(0), steps=0)
    assert all(torch.equal(end[n], views[n]) for n in views)
    assert info.displacement.tolist() == [0.0] * 3
    latents = model.sample_latents(3, make_generator(0))
    kept, _ = model.refine_latents(latents, whole(views), make_generator(0), steps=0)
    assert all(torch.equal(kept[k], latents[k]) for k in latents)


def test_private_codes_of_absent_parts_stay_bit_for_bit_and_others_move():
    model = small_model(mixed())
    present = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    batch = Batch(mask_views(random_views(model.modalities, 3), present), present)
    latents = model.sample_latents(3, make_generator(0))
    end, _ = model.refine_latents(latents, batch, make_generator(1))
    for i, name in enumerate(model.modalities):
        for item in range(3):
            assert torch.equal(end[name][item], latents[name][item]) != bool(present[item, i])
    assert (end["shared"] != latents["shared"]).all()


def test_the_latent_chain_of_an_absent_part_cannot_see_it():
    model = small_model(vectors(**SIZES))
    present = torch.tensor([[True, False, True]] * 4)
    latents = model.sample_latents(4, make_generator(0))
    ends = [
        model.refine_latents(latents, Batch(random_views(model.modalities, 4) | {"b": b}, present), make_generator(1))[
            0
        ]
        for b in (torch.zeros(4, 3), torch.full((4, 3), 1e3))
    ]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in latents)


def test_the_latent_chain_uses_the_tilt_of_an_energy_prior():
    """Eq. (8) with log p0 + f in place of log p0, one step whose noise is drawn again."""
    chain = {"steps": 1, "step_size": 0.3}
    model = small_model(vectors(**SIZES), prior=energy_prior(), latent_chain=chain)
    absent = Batch({n: torch.zeros(4, s) for n, s in SIZES.items()}, torch.zeros(4, 3, dtype=torch.bool))
    latents = model.sample_latents(4, make_generator(0))
    end, _ = model.refine_latents(latents, absent, make_generator(1))
    z = latents["shared"].clone().requires_grad_()
    slope = torch.autograd.grad(model.generator.prior.tilt(z).sum(), z)[0] - z.detach()
    noise = 0.3 * torch.randn(z.shape, generator=make_generator(1))  # z is the first to draw
    torch.testing.assert_close(end["shared"], latents["shared"] + 0.045 * slope + noise, rtol=1e-5, atol=1e-6)
    assert (slope + latents["shared"]).abs().max() > 0


def test_chains_leave_no_gradient_flag_mode_or_power_iteration_behind():
    model = small_model(mixed(), prior=energy_prior())
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    views = random_views(model.modalities, 4)
    x0 = model.generator(model.sample_latents(4, make_generator(0)))
    assert all(view.requires_grad for view in x0.values())
    end, _ = model.refine_data(x0, make_generator(0))
    posterior, _ = model.inference(whole(views)).sample(make_generator(0))
    latents, _ = model.refine_latents(posterior, whole(views), make_generator(0))
    assert not any(t.requires_grad for t in (*end.values(), *latents.values()))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(part.training for part in model.modules())
    assert any("_u" in name for name in buffers)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


def test_inside_a_chain_networks_are_in_evaluation_mode_and_ask_for_no_gradient():
    model, seen = small_model(mixed()), []
    model.energy.register_forward_hook(
        lambda net, *_: seen.append((net.training, any(p.requires_grad for p in net.parameters())))
    )
    model.refine_data(random_views(model.modalities, 2), make_generator(0))
    assert seen == [(False, False)] * 4


def test_a_model_without_an_energy_says_so():
    model = small_model(vectors(**SIZES), energy=None)
    with pytest.raises(ConfigError, match=r"model\.energy: got a model without an energy"):
        model.refine_data(random_views(model.modalities, 2), make_generator(0))


@pytest.mark.parametrize("prior", [{"kind": "normal"}, {"kind": "laplace"}])
def test_inferred_private_codes_of_absent_parts_and_codes_of_empty_items_come_from_their_priors(prior):
    """Second moments of 4,000 x 2 private and 4,000 x 3 shared draws; sd v sqrt((kurtosis - 1) / N), 4 sigma."""
    model = small_model(vectors(**SIZES), prior=prior, energy=None)
    present = torch.tensor([[True, False, True], [False, False, False]]).repeat(4000, 1)
    batch = Batch(mask_views(random_views(model.modalities, 8000), present), present)
    latents = model.infer_latents(batch, make_generator(0))
    variance, kurtosis = (1, 3) if prior["kind"] == "normal" else (2, 6)
    empty = latents["shared"][1::2]
    assert abs(empty.square().mean() / variance - 1) < 4 * ((kurtosis - 1) / empty.numel()) ** 0.5
    for absent in (latents["b"][::2], latents["a"][1::2], latents["b"][1::2]):
        assert abs(absent.square().mean() - 1) < 4 * (2 / absent.numel()) ** 0.5
        assert abs(absent.mean()) < 4 / absent.numel() ** 0.5
