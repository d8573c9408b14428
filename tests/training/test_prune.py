"""Pruning of learned clusters: codes of two groups keep two clusters of many."""

import pytest
import torch

from multiebm.core.random import make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.mixture import Diagonal
from multiebm.experiments.build import settling_of
from multiebm.experiments.load import load_experiment
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.prior import Settling


def prune_clusters(prior: ClusterPrior, experts: list, beta: float) -> None:
    codes = torch.cat([q.loc[present.T] for q, present in experts])
    prior.settle(codes, make_generator(0), Settling(prune=beta), print)


def grouped(centres: list[float], n: int = 300, parts: int = 2, dim: int = 2) -> tuple[Diagonal, torch.Tensor]:
    """Experts [M, B, D] of every part at one of the centres, plus unit noise; everything present."""
    draws = make_generator(0)
    at = torch.tensor(centres)[torch.arange(n) % len(centres)]
    loc = at[None, :, None] + torch.randn(parts, n, dim, generator=draws)
    return Diagonal(loc, torch.ones_like(loc), FAMILIES["normal"]), torch.ones(n, parts, dtype=torch.bool)


def prior_at(*centres: float, dim: int = 2) -> ClusterPrior:
    prior = ClusterPrior("normal", dim, len(centres))
    with torch.no_grad():
        prior.loc.copy_(torch.tensor(centres)[:, None].expand(-1, dim))
    return prior


def test_clusters_far_from_all_codes_are_dropped_and_those_with_codes_kept():
    prior = prior_at(-4.0, 4.0, 40.0, -40.0)
    prune_clusters(prior, [grouped([-4.0, 4.0])], beta=1.0)
    assert prior.kept.tolist() == [True, True, False, False]


def test_twins_lose_one_of_them_because_nobody_can_tell_them_apart():
    """Two clusters in one place: the entropy of p(c | z) falls by log 2 / log 3 without one, log p(z) stays."""
    prior = prior_at(-4.0, 4.0, 4.0)
    prune_clusters(prior, [grouped([-4.0, 4.0])], beta=1.0)
    assert prior.kept.sum() == 2
    assert prior.kept[0]


def test_absent_parts_do_not_vote():
    prior = prior_at(-4.0, 4.0, 40.0)
    experts, present = grouped([-4.0, 4.0])
    experts.loc[1] = 40.0
    present[:, 1] = False
    prune_clusters(prior, [(experts, present)], beta=1.0)
    assert prior.kept.tolist() == [True, True, False]


def test_pruned_clusters_have_no_mass():
    prior = prior_at(-4.0, 4.0, 40.0)
    prune_clusters(prior, [grouped([-4.0, 4.0])], beta=1.0)
    assert prior.sample(500, make_generator(1)).max() < 10
    assert prior.log_prob(torch.full((1, 2), 40.0)).item() < -500


@pytest.mark.parametrize(("preset", "beta"), [("polydigits-cmvae", 1.0), ("polymnist-cmvae", 2.5)])
def test_the_entropy_weighs_as_the_divergence_did_in_training(preset, beta):
    assert settling_of(load_experiment(preset), {}).prune == beta
