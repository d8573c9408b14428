"""The stratified bound: exact where the posterior is, unbiased for all experts, blind to other parts' private codes."""

from itertools import permutations

import pytest
import torch
from torch import nn

from multiebm.core.random import make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal, Mixture
from multiebm.models.inference import Posterior
from multiebm.priors.energy import EnergyPrior
from small_models import cross_draw, elbo_loss, energy_prior, linear_model, random_views, small_model, vectors, whole

SIGMA = 0.7


class ExactEncoder(nn.Module):
    """x -> the exact posterior N(Lambda^-1 A^T (x - c) / sigma^2, Lambda^-1) of one part with orthogonal columns."""

    def __init__(self, decoder: nn.Module, shift: float = 0.0, stretch: float = 1.0) -> None:
        super().__init__()
        self.decoder, self.shift, self.stretch = decoder, shift, stretch

    def forward(self, x: torch.Tensor):
        matrix, offset = self.decoder.matrix.detach(), self.decoder.offset.detach()
        precision = 1 + matrix.square().sum(0) / SIGMA**2
        loc = (x - offset) @ matrix / SIGMA**2 / precision
        scale = precision.rsqrt().expand_as(loc)
        empty = x.new_zeros(len(x), 0)
        return (loc + self.shift * scale, scale * self.stretch), (empty, empty)


def one_part_model(shift: float = 0.0, stretch: float = 1.0):
    model = linear_model({"a": 4}, shared=2, scale=SIGMA, energy=None)
    decoder = model.generator.decoders["a"]
    columns = torch.linalg.qr(torch.randn(4, 2, generator=make_generator(0)))[0]
    decoder.matrix.data = columns * torch.tensor([1.5, 0.6])
    model.inference.encoders["a"] = ExactEncoder(decoder, shift, stretch)
    return model


def evidence(model, x: torch.Tensor) -> torch.Tensor:
    """log p(x) of the linear-Gaussian model, N(c, A A^T + sigma^2 I)."""
    decoder = model.generator.decoders["a"]
    matrix = decoder.matrix.detach()
    covariance = matrix @ matrix.T + SIGMA**2 * torch.eye(len(matrix))
    return torch.distributions.MultivariateNormal(decoder.offset.detach(), covariance).log_prob(x)


def loss_of(model, batch, seed: int, beta: float = 1.0) -> torch.Tensor:
    posterior = model.inference(batch)
    draw = cross_draw(model.generator, model.generator.prior, posterior, batch, make_generator(seed))
    log_px = model.generator.log_likelihood(batch.views, model.generator(draw.latents))
    return elbo_loss(log_px, draw, batch.present, beta)


def test_with_the_exact_posterior_every_single_draw_gives_the_evidence():
    """log p(x | z) p(z) / q(z | x) = log p(x) for all z: no variance, equality per item."""
    model = one_part_model()
    for seed in range(3):
        batch = whole(random_views(model.modalities, 1, seed=seed))
        expected = -evidence(model, batch.views["a"]).item()
        for draw_seed in range(4):
            assert loss_of(model, batch, draw_seed).item() == pytest.approx(expected, rel=1e-5)


def test_with_another_posterior_the_bound_falls_short_by_exactly_the_divergence():
    """Per coordinate KL(N(m + 0.5 s, 0.8 s) || N(m, s)) = -log 0.8 + (0.64 + 0.25 - 1) / 2; 40,000 draws, 4 sigma."""
    model, n = one_part_model(shift=0.5, stretch=0.8), 40_000
    views = {"a": random_views(model.modalities, 1, seed=1)["a"].expand(n, -1)}
    batch = whole(views)
    posterior = model.inference(batch)
    draw = cross_draw(model.generator, model.generator.prior, posterior, batch, make_generator(0))
    log_px = model.generator.log_likelihood(views, model.generator(draw.latents))
    values = -(log_px[:, 0] + draw.log_ratio).detach().double()
    divergence = 2 * (-torch.tensor(0.8).log() + (0.64 + 0.25 - 1) / 2).item()
    expected = -evidence(model, views["a"][:1]).item() + divergence
    assert values.mean().item() == pytest.approx(expected, abs=4 * values.std().item() / n**0.5)
    assert elbo_loss(log_px, draw, batch.present, 1.0).item() == pytest.approx(values.mean().item(), rel=1e-5)


def test_beta_weighs_the_divergence_term_alone():
    model = one_part_model()
    batch = whole(random_views(model.modalities, 5, seed=0))
    plain, none = loss_of(model, batch, 3, 1.0).item(), loss_of(model, batch, 3, 0.0).item()
    assert loss_of(model, batch, 3, 2.5).item() == pytest.approx(none + 2.5 * (plain - none), rel=1e-4)


def test_one_expert_per_item_averages_to_all_experts_over_all_balanced_assignments(monkeypatch):
    """3 items, 3 experts: the mean over the 6 permutations is that over all 9 (item, expert) terms, per noise."""
    model = small_model(vectors(a=2, b=3, c=2), private=2, energy=None)
    batch = whole(random_views(model.modalities, 3))

    def assigned(expert: tuple[int, ...]) -> float:
        monkeypatch.setattr(Mixture, "assign", lambda self, generator: torch.tensor(expert))
        return loss_of(model, batch, seed=4).item()

    everyone = sum(assigned((m, m, m)) for m in range(3)) / 3
    stratified = sum(assigned(order) for order in permutations(range(3))) / 6
    assert stratified == pytest.approx(everyone, rel=1e-5)
    assert assigned((0, 1, 2)) != pytest.approx(everyone, rel=1e-3)


