"""Priors over a latent. A prior is anything with `log_prob`, `sample`, `log_normalizer` (contract of this file)."""

from typing import Protocol

import torch
from torch import Tensor

from multiebm.core.random import Randomness, randn
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


class FittedPrior(torch.nn.Module):
    """A Gaussian over [D] with the mean and covariance of the codes it has seen: maximum likelihood by running moments.

    Starts as N(0, I). Encoders of private latents put their codes wider than N(0, I) and in correlated directions, so
    that draws from N(0, I) reach codes no decoder has seen; this is the Gaussian that reaches them.
    """

    normalised = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mean: Tensor
        self.second: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("second", torch.eye(dim))

    def _density(self) -> torch.distributions.MultivariateNormal:
        covariance = self.second - torch.outer(self.mean, self.mean)
        return torch.distributions.MultivariateNormal(self.mean, covariance, validate_args=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self._density().log_prob(z)

    def sample(self, n: int, generator: Randomness) -> Tensor:
        """Draw [n, D]."""
        return self.mean + randn(generator, (n, self.dim), self.mean) @ self._density().scale_tril.T

    def log_normalizer(self, n: int, generator: Randomness) -> Tensor:
        """Return 0 (shape []): the density is normalised."""
        return torch.zeros(())

    @torch.no_grad()
    def fit(self, codes: Tensor, decay: float) -> None:
        """Move the moments towards those of codes [N, D], N > 0: m <- decay m + (1 - decay) mean."""
        self.mean.lerp_(codes.mean(0), 1 - decay)
        self.second.lerp_(codes.T @ codes / len(codes), 1 - decay)
