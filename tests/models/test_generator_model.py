"""p(X, z, W): the density (4), (16), absence as if the modality did not exist, and the auxiliary density r."""

import math

import pytest
import torch

from multiebm.core.batch import mask_views
from multiebm.core.random import make_generator
from small_models import mixed, random_views, small_model, vectors, whole, without

SIZES = {"a": 2, "b": 3, "c": 2}


def test_the_joint_density_of_a_masked_item_is_that_of_the_model_without_the_modality():
    model = small_model(vectors(**SIZES), private=0, energy=None)
    views = random_views(model.modalities, 4)
    present = torch.tensor([[True, False, True]] * 4)
    z = {"shared": torch.randn(4, 3, generator=make_generator(0))}
    reduced = without(model, "b")[1]
    kept = {n: views[n] for n in ("a", "c")}
    expected = reduced.log_joint(kept, z, whole(kept).present)
    torch.testing.assert_close(model.generator.log_joint(mask_views(views, present), z, present), expected)


def test_every_pattern_of_presence_in_one_batch_gives_each_item_its_own_sum():
    model = small_model(mixed(), energy=None)
    patterns = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).bool()
    views = random_views(model.modalities, 8)
    latents = model.sample_latents(8, make_generator(0))
    with torch.no_grad():
        got = model.generator.log_joint(mask_views(views, patterns), latents, patterns)
        likelihood = model.generator.log_likelihood(views, model.generator(latents))
        prior = sum(torch.distributions.Normal(0.0, 1.0).log_prob(v).sum(1) for v in latents.values())
    torch.testing.assert_close(got, prior + (likelihood * patterns).sum(1), rtol=1e-4, atol=1e-3)


def test_an_absent_part_sends_no_gradient_to_its_decoder_or_from_it_to_the_latents():
    model = small_model(vectors(**SIZES), energy=None)
    views = random_views(model.modalities, 4)
    present = torch.tensor([[True, False, True]] * 4)
    latents = {k: v.requires_grad_() for k, v in model.sample_latents(4, make_generator(0)).items()}
    model.generator.log_joint(mask_views(views, present), latents, present).sum().backward()
    assert all(p.grad is None for p in model.generator.decoders["b"].parameters())
    assert all(p.grad is not None for p in model.generator.decoders["a"].parameters())
    torch.testing.assert_close(latents["b"].grad, -latents["b"].detach())  # its prior alone
    assert not torch.allclose(latents["a"].grad, -latents["a"].detach())


def test_weights_scale_their_modality_in_every_sum():
    plain = small_model(vectors(**SIZES), energy=None)
    heavy = small_model(vectors(**SIZES), energy=None, likelihood={"scale": 0.5, "weights": {"b": 3.0}})
    views, latents = random_views(plain.modalities, 4), plain.sample_latents(4, make_generator(0))
    one, three = (m.generator.log_likelihood(views, m.generator(latents)).detach() for m in (plain, heavy))
    torch.testing.assert_close(three, one * torch.tensor([1.0, 3.0, 1.0]))
    whole_batch = whole(views).present
    difference = heavy.generator.log_joint(views, latents, whole_batch) - plain.generator.log_joint(
        views, latents, whole_batch
    )
    torch.testing.assert_close(difference.detach(), 2 * one[:, 1], rtol=1e-4, atol=1e-4)


def test_a_decoder_reads_the_shared_code_and_its_own_private_code_only():
    model = small_model(vectors(**SIZES), energy=None)
    latents = model.sample_latents(4, make_generator(0))
    means = model.decode(latents)
    for changed in ("shared", "a", "b", "c"):
        moved = model.decode(latents | {changed: latents[changed] + 1})
        different = {name for name in SIZES if not torch.equal(moved[name], means[name])}
        assert different == (set(SIZES) if changed == "shared" else {changed})