def test_with_one_expert_the_term_is_that_of_mmvae_plus(monkeypatch):
    """sum_n log p(x_n | z_m, w_n) + log p(z_m) p(w_m) / q(z_m | X) q_m(w_m | x_m), full mixture below (ICLR 2023)."""
    model = small_model(vectors(a=2, b=3), private=2, energy=None)
    batch = whole(random_views(model.modalities, 4))
    monkeypatch.setattr(Mixture, "assign", lambda self, generator: torch.tensor([1, 1, 1, 1]))
    posterior = model.inference(batch)
    draw = cross_draw(model.generator, model.generator.prior, posterior, batch, make_generator(0))
    z, w = draw.latents["shared"], draw.latents["b"]
    normal = torch.distributions.Normal
    q = posterior.shared
    mixture = normal(q.loc, q.scale).log_prob(z).sum(-1).logsumexp(0) - torch.tensor(2.0).log()
    own = posterior.private["b"]
    expected = normal(0, 1).log_prob(z).sum(1) - mixture + normal(0, 1).log_prob(w).sum(1)
    expected = expected - normal(own.loc, own.scale).log_prob(w).sum(1)
    torch.testing.assert_close(draw.log_ratio, expected, rtol=1e-4, atol=1e-5)


def leaf_posterior(n: int, sizes: dict[str, int], shared: int = 3) -> Posterior:
    g = make_generator(0)
    k = len(sizes)
    loc, scale = torch.randn(k, n, shared, generator=g), torch.ones(k, n, shared)
    members = torch.eye(k, dtype=torch.bool)
    mixture = Mixture(loc, scale, torch.full((k, n), 1 / k).log(), members, FAMILIES["normal"])
    private = {
        name: Diagonal(torch.randn(n, 2, generator=g).requires_grad_(), torch.ones(n, 2), FAMILIES["normal"])
        for name in sizes
    }
    return Posterior(mixture, private, Diagonal(loc, scale, FAMILIES["normal"]))


def test_reconstruction_across_parts_never_sees_private_codes_inferred_from_them():
    sizes = {"a": 2, "b": 3, "c": 2}
    model = small_model(vectors(**sizes), private=2, energy=None)
    batch = whole(random_views(model.modalities, 9))
    posterior = leaf_posterior(9, sizes)
    draw = cross_draw(model.generator, model.generator.prior, posterior, batch, make_generator(0))
    log_px = model.generator.log_likelihood(batch.views, model.generator(draw.latents))
    assert draw.expert.bincount(minlength=3).tolist() == [3, 3, 3]
    for i, name in enumerate(sizes):
        loc = posterior.private[name].loc
        for what in (log_px.sum(), draw.log_ratio.sum()):
            grad = torch.autograd.grad(what, loc, retain_graph=True)[0]
            assert (grad[draw.expert == i].abs().sum(1) > 0).all()
            assert grad[draw.expert != i].abs().max() == 0


def test_the_auxiliary_density_stands_in_with_a_learned_scale():
    """A far too wide r shows in the codes of every part but the expert's own, and its scale gets a gradient."""
    sizes = {"a": 2, "b": 3}
    model = small_model(vectors(**sizes), private=2, energy=None)
    with torch.no_grad():
        for log_scale in model.generator.auxiliary_log_scale.values():
            log_scale.fill_(8.0)
    batch = whole(random_views(model.modalities, 8))
    draw = cross_draw(model.generator, model.generator.prior, leaf_posterior(8, sizes), batch, make_generator(0))
    for i, name in enumerate(sizes):
        size = draw.latents[name].detach().norm(dim=1)
        assert (size[draw.expert == i] < 20).all()
        assert (size[draw.expert != i] > 20).all()
    scales = list(model.generator.auxiliary_log_scale.values())
    grads = torch.autograd.grad(sum(draw.latents[name].square().sum() for name in sizes), scales)
    assert all((grad.abs() > 0).all() for grad in grads)


@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_an_untilted_energy_prior_reproduces_the_plain_bound_bit_for_bit(family):
    """Section 10.4 of the latent EBM's specification."""
    model = small_model(vectors(a=2, b=3), family=family, prior=energy_prior(), energy=None)
    prior = model.generator.prior
    assert isinstance(prior, EnergyPrior)
    torch.nn.init.zeros_(prior.net[-1].weight)
    batch = whole(random_views(model.modalities, 6))
    posterior = model.inference(batch)
    tilted, plain = (
        cross_draw(model.generator, p, posterior, batch, make_generator(0)).log_ratio for p in (prior, prior.base)
    )
    assert torch.equal(tilted, plain)


def test_the_tilt_enters_the_bound_as_it_is_and_sends_its_gradient_to_the_codes():
    """log p0(z) + f(z) in place of log p0(z); log Z is a constant (section 3.1)."""
    model = small_model(vectors(a=2, b=3), prior=energy_prior(), energy=None)
    prior = model.generator.prior
    assert isinstance(prior, EnergyPrior)
    batch = whole(random_views(model.modalities, 6))
    posterior = model.inference(batch)
    draw = cross_draw(model.generator, prior, posterior, batch, make_generator(0))
    plain = cross_draw(model.generator, prior.base, posterior, batch, make_generator(0))
    torch.testing.assert_close(
        draw.log_ratio - plain.log_ratio, prior.tilt(draw.latents["shared"]), atol=1e-5, rtol=1e-4
    )
    difference = torch.autograd.grad((draw.log_ratio - plain.log_ratio).sum(), posterior.shared.loc)[0]
    assert difference.abs().sum() > 0
