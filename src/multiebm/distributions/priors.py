"""Priors over a latent. A prior is anything with `log_prob`, `sample`, `log_normalizer` (contract of this file)."""

from typing import Protocol

import torch
from torch import Tensor

from multiebm.core.random import Randomness
from multiebm.distributions.families import FAMILIES


class Prior(Protocol):
    """`log_prob` [..., D] -> [...], normalised only where `normalised`; `sample(n, generator)` -> [n, D];
    `log_normalizer(n, generator)` is 0 if normalised, else a scalar whose gradient is that of log Z.
    """

    dim: int
    normalised: bool

    def log_prob(self, z: Tensor) -> Tensor: ...  # noqa: D102
    def sample(self, n: int, generator: Randomness) -> Tensor: ...  # noqa: D102
    def log_normalizer(self, n: int, generator: Randomness) -> Tensor: ...  # noqa: D102


class StandardPrior(torch.nn.Module):
    """Location 0, scale 1, of the named family ("normal" or "laplace"), over [D]."""

    normalised = True

    def __init__(self, family: str, dim: int) -> None:
        super().__init__()
        self.family, self.dim = FAMILIES[family], dim
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self.family.log_prob(z, torch.zeros_like(z), torch.ones_like(z)).sum(-1)

    def sample(self, n: int, generator: Randomness) -> Tensor:
        """Draw [n, D]."""
        zero: Tensor = self.get_buffer("zero")
        return self.family.rsample(generator, zero.expand(n, self.dim), zero.new_ones(()).expand(n, self.dim))

    def log_normalizer(self, n: int, generator: Randomness) -> Tensor:
        """Return 0 (shape []): the density is normalised."""
        return torch.zeros(())
