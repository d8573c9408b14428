"""The prior of learned clusters: density, the printed cluster term, draws, pruning."""

import pytest
import torch

import multiebm.priors.clusters as module
from multiebm.core.random import item_generators, make_generator
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.standard import StandardPrior

REFERENCE = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
FAMILY = pytest.mark.parametrize("family", ["normal", "laplace"])
CLUSTERS = torch.tensor([[-3.0, 1.0], [0.5, 0.0], [4.0, -2.0]], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def clusters(family: str, apart: float = 1.0, kept: tuple[bool, ...] = (True, True, True)) -> ClusterPrior:
    """Clusters of unequal shares; `apart` multiplies their distances."""
    prior = ClusterPrior(family, 2, 3).double()
    prior.loc.data, prior.logits.data = apart * CLUSTERS, SHARES.log() + 7
    prior.kept.copy_(torch.tensor(kept))
    return prior


def mixture_of(family: str, share: torch.Tensor, loc: torch.Tensor) -> torch.distributions.Distribution:
    parts = torch.distributions.Independent(REFERENCE[family](loc, torch.ones_like(loc)), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(share), parts)


@FAMILY
def test_the_density_of_clusters_is_that_of_torch_and_needs_no_normaliser(family):
    z, prior = 3 * torch.randn(2, 5, 2, generator=make_generator(0), dtype=torch.float64), clusters(family)
    expected = mixture_of(family, SHARES, CLUSTERS).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    assert prior.normalised
    assert prior.log_normalizer(10, make_generator(0)) == 0


@FAMILY
def test_clusters_start_with_equal_shares_within_reach_of_the_origin(family):
    prior = ClusterPrior(family, 5, 40, reach=0.5)
    assert prior.loc.abs().max() <= 0.5
    assert prior.loc.std(0).min() > 0.15  # uniform on [-0.5, 0.5]: deviation 0.29, of 40 draws known to 0.02
    z = torch.randn(3, 5, generator=make_generator(0))
    shares = (prior.cluster_log_prob(z) - REFERENCE[family](prior.loc, 1.0).log_prob(z[:, None]).sum(-1)).exp()
    torch.testing.assert_close(shares, torch.full((3, 40), 1 / 40), rtol=1e-4, atol=0)  # of logs up to 40: 1e-5


@FAMILY
def test_the_cluster_term_as_printed_is_the_log_density_in_value_and_gradient(family):
    """sum_c q(c|z) [log pi_c + log p(z|c) - log q(c|z)], q(c|z) the exact responsibility; the gradient goes through q.

    Palumbo et al. (2024), CMVAE.
    """
    z, prior = 2 * torch.randn(9, 2, generator=make_generator(0), dtype=torch.float64), clusters(family)
    z.requires_grad_()
    each = prior.logits.log_softmax(0) + REFERENCE[family](prior.loc, 1.0).log_prob(z[:, None]).sum(-1)
    log_q = each.log_softmax(-1)
    printed = (log_q.exp() * (each - log_q)).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), printed, rtol=1e-12, atol=1e-12)
    inputs = [z, prior.logits, prior.loc]
    found = torch.autograd.grad(prior.log_prob(z).square().sum(), inputs)
    for value, expected in zip(found, torch.autograd.grad(printed.square().sum(), inputs), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        assert value.abs().max() > 0.1


@FAMILY
def test_one_cluster_at_0_is_the_standard_prior(family):
    prior, z = ClusterPrior(family, 3, 1, reach=0.0), torch.randn(5, 3, generator=make_generator(0))
    torch.testing.assert_close(prior.log_prob(z), StandardPrior(family, 3).log_prob(z), rtol=1e-6, atol=0)


@FAMILY
@pytest.mark.parametrize("kept", [(True, True, True), (True, False, True)])
def test_samples_of_clusters_have_the_mean_and_variance_of_the_mixture(family, kept):
    """4 sigma: sqrt(v / n) of a mean and sqrt((m4 - v^2) / n) of a variance, with the fourth moment of the draws."""
    n, chosen = 40_000, torch.tensor(kept)
    z = clusters(family, kept=kept).sample(n, make_generator(0)).detach()
    exact = mixture_of(family, SHARES[chosen], CLUSTERS[chosen])
    assert z.shape == (n, 2)
    assert ((z.mean(0) - exact.mean).abs() < 4 * (exact.variance / n).sqrt()).all()
    fourth = (z - exact.mean).pow(4).mean(0)
    assert ((z.var(0) - exact.variance).abs() < 4 * ((fourth - exact.variance.square()) / n).sqrt()).all()


@FAMILY
@pytest.mark.parametrize("pruned", [0, 1, 2])
def test_a_pruned_cluster_has_no_mass_and_no_gradient_and_the_others_share_it(family, pruned):
    chosen = torch.arange(3) != pruned
    prior = clusters(family, kept=tuple(chosen.tolist()))
    z = 3 * torch.randn(6, 2, generator=make_generator(0), dtype=torch.float64)
    expected = mixture_of(family, SHARES[chosen], CLUSTERS[chosen]).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    assert (prior.cluster_log_prob(z)[:, pruned] == -torch.inf).all()
    for slope in torch.autograd.grad(prior.log_prob(z).sum(), [prior.logits, prior.loc]):
        assert slope[pruned].abs().max() == 0
        assert slope.isfinite().all()
        assert slope[chosen].abs().min() > 1e-6


@FAMILY
@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("kept", [(True, True, True), (False, True, True), (True, False, True), (True, True, False)])
def test_a_cluster_is_drawn_by_its_share_and_spreads_with_the_temperature_unless_pruned(family, temperature, kept):
    """Clusters hundreds of scales apart, so every draw tells its own. Shares, 4 sigma: sqrt(p (1 - p) / n).

    Variance T for the normal (kurtosis 3), 2 T^2 for the Laplace (6), of the draws of both dimensions; 4 sigma.
    """
    n, prior = 20_000, clusters(family, apart=200.0, kept=kept)
    z = prior.sample(n, make_generator(0), temperature).detach()
    drawn = torch.cdist(z, prior.loc.detach()).argmin(1)
    share = torch.where(torch.tensor(kept), SHARES, 0.0)
    share = share / share.sum()
    found = drawn.bincount(minlength=3) / n
    assert ((found - share).abs() <= 4 * (share * (1 - share) / n).sqrt()).all()
    variance, kurtosis = {"normal": (temperature, 3.0), "laplace": (2 * temperature**2, 6.0)}[family]
    off = (z - prior.loc.detach()[drawn]).flatten()
    assert off.square().mean().item() == pytest.approx(variance, rel=4 * ((kurtosis - 1) / (2 * n)) ** 0.5)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("pruned", [0, 1, 2])
def test_the_least_and_the_largest_uniform_draw_no_pruned_cluster(monkeypatch, uniform, pruned):
    """Uniforms lie on [0, 1) in steps of 2^-24: 0 must not pick a first cluster of no share."""
    monkeypatch.setattr(module, "rand", lambda generator, shape, like: torch.full(tuple(shape), uniform))
    kept = [c for c in range(3) if c != pruned]
    prior = clusters("normal", apart=200.0, kept=tuple(c in kept for c in range(3))).float()
    z = prior.sample(4, make_generator(0)).detach()
    assert torch.cdist(z, prior.loc.detach()).argmin(1).tolist() == [kept[0 if uniform == 0 else -1]] * 4


def test_rounding_of_the_last_edge_draws_no_pruned_cluster(monkeypatch):
    """The largest float32 below 1 lies above the sum of some shares."""
    largest = 1 - 2.0**-24
    monkeypatch.setattr(module, "rand", lambda generator, shape, like: torch.full(tuple(shape), largest))
    below = 0
    for seed in range(100):
        prior = ClusterPrior("normal", 1, 10)
        prior.loc.data = 200.0 * torch.arange(10)[:, None]
        prior.logits.data = torch.randn(10, generator=make_generator(seed))
        prior.kept[-1] = False
        below += int(torch.where(prior.kept, prior.logits, -torch.inf).softmax(0).cumsum(0)[-1] < largest)
        assert (prior.sample(1, make_generator(0)) / 200).round().item() == 8
    assert below > 0


def test_samples_of_clusters_do_not_depend_on_the_batch():
    prior = clusters("laplace")
    assert torch.equal(prior.sample(4, item_generators(0, 4))[2:3], prior.sample(1, item_generators(0, 1, first=2)))
