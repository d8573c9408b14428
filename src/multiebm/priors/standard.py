"""The standard density of a family, location 0 and scale 1, or with scales that a bound teaches."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.random import Randomness
from multiebm.distributions.families import FAMILIES
from multiebm.priors.prior import Prior, PriorSettings


@dataclass(frozen=True)
class Normal(PriorSettings):
    """Independent normal densities, N(0, 1)."""

    kind: Literal["normal"] = "normal"
    learned_scale: Annotated[
        bool, Field(description="the bound teaches the prior a scale for each dimension (MMVAE)")
    ] = False

    def build(self, dim: int, family: str, ridge: float) -> "StandardPrior":
        """Return the prior over [D]."""
        return StandardPrior(self.kind, dim, self.learned_scale)


@dataclass(frozen=True)
class Laplace(Normal):
    """Independent Laplace densities of location 0 and scale 1."""

    kind: Literal["laplace"] = "laplace"  # type: ignore[assignment]


class StandardPrior(Prior):
    """Location 0, scale 1, of the named family ("normal" or "laplace"), over [D]; `learned`: scales are parameters."""

    def __init__(self, family: str, dim: int, learned: bool = False) -> None:
        super().__init__()
        self.family, self.dim = FAMILIES[family], dim
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.log_scale = nn.Parameter(torch.zeros(dim)) if learned else None

    @property
    def scale(self) -> Tensor:
        """The scales [D]."""
        if self.log_scale is None:
            return torch.ones_like(self.get_buffer("zero")).expand(self.dim)
        return self.log_scale.exp()

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self.family.log_prob(z, torch.zeros_like(z), self.scale.to(z).expand_as(z)).sum(-1)

    def kl(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return KL(q || p) in nats of q at `loc`, `scale` [..., D], of the same family: [...]."""
        return self.family.kl(loc, scale, torch.zeros_like(loc), self.scale.to(scale).expand_as(scale)).sum(-1)

    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D]."""
        scale = self.scale * temperature**self.family.exponent
        return self.family.rsample(rng, torch.zeros_like(scale).expand(n, self.dim), scale.expand(n, self.dim))
