"""Priors over a latent. A prior is anything with `log_prob`, `sample`, `log_normalizer` (contract of this file)."""

from math import log, pi
from typing import Protocol

import torch
from torch import Tensor

from multiebm.core.random import Randomness, rand, randn
from multiebm.distributions.families import FAMILIES

RIDGE = 1e-4  # added to every variance of a mixture, squared latent units


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


class MixturePrior(torch.nn.Module):
    """A mixture of K Gaussians over [D], fitted to the codes it has seen by expectation maximisation.

    Starts as N(0, I) (K = 1) or spread over it. Encoders put their codes where the data needs them, not where N(0, I)
    has its mass; this prior goes where they are. No gradient reaches it: `fit` is its learning.
    """

    normalised = True

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.dim, self.components = dim, components
        k = components
        spread = torch.randn(k, dim, generator=torch.Generator().manual_seed(0)) * (0.5 if k > 1 else 0.0) ** 0.5
        covariance = torch.eye(dim).expand(k, dim, dim) * (0.5 if k > 1 else 1.0)
        zeros = (torch.zeros(k), torch.zeros(k, dim), torch.zeros(k, dim, dim), torch.zeros(k, dim, dim))
        # running sums of responsibilities, codes and their squares; then what they say: weights, means, factors
        names = ("count", "first", "second", "log_weight", "mean", "scale_tril", "whiten")
        for name, value in zip(names, (*(z.clone() for z in zeros[:3]), zeros[0], zeros[1], *zeros[2:]), strict=True):
            self.register_buffer(name, value.clone())
        self._remember(torch.full((k,), 1 / k), spread, covariance)

    def _buffers_of(self, *names: str) -> list[Tensor]:
        return [self.get_buffer(name) for name in names]

    def _remember(self, count: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Set the sums to those of components with these shares, means and covariances."""
        own = self._buffers_of("count", "first", "second")
        second = covariance + mean[:, :, None] * mean[:, None, :]
        for buffer, value in zip(own, (count, count[:, None] * mean, count[:, None, None] * second), strict=True):
            buffer.copy_(value)
        self._derive()

    def _derive(self) -> None:
        """Set weights, means and factors from the sums."""
        count, first, second = self._buffers_of("count", "first", "second")
        mean = first / count[:, None]
        ridge = RIDGE * torch.eye(self.dim, device=mean.device)
        covariance = second / count[:, None, None] - mean[:, :, None] * mean[:, None, :] + ridge
        tril = torch.linalg.cholesky(covariance)
        eye = torch.eye(self.dim, device=mean.device).expand_as(tril)
        derived = ((count / count.sum()).log(), mean, tril, torch.linalg.solve_triangular(tril, eye, upper=False))
        for buffer, value in zip(self._buffers_of("log_weight", "mean", "scale_tril", "whiten"), derived, strict=True):
            buffer.copy_(value)

    def component_log_prob(self, z: Tensor) -> Tensor:
        """Return log weight + log density of every component in nats: [..., D] -> [..., K]."""
        log_weight, mean, whiten = self._buffers_of("log_weight", "mean", "whiten")
        y = torch.einsum("kij,...kj->...ki", whiten, z[..., None, :] - mean)
        log_det = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_weight + log_det - 0.5 * (y.square().sum(-1) + self.dim * log(2 * pi))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self.component_log_prob(z).logsumexp(-1)

    def sample(self, n: int, generator: Randomness) -> Tensor:
        """Draw [n, D]."""
        log_weight, mean, tril = self._buffers_of("log_weight", "mean", "scale_tril")
        drawn = torch.searchsorted(log_weight.exp().cumsum(0), rand(generator, (n, 1), mean)[:, 0])
        chosen = drawn.clamp_max(self.components - 1)
        noise = randn(generator, (n, self.dim), mean)
        return mean[chosen] + torch.einsum("nij,nj->ni", tril[chosen], noise)

    def log_normalizer(self, n: int, generator: Randomness) -> Tensor:
        """Return 0 (shape []): the density is normalised."""
        return torch.zeros(())

    @torch.no_grad()
    def fit(self, codes: Tensor, decay: float) -> None:
        """One step of expectation maximisation on codes [N, D], N > 0: sums <- decay sums + (1 - decay) sums of codes.

        decay 0 is the step of the classical algorithm, decay near 1 its stochastic form (Cappe & Moulines, 2009). A
        component that has lost nearly all of its weight starts again at the code that the mixture explains worst.
        """
        each = self.component_log_prob(codes)
        share = each.softmax(-1)
        new = (
            share.mean(0),
            share.T @ codes / len(codes),
            torch.einsum("nk,ni,nj->kij", share, codes, codes) / len(codes),
        )
        for buffer, value in zip(self._buffers_of("count", "first", "second"), new, strict=True):
            buffer.lerp_(value, 1 - decay)
        self._revive(codes[each.logsumexp(-1).argsort()])
        self._derive()

    def _revive(self, codes: Tensor) -> None:
        """Put components without weight at the first of `codes`, with a tenth of the codes' variance."""
        count, first, second = self._buffers_of("count", "first", "second")
        lost = (count < 0.1 / self.components).nonzero()[: len(codes), 0]
        at = codes[: len(lost)]
        share = 0.5 / self.components
        count[lost], first[lost] = share, share * at
        spread = 0.1 * codes.var(0, correction=0).diag()
        second[lost] = share * (at[:, :, None] * at[:, None, :] + spread)

    def refit(self, codes: Tensor, steps: int = 30) -> None:
        """Fit anew to codes [N, D] in random order: components at the first codes, then `steps` steps."""
        k = self.components
        at = codes[torch.arange(k, device=codes.device) % len(codes)] if k > 1 else codes.mean(0, keepdim=True)
        spread = torch.cov(codes.T, correction=0).reshape(self.dim, self.dim) * (0.1 if k > 1 else 1.0)
        self._remember(torch.full((k,), 1 / k, device=codes.device), at, spread.expand(k, -1, -1))
        for _ in range(steps):
            self.fit(codes, 0.0)
