"""Importance-weighted likelihoods against the evidence of linear-Gaussian models."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from multiebm.core.errors import ConfigError
from multiebm.priors.clusters import ClusterPrior
from small_models import energy_prior, linear_model, random_views, small_model, vectors

SIGMA, SAMPLES = 1.0, 80_000


def evidence(
    model, names: list[str], views: dict[str, torch.Tensor], private: int, variance: float = 1.0
) -> torch.Tensor:
    """log N(x; c, v A A^T + B B^T + sigma^2 I): A maps the shared latent, B (block by block) the private ones."""
    decoders = [model.generator.decoders[name] for name in names]
    shared = torch.cat([d.matrix[:, : d.matrix.shape[1] - private] for d in decoders])
    own = torch.block_diag(*[d.matrix[:, d.matrix.shape[1] - private :] for d in decoders])
    covariance = variance * shared @ shared.T + own @ own.T + SIGMA**2 * torch.eye(len(shared))
    loc = torch.cat([d.offset for d in decoders])
    normal = torch.distributions.MultivariateNormal(loc, covariance.detach())
    return normal.log_prob(torch.cat([views[name] for name in names], 1)).detach()


@pytest.mark.parametrize("private", [0, 1])
@pytest.mark.parametrize("inference", [{}, {"subsets": "full", "pooled": True}, {"subsets": "every"}])
def test_the_estimate_is_the_evidence_jointly_and_given_a_part(private, inference):
    """Weights are bounded (the likelihood's scale is 1): the worst item has a standard deviation of 0.023 nats at
    20,000 draws (over seeds), hence half of it at 80,000: 0.05 is four of them."""
    model = linear_model({"a": 1, "b": 2}, shared=1, private=private, scale=SIGMA, energy=None, inference=inference)
    views = random_views(model.modalities, 5)
    both = evidence(model, ["a", "b"], views, private)
    alone = evidence(model, ["b"], views, private)
    torch.testing.assert_close(model.log_likelihood(views, samples=SAMPLES), both, atol=0.05, rtol=0)
    torch.testing.assert_close(model.log_likelihood({"b": views["b"]}, samples=SAMPLES), alone, atol=0.05, rtol=0)
    given = model.log_likelihood(views, given=["b"], samples=SAMPLES)
    torch.testing.assert_close(given, both - alone, atol=0.08, rtol=0)


def test_more_samples_come_closer_from_below():
    """In expectation below the evidence and growing with the number of samples: 400 seeds, ends 4 sigma apart."""
    model = linear_model({"a": 1, "b": 1}, shared=1, private=0, scale=SIGMA, energy=None)
    views = random_views(model.modalities, 4)
    exact = evidence(model, ["a", "b"], views, 0).mean()
    means = []
    for samples in (1, 10):
        found = torch.stack([model.log_likelihood(views, samples=samples, seed=seed).mean() for seed in range(400)])
        means.append((found.mean(), found.std() / 20))
    assert means[0][0] + 4 * means[0][1] < means[1][0] - 4 * means[1][1]
    assert means[1][0] < exact + 4 * means[1][1]


def test_a_model_without_an_energy_scores_by_its_likelihood_and_sees_what_does_not_belong():
    model = linear_model({"a": 1, "b": 1}, shared=1, private=0, scale=SIGMA, energy=None)
    views = random_views(model.modalities, 200)
    exact = evidence(model, ["a", "b"], views, 0)
    assert torch.corrcoef(torch.stack([model.score(views), exact]))[0, 1] > 0.99


class Square(nn.Module):
    """f(z) = b |z|^2: on the base N(0, I) the prior is N(0, I / (1 - 2 b))."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.b * z.square().sum(-1, keepdim=True)


@pytest.mark.parametrize("b", [0.2, -1.5])
def test_with_an_energy_prior_the_estimate_is_the_evidence_of_the_tilted_model(b):
    """Jointly and given a part; the prior's log Z comes from annealing, its error is added to the tolerance."""
    prior = energy_prior()
    model = linear_model({"a": 1, "b": 2}, shared=2, private=0, scale=SIGMA, energy=None, prior=prior)
    model.generator.prior.net = Square(b)
    log_z = model.log_normalizer()
    assert log_z.value == pytest.approx(-math.log(1 - 2 * b), abs=4 * log_z.error)  # D / 2 log 1 / (1 - 2 b), D = 2
    assert log_z.error < 0.02
    views = random_views(model.modalities, 5)
    both = evidence(model, ["a", "b"], views, 0, variance=1 / (1 - 2 * b))
    alone = evidence(model, ["b"], views, 0, variance=1 / (1 - 2 * b))
    torch.testing.assert_close(model.log_likelihood(views, samples=SAMPLES), both, atol=0.1, rtol=0)
    given = model.log_likelihood(views, given=["b"], samples=SAMPLES)
    torch.testing.assert_close(given, both - alone, atol=0.1, rtol=0)
    present = torch.tensor([[True, True]] * 4 + [[False, False]])
    assert model.log_likelihood(views, samples=10, present=present)[4] == 0


def test_with_clusters_the_estimate_is_the_evidence_of_a_mixture():
    """Normal clusters of learned weights: sum_c pi_c N(x; A mu_c + c, A A^T + sigma^2 I), jointly and given a part."""
    model = linear_model({"a": 1, "b": 2}, shared=2, private=0, scale=SIGMA, energy=None)
    prior = ClusterPrior("normal", 2, 3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        prior.loc.copy_(torch.tensor([[0.0, 0.0], [1.5, -1.0], [-2.0, 0.5]]))
    views = random_views(model.modalities, 5)

    def mixture(names):
        parts = []
        for weight, loc in zip(prior.logits.log_softmax(0), prior.loc, strict=True):
            moved = {n: views[n] - loc @ model.generator.decoders[n].matrix.T for n in names}
            parts.append(weight + evidence(model, names, moved, 0))
        return torch.stack(parts).logsumexp(0).detach()

    model.generator.prior = prior
    both, alone = mixture(["a", "b"]), mixture(["b"])
    assert (both - evidence(model, ["a", "b"], views, 0)).abs().max() > 0.3
    torch.testing.assert_close(model.log_likelihood(views, samples=SAMPLES), both, atol=0.1, rtol=0)
    given = model.log_likelihood(views, given=["b"], samples=SAMPLES)
    torch.testing.assert_close(given, both - alone, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("n", "stages", "b", "warned"), [(1000, 1, -1000.0, True), (20, 1, -1000.0, True), (1000, 500, -100.0, False)]
)
def test_paths_that_do_not_reach_the_tilts_mass_are_warned_of(n, stages, b, warned, caplog):
    """f = b z^2 in two dimensions: of one stage's paths a share (1 - 4 b) / (1 - 2 b)^2 carry the weight."""
    prior = energy_prior()
    model = linear_model({"a": 1}, shared=2, private=0, energy=None, prior=prior)
    model.generator.prior.net = Square(b)
    model.log_normalizer(samples=n, stages=stages)
    assert (f"of {n} paths and may be far above; raise stages" in caplog.text) is warned


def test_a_tilt_without_a_normaliser_is_warned_of(caplog):
    """f = |z|^2 grows faster than the base falls: weights overflow on the way, or few carry all."""
    model = linear_model({"a": 1}, shared=2, private=0, energy=None, prior=energy_prior())
    model.generator.prior.net = Square(50.0)
    model.log_normalizer(samples=200, stages=5)
    assert "may be far above; raise stages" in caplog.text


def test_without_a_tilt_the_normaliser_is_nothing_exactly():
    model = small_model(vectors(a=2), prior=energy_prior(), energy=None)
    torch.nn.init.zeros_(model.generator.prior.net[-1].weight)
    assert model.log_normalizer(samples=10, stages=3) == (0.0, 0.0, 1.0)
    assert small_model(vectors(a=2)).log_normalizer() == (0.0, 0.0, 1.0)
    with pytest.raises(ConfigError, match=r"got 1 sample\(s\) and 3 stage\(s\), expected at least 2 and 1"):
        model.log_normalizer(samples=1, stages=3)


def test_a_given_normaliser_is_taken():
    model = small_model(vectors(a=2), prior=energy_prior(), energy=None)
    views = random_views(model.modalities, 3)
    zero, one = (model.log_likelihood(views, samples=10, log_z=value) for value in (0.0, 1.0))
    torch.testing.assert_close(zero - 1, one)


def test_an_item_with_nothing_present_has_likelihood_one():
    model = linear_model({"a": 1, "b": 1}, shared=1, private=1, scale=SIGMA, energy=None)
    views = random_views(model.modalities, 2)
    present = torch.tensor([[True, True], [False, False]])
    assert model.log_likelihood(views, samples=10, present=present)[1].item() == pytest.approx(0, abs=1e-5)


def test_weights_of_modalities_are_of_training_and_not_of_the_likelihood():
    model = linear_model({"a": 1, "b": 2}, shared=1, private=0, scale=SIGMA, energy=None)
    views = random_views(model.modalities, 5)
    plain = model.log_likelihood(views, samples=50)
    model.generator.likelihoods["a"] = replace(model.generator.likelihoods["a"], weight=3.0)
    assert torch.equal(model.log_likelihood(views, samples=50), plain)
