"""q(z, W | X): the mixture over what is present, its density (16), and absence as if the modality did not exist."""

import pytest
import torch

from multiebm.core.batch import Batch, mask_views
from multiebm.core.random import item_generators, make_generator
from multiebm.modalities import VectorNetworks
from multiebm.models.inference import LOG_SCALE_RANGE, SCALES, SMALLEST_SCALE, Encoder, InferenceModel
from small_models import mixed, random_views, small_model, vectors, whole, without

SIZES = {"a": 2, "b": 3, "c": 2}


def masked(modalities, present: list[list[bool]], seed: int = 0) -> Batch:
    mask = torch.tensor(present)
    return Batch(mask_views(random_views(modalities, len(mask), seed), mask), mask)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_the_joint_density_is_the_mixture_over_z_times_the_private_densities(family):
    model = small_model(vectors(**SIZES), family=family, energy=None)
    batch = whole(random_views(model.modalities, 5))
    q = model.inference(batch)
    latents = model.sample_latents(5, make_generator(0))
    density = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}[family]
    terms = []
    expected = torch.zeros(5)
    for name, encoder in model.inference.encoders.items():
        (loc, scale), (w_loc, w_scale) = encoder(batch.views[name])
        terms.append(density(loc, scale).log_prob(latents["shared"]).sum(1))
        expected = expected + density(w_loc, w_scale).log_prob(latents[name]).sum(1)
    expected = expected + torch.stack(terms).logsumexp(0) - torch.tensor(3.0).log()
    torch.testing.assert_close(q.log_prob(latents, batch.present), expected, rtol=1e-5, atol=1e-4)


def test_a_masked_modality_is_a_modality_that_does_not_exist():
    """Same density, same draws, same responsibilities as a model whose encoder was never there."""
    model = small_model(vectors(**SIZES), private=0, energy=None)
    batch = masked(model.modalities, [[True, False, True]] * 6)
    views = {n: batch.views[n] for n in ("a", "c")}
    q, reduced = model.inference(batch), without(model, "b")[0](whole(views))
    z = model.sample_latents(6, make_generator(0))
    torch.testing.assert_close(q.log_prob(z, batch.present), reduced.log_prob(z, whole(views).present))
    torch.testing.assert_close(
        q.shared.responsibilities(z["shared"])[[0, 2]], reduced.shared.responsibilities(z["shared"])
    )
    (drawn, expert), (again, reduced_expert) = (p.sample(make_generator(1)) for p in (q, reduced))
    torch.testing.assert_close(drawn["shared"], again["shared"])
    assert expert.tolist() == [2 * m for m in reduced_expert.tolist()]


def test_the_density_counts_private_codes_of_present_parts_only():
    model = small_model(vectors(**SIZES), energy=None)
    batch = masked(model.modalities, [[True, False, True], [True, True, True]])
    q = model.inference(batch)
    latents = model.sample_latents(2, make_generator(0))
    moved = latents | {"b": latents["b"] + 1}
    difference = q.log_prob(moved, batch.present) - q.log_prob(latents, batch.present)
    assert difference[0] == 0
    assert difference[1] != 0


def test_what_stands_behind_the_mask_changes_nothing():
    model = small_model(mixed(), energy=None)
    present = torch.tensor([[True, False, True], [False, True, True], [True, True, False]])
    views = random_views(model.modalities, 3)
    spoilt = {
        n: torch.where(present[:, i].reshape(-1, *[1] * (v.dim() - 1)), v, torch.nan)
        for i, (n, v) in enumerate(views.items())
    }
    results = []
    for given in (views, spoilt):
        q = model.inference(Batch(mask_views(given, present), present))
        results.append((q.shared.loc, q.shared.scale, q.shared.log_weight, *(p.loc for p in q.private.values())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(value.isfinite().all() for value in results[1][:2])


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_an_item_with_nothing_present_has_the_base_density_and_no_nan(family):
    model = small_model(vectors(**SIZES), family=family, energy=None)
    batch = masked(model.modalities, [[True, True, True], [False, False, False]])
    q = model.inference(batch)
    z = model.sample_latents(2, make_generator(0))["shared"]
    base = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}[family](0.0, 1.0)
    torch.testing.assert_close(q.shared.log_prob(z)[1], base.log_prob(z[1]).sum())
    for private in q.private.values():
        assert private.loc[1].abs().max() == 0
        assert torch.equal(private.scale[1], torch.ones(2))
    q.shared.log_prob(z).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.inference.parameters() if p.grad is not None)