@pytest.mark.parametrize(("family", "unit"), [("normal", 1.0), ("laplace", 2.0)])
def test_auxiliary_codes_have_location_0_and_the_learned_scale(family, unit):
    """Variance of 20,000 x 2 draws with scale e^0.5; relative sd sqrt((kurtosis - 1) / N); 4 sigma."""
    model = small_model(vectors(**SIZES), family=family, energy=None)
    with torch.no_grad():
        model.generator.auxiliary_log_scale["b"].fill_(0.5)
        draws = model.generator.sample_auxiliary(20_000, make_generator(0))
    kurtosis = {"normal": 3, "laplace": 6}[family]
    for name, scale in (("a", 1.0), ("b", torch.tensor(0.5).exp().item())):
        n, variance = draws[name].numel(), unit * scale**2
        assert abs(draws[name].mean()) < 4 * (variance / n) ** 0.5
        assert abs(draws[name].var() / variance - 1) < 4 * ((kurtosis - 1) / n) ** 0.5


def test_prior_codes_are_fresh_for_every_modality_and_not_from_the_auxiliary():
    model = small_model(vectors(**SIZES), energy=None)
    with torch.no_grad():
        model.generator.auxiliary_log_scale["b"].fill_(9.0)
    latents = model.sample_latents(500, make_generator(0))
    assert list(latents) == ["shared", *SIZES]
    assert latents["b"].std() < 1.5
    assert not torch.equal(latents["a"], latents["b"])


def test_crossing_draws_from_the_learned_scale():
    """20,000 draws, learned scale e^-1: their variance is e^-2, 4 sigma of its estimate."""
    model = small_model(vectors(**SIZES), energy=None)
    with torch.no_grad():
        model.generator.auxiliary_log_scale["b"].fill_(-1.0)
        draws = model.generator.sample_auxiliary(20_000, make_generator(0))["b"]
    assert abs(draws.var() - math.exp(-2)) < 4 * math.exp(-2) * (2 / draws.numel()) ** 0.5


def test_fitted_private_priors_serve_samples_and_the_joint_density_and_the_bound_keeps_its_base():
    plain, fitted = (small_model(vectors(**SIZES), energy=None, private_components=k) for k in (0, 1))
    codes = torch.tensor([3.0, -1.0]) + 0.1 * torch.randn(400, 2, generator=make_generator(1))
    fitted.generator.private_priors["b"].fit(codes, 0.0)
    latents = fitted.sample_latents(2000, make_generator(0))
    torch.testing.assert_close(latents["b"].mean(0), torch.tensor([3.0, -1.0]), atol=0.03, rtol=0)
    assert latents["a"].mean().abs() < 0.1
    draws = fitted.generator.sample_private(2000, make_generator(0))
    spread = (0.01 + fitted.generator.private_priors["b"].ridge) ** 0.5
    torch.testing.assert_close(draws["b"].std(0), torch.full((2,), spread), atol=0.02, rtol=0)
    views = random_views(fitted.modalities, 5)
    some, nothing = {key: value[:5] for key, value in latents.items()}, torch.zeros(5, len(SIZES), dtype=torch.bool)
    change = fitted.generator.log_joint(views, some, nothing) - plain.generator.log_joint(views, some, nothing)
    prior, base = fitted.generator.private_priors, fitted.generator.private_base
    expected = sum(prior[name].log_prob(some[name]) - base.log_prob(some[name]) for name in SIZES)
    torch.testing.assert_close(change, expected)
    torch.testing.assert_close(base.log_prob(some["b"]), plain.generator.private_base.log_prob(some["b"]))


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        ({"kind": "energy", "components": 2, "step_size": 0.4}, 0.08),
        ({"kind": "mixture", "components": 2}, 0.02),  # its own chain is the latent one alone
        ({"kind": "energy", "components": 2, "step_size": 0.001}, 0.02),
    ],
)
def test_the_ridge_of_a_mixture_is_half_the_square_of_the_largest_step_on_it(prior, expected):
    chain = {"steps": 1, "step_size": 0.2}
    model = small_model(vectors(**SIZES), prior=prior, private_components=3, latent_chain=chain)
    own = model.generator.priors()
    assert getattr(own["shared"], "base", own["shared"]).ridge == pytest.approx(expected)
    assert own["a"].ridge == pytest.approx(0.02)
