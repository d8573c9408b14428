"""Clusters whose weights and locations the bound teaches (CMVAE)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.progress import track
from multiebm.core.random import Randomness, rand
from multiebm.distributions.families import FAMILIES
from multiebm.priors.prior import Prior, PriorSettings, Settled, Settling


@dataclass(frozen=True)
class Clusters(PriorSettings):
    """Learned clusters of the experts' family (CMVAE, Palumbo et al. 2024)."""

    kind: Literal["clusters"] = "clusters"
    components: Annotated[int, Field(ge=1, le=1000, description="number of clusters")] = 40

    def build(self, dim: int, family: str, ridge: float) -> "ClusterPrior":
        """Return the prior over [D], its clusters at random near 0."""
        return ClusterPrior(family, dim, self.components)

    @property
    def taught(self) -> bool:
        """A bound teaches weights and locations."""
        return True

    @property
    def settles_by(self) -> tuple[str, ...]:
        """Steps, of which any prune the clusters."""
        return ("steps",)


class ClusterPrior(Prior):
    """p(z) = sum_c pi_c p(z; loc_c, 1): C clusters of the named family over [D], weights and locations learned.

    The prior of CMVAE (Palumbo et al. 2024). The cluster term printed there, sum_c q(c | z) [log pi_c + log p(z | c) -
    log q(c | z)] with q(c | z) the exact responsibility, is log p(z): a prior is all there is to implement.
    """

    def __init__(self, family: str, dim: int, clusters: int, reach: float = 0.5) -> None:
        super().__init__()
        self.family, self.dim, self.clusters = FAMILIES[family], dim, clusters
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.loc = nn.Parameter(torch.empty(clusters, dim).uniform_(-reach, reach))
        self.kept: Tensor
        self.register_buffer("kept", torch.ones(clusters, dtype=torch.bool))  # the others are pruned

    def cluster_log_prob(self, z: Tensor) -> Tensor:
        """Return log pi_c + log p(z | c) in nats for every cluster: [..., D] -> [..., C], -inf where pruned."""
        log_weight = torch.where(self.kept, self.logits, -torch.inf).log_softmax(0)
        at = z[..., None, :]
        return log_weight + self.family.log_prob(at, self.loc, torch.ones_like(self.loc)).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self.cluster_log_prob(z).logsumexp(-1)

    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D]."""
        weight = torch.where(self.kept, self.logits, -torch.inf).softmax(0)
        drawn = torch.searchsorted(weight.cumsum(0), rand(rng, (n, 1), weight)[:, 0], right=True)
        loc = self.loc[drawn.clamp_max(int(self.kept.nonzero()[-1]))]  # rounding of the last edge picks no pruned one
        return self.family.rsample(rng, loc, torch.full_like(loc, temperature**self.family.exponent))

    def settles_on(self, how: Settling) -> Literal["draws", "locations"] | None:
        """Clusters are pruned by the locations of the experts."""
        return "locations" if how.prune else None

    @torch.no_grad()
    def settle(self, codes: Tensor, rng: torch.Generator, how: Settling, tell: Callable[[str], None]) -> Settled:
        """Keep as many clusters as minimise beta mean H[p(c | z)] / log C - mean log p(z) / D, beta = `how.prune`.

        The lightest cluster is dropped again and again, by the mean responsibility of the codes [N, D] (CMVAE, Palumbo
        et al. 2024).
        """
        if not how.prune or not len(codes):
            return Settled()
        tried = []
        self.kept.fill_(True)
        for count in track(range(self.clusters, 0, -1), "clusters are pruned"):
            joint = self.cluster_log_prob(codes)
            share = joint.softmax(-1)
            entropy = torch.special.entr(share).sum(-1).mean() / (math.log(count) if count > 1 else 1.0)
            score = how.prune * entropy - joint.logsumexp(-1).mean() / self.dim
            tried.append((score.item(), self.kept.clone()))
            mass = torch.where(self.kept, share.mean(0), torch.inf)
            self.kept[mass.argmin()] = False
        self.kept.copy_(min(tried, key=lambda pair: pair[0])[1])
        return Settled()