def test_absent_items_send_no_gradient_to_an_encoder():
    model = small_model(vectors(**SIZES), energy=None)
    batch = masked(model.modalities, [[True, False, True]] * 4)
    q = model.inference(batch)
    latents = model.sample_latents(4, make_generator(0))
    q.log_prob(latents, batch.present).sum().backward()
    for name, encoder in model.inference.encoders.items():
        largest = max(p.grad.abs().max().item() for p in encoder.parameters())
        assert (largest == 0) == (name == "b")


def test_draws_are_reparameterised_and_land_where_the_assigned_expert_is():
    model = small_model(vectors(**SIZES), energy=None)
    batch = whole(random_views(model.modalities, 6))
    q = model.inference(batch)
    latents, expert = q.sample(make_generator(0))
    assert expert.bincount(minlength=3).tolist() == [2, 2, 2]
    assert latents["shared"].requires_grad
    grad = torch.autograd.grad(latents["shared"].sum(), q.shared.loc)[0]
    assert torch.equal(grad.sum(2) / 3, torch.nn.functional.one_hot(expert, 3).T.float())
    assert list(latents) == ["shared", "a", "b", "c"]


def test_scales_stay_within_a_log_variance_of_minus_8_to_4():
    assert LOG_SCALE_RANGE == (-4.0, 2.0)
    model = small_model(vectors(**SIZES), energy=None)
    views = {name: 1e6 * view for name, view in random_views(model.modalities, 20).items()}
    scale = model.inference(whole(views)).shared.scale.detach()
    assert scale.min().item() == pytest.approx(torch.tensor(-4.0).exp().item())
    assert scale.max().item() == pytest.approx(torch.tensor(2.0).exp().item())


@pytest.mark.parametrize("separate", [False, True])
def test_separate_trunks_share_no_parameter_between_shared_and_private_codes(separate):
    modality = vectors(a=3)["a"]
    encoder = Encoder(lambda n: modality.encoder(n, VectorNetworks(8)), 4, 2, separate_trunks=separate)
    (loc, _), (w_loc, _) = encoder(torch.randn(5, 3, generator=make_generator(0)))
    assert loc.shape == (5, 4)
    assert w_loc.shape == (5, 2)
    used = [
        {n for (n, _), g in zip(encoder.named_parameters(), grads, strict=True) if g is not None and g.abs().max() > 0}
        for grads in (
            torch.autograd.grad(out.sum(), list(encoder.parameters()), retain_graph=True, allow_unused=True)
            for out in (loc, w_loc)
        )
    ]
    assert bool(used[0] & used[1]) != separate


def test_without_private_codes_there_are_none():
    model = small_model(vectors(**SIZES), private=0, energy=None)
    q = model.inference(whole(random_views(model.modalities, 2)))
    assert q.private == {}
    assert isinstance(model.inference, InferenceModel)
    assert list(q.sample(make_generator(0))[0]) == ["shared"]


def test_a_log_variance_becomes_the_square_root_of_the_variance():
    raw = torch.tensor([[-2.0, 0.0, 1.5]])
    torch.testing.assert_close(SCALES["log_variance"](raw), raw.exp().sqrt())
    torch.testing.assert_close(SCALES["log_variance"](torch.full((1, 1), 4.0).log()), torch.full((1, 1), 2.0))


@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_softmax_scales_sum_to_their_number(dim):
    """Each is raised by SMALLEST_SCALE; float32 rounds the sum by less than 1e-5 of it."""
    scales = SCALES["softmax"](3 * torch.randn(20, dim, generator=make_generator(0)))
    torch.testing.assert_close(scales.sum(1), torch.full((20,), dim * (1 + SMALLEST_SCALE)), rtol=1e-5, atol=0)


def test_private_latents_of_absent_parts_come_from_their_fitted_mixture():
    """One component at 5 with a spread of 0.1: no draw of N(0, 1) is near it. Present parts keep their own."""
    model = small_model(mixed(), private_components=1)
    for prior in model.generator.private_priors.values():
        prior.refit(5 + 0.1 * torch.randn(500, prior.dim, generator=make_generator(0)))
    views, present = random_views(mixed(), 40), torch.tensor([[True, False, True]] * 40)
    for generator in (make_generator(1), item_generators(1, 40)):
        latents = model.infer_latents(Batch(views, present), generator)
        assert (latents["left"] - 5).abs().max() < 1
        assert (latents["face"] - 5).abs().min() > 0.05
        assert latents["face"].mean() < 3
