"""Clusters whose weights and locations the bound teaches (CMVAE)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.random import Randomness, rand
from multiebm.distributions.families import FAMILIES
from multiebm.priors.prior import Prior, PriorSettings


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
