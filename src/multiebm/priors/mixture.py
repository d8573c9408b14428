"""A mixture of Gaussians that follows the codes by stochastic expectation maximisation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log, pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from multiebm.core.errors import DivergenceError
from multiebm.core.progress import track
from multiebm.core.random import Randomness, rand, randn
from multiebm.priors.prior import RIDGE, Density, Prior, PriorSettings, Settled, Settling
from multiebm.priors.standard import StandardPrior

DECAY = 0.98  # of the sums in training; a longer memory adds the drift of codes to their variance
LOST = 0.1  # share of its fair weight below which a component of a mixture is lost


@dataclass(frozen=True)
class Mixture(PriorSettings):
    """A mixture of Gaussians fitted to the codes; bounds see the standard density in its place."""

    kind: Literal["mixture"] = "mixture"
    components: Annotated[int, Field(ge=1, le=1000, description="number of Gaussians")] = 60

    def build(self, dim: int, family: str, ridge: float) -> "MixturePrior":
        """Return the prior over [D], spread over N(0, I)."""
        return MixturePrior(dim, self.components, ridge, family)


class MixturePrior(Prior):
    """A mixture of K Gaussians over [D], fitted to the codes it has seen by expectation maximisation.

    Starts as N(0, I) (K = 1) or spread over it. Encoders put their codes where the data needs them, not where N(0, I)
    has its mass; this prior goes where they are. No gradient reaches it: `fit` is its learning. `ridge` is added to
    every variance (see `ridge_for`). Bounds see the standard density of `family`: a mixture follows the codes, and
    codes that followed the mixture would drift.
    """

    follows = True
    count: Tensor
    mean: Tensor
    scatter: Tensor
    log_weight: Tensor
    scale_tril: Tensor
    whiten: Tensor

    def __init__(self, dim: int, components: int, ridge: float = RIDGE, family: str = "normal") -> None:
        super().__init__()
        self.standard = StandardPrior(family, dim)
        self.dim, self.components, self.ridge = dim, components, ridge
        k = components
        spread = torch.randn(k, dim, generator=torch.Generator().manual_seed(0)) * (0.5 if k > 1 else 0.0) ** 0.5
        covariance = torch.eye(dim).expand(k, dim, dim) * (0.5 if k > 1 else 1.0)
        # sums of responsibilities, their means, sums of centred squares; then weights and factors made from them
        self.register_buffer("count", torch.full((k,), 1 / k))
        self.register_buffer("mean", spread)
        self.register_buffer("scatter", covariance / k)
        self.register_buffer("log_weight", torch.zeros(k))
        self.register_buffer("scale_tril", torch.zeros(k, dim, dim))
        self.register_buffer("whiten", torch.zeros(k, dim, dim))
        self._derive()

    def _derive(self) -> None:
        """Set weights and factors from the sums; DivergenceError where a covariance has none."""
        eye = torch.eye(self.dim, device=self.count.device)
        self.log_weight.copy_((self.count / self.count.sum()).log())
        factors, failed = torch.linalg.cholesky_ex(self.scatter / self.count[:, None, None] + self.ridge * eye)
        self._check(not failed.any())  # nor has a covariance that is not finite any
        self.scale_tril.copy_(factors)
        self.whiten.copy_(torch.linalg.solve_triangular(self.scale_tril, eye.expand_as(factors), upper=False))

    def _check(self, fits: bool | Tensor) -> None:
        if not fits:
            raise DivergenceError(
                f"a mixture of {self.components} Gaussian(s) in {self.dim} dimensions cannot be fitted to codes whose "
                f"means reach {self.mean.abs().max().item():.3g}: a covariance is not finite or not positive definite, "
                "expected codes nearer to 0"
            )

    def component_log_prob(self, z: Tensor) -> Tensor:
        """Return log weight + log density of every component in nats: [..., D] -> [..., K]."""
        y = torch.einsum("kij,...kj->...ki", self.whiten, z[..., None, :] - self.mean)
        log_det = self.whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return self.log_weight + log_det - 0.5 * (y.square().sum(-1) + self.dim * log(2 * pi))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density in nats: [..., D] -> [...]."""
        return self.component_log_prob(z).logsumexp(-1)

    def sample(self, n: int, rng: Randomness, temperature: float = 1.0) -> Tensor:
        """Draw [n, D]."""
        drawn = torch.searchsorted(self.log_weight.exp().cumsum(0), rand(rng, (n, 1), self.mean)[:, 0])
        chosen = drawn.clamp_max(self.components - 1)
        noise = randn(rng, (n, self.dim), self.mean)
        return self.mean[chosen] + temperature**0.5 * torch.einsum("nij,nj->ni", self.scale_tril[chosen], noise)

    def for_bound(self, learns: bool) -> Density:
        """Return the standard density."""
        return self.standard

    def follow(self, codes: Tensor) -> None:
        """Make one step of stochastic expectation maximisation on codes [N, D]."""
        self.fit(codes, DECAY)

    def settles_on(self, how: Settling) -> Literal["draws", "locations"] | None:
        """A mixture is fitted anew to draws, always."""
        return "draws"

    def settle(self, codes: Tensor, rng: torch.Generator, how: Settling, tell: Callable[[str], None]) -> Settled:
        """Fit anew to the codes [N, D]."""
        self.refit(codes)
        return Settled()

    @torch.no_grad()
    def fit(self, codes: Tensor, decay: float, split: bool = True) -> None:
        """One step of expectation maximisation on codes [N, D], N > 0: sums <- decay sums + (1 - decay) sums of codes.

        decay 0 is the step of the classical algorithm, decay near 1 its stochastic form (Cappe & Moulines, 2009). A
        component that has lost nearly all of its weight takes half of the heaviest one's (`split`).
        """
        each = self.component_log_prob(codes)
        share = each.softmax(-1) / len(codes)
        count, mean, scatter = self.count, self.mean, self.scatter
        new = share.sum(0).clamp_min(torch.finfo(share.dtype).tiny)
        at = share.T @ codes / new[:, None]
        # centred sums, joined as two groups are: the difference of large squares would lose the small variances
        off, gap = codes[:, None] - at, at - mean
        old, fresh = decay * count, (1 - decay) * new
        scatter.lerp_(torch.einsum("nk,nki,nkj->kij", share, off, off), 1 - decay)
        scatter.add_((old * fresh / (old + fresh))[:, None, None] * gap[:, :, None] * gap[:, None, :])
        mean.add_((fresh / (old + fresh))[:, None] * gap)
        count.copy_(old + fresh)
        for lost in (count < LOST / self.components).nonzero()[:, 0].tolist() if split else ():
            # two of the heaviest along its longest axis; together they keep its mass, mean and scatter
            heavy = int(count.argmax())
            self._check(scatter[heavy].isfinite().all())
            variances, axes = torch.linalg.eigh(scatter[heavy] / count[heavy])
            half = 0.5 * variances[-1].clamp_min(0).sqrt() * axes[:, -1]
            count[heavy] /= 2
            scatter[heavy] = scatter[heavy] / 2 - count[heavy] * torch.outer(half, half)
            count[lost], mean[lost], scatter[lost] = count[heavy], mean[heavy] + half, scatter[heavy]
            mean[heavy] -= half
        self._derive()

    @contextmanager
    def widened(self, spread: float) -> Iterator[None]:
        """Inside: every covariance times `spread`, weights and means kept; leaving restores the factors bit for bit."""
        kept = self.scale_tril.clone(), self.whiten.clone()
        try:
            self.scale_tril.mul_(spread**0.5)
            self.whiten.mul_(spread**-0.5)
            yield
        finally:
            self.scale_tril.copy_(kept[0])
            self.whiten.copy_(kept[1])

    @torch.no_grad()
    def refit(self, codes: Tensor, steps: int = 30) -> None:
        """Fit anew to codes [N, D] in random order: components at the first codes, then `steps` steps.

        Fewer codes than two a dimension say too little about a covariance: the mixture then stays as it is.
        """
        if len(codes) < 2 * self.dim:
            return
        k = self.components
        self.count.fill_(1 / k)
        first = codes[torch.arange(k, device=codes.device) % len(codes)]
        self.mean.copy_(first if k > 1 else codes.mean(0, keepdim=True))
        spread = torch.cov(codes.T, correction=0).reshape(self.dim, self.dim) * (0.1 if k > 1 else 1.0)
        self.scatter.copy_(spread.expand(k, -1, -1) / k)
        self._derive()
        for left in track(reversed(range(steps)), "a mixture is fitted to the codes", steps):
            self.fit(codes, 0.0, split=left > 0)  # halves of the last step would never part
