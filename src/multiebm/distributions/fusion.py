"""How the experts of one subset become one density: closed forms, for every subset of a scheme at once.

Experts have `loc`, `scale` [E, B, D]; `inside` bool [K, E, B] says which of them subset k has. A prior that counts as
an expert is one more of them, at location 0 and scale 1. A subset without experts is the standard density: 0 and 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.table import Table

LEAST_VARIANCE = 1e-8  # of Hellinger pooling, whose moments are differences of larger numbers

Located = tuple[Tensor, Tensor]  # loc, scale [K, B, D]


class Fusion(NamedTuple):
    """`rule(loc, scale, inside, correlation)` -> (loc, scale) [K, B, D]; families it is right for, and why no other."""

    rule: Callable[[Tensor, Tensor, Tensor, float], Located]
    families: tuple[str, ...]
    reason: str = ""


def _sums(inside: Tensor, *values: Tensor) -> list[Tensor]:
    """Sum values [E, B, D] over the experts of every subset: [K, B, D]."""
    weight = inside.to(values[0].dtype)
    return [torch.einsum("keb,ebd->kbd", weight, value) for value in values]


def _counts(inside: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of experts, at least 1, and whether there are none (as 0 or 1): [K, B, 1] both."""
    n = inside.sum(1)[..., None].to(like.dtype)
    return n.clamp_min(1), (n == 0).to(like.dtype)


def product(loc: Tensor, scale: Tensor, inside: Tensor, correlation: float = 0.0) -> Located:
    """Product of Gaussians: precisions add, shape [E, B, D] -> [K, B, D] (Wu & Goodman 2018, arXiv 1802.05335)."""
    tau = scale.pow(-2)
    total, moment = _sums(inside, tau, tau * loc)
    total = total + _counts(inside, loc)[1]
    return moment / total, total.rsqrt()


def geometric(loc: Tensor, scale: Tensor, inside: Tensor, correlation: float = 0.0) -> Located:
    """Geometric mean of Gaussians, equal weights: precisions average, [E, B, D] -> [K, B, D].

    The dynamic prior of mmJSD (Sutter et al. 2020, arXiv 2006.08242).
    """
    at, width = product(loc, scale, inside)
    return at, width * _counts(inside, loc)[0].sqrt()


def wasserstein(loc: Tensor, scale: Tensor, inside: Tensor, correlation: float = 0.0) -> Located:
    """Barycentre in the 2-Wasserstein distance, equal weights: locations and scales average, [E, B, D] -> [K, B, D].

    Exact for every location-scale family, because quantile functions average (Qiu et al. 2025, arXiv 2412.20487).
    """
    at, width = _sums(inside, loc, scale)
    n, empty = _counts(inside, loc)
    return at / n, width / n + empty


def dependent(loc: Tensor, scale: Tensor, inside: Tensor, correlation: float) -> Located:
    """Consensus of estimates with common correlation rho: [E, B, D] -> [K, B, D] (CoDE-VAE, Mancisidor et al. 2025).

        Sigma_ij = rho s_i s_j,  w = Sigma^-1 1 / (1' Sigma^-1 1),  loc = w' loc,  scale^2 = 1 / (1' Sigma^-1 1)

    in closed form, with a_i = 1 / s_i. rho = 0 is the product. Weights may be negative; the theory allows it.
    """
    a = 1 / scale
    n, empty = _counts(inside, loc)
    sum_a, sum_square, sum_loc, moment = _sums(inside, a, a.square(), a * loc, a.square() * loc)
    kappa = correlation / (1 + (n - 1) * correlation)
    delta = sum_square - kappa * sum_a.square() + (1 - correlation) * empty
    return (moment - kappa * sum_a * sum_loc) / delta, ((1 - correlation) / delta).sqrt()


def hellinger(loc: Tensor, scale: Tensor, inside: Tensor, correlation: float = 0.0) -> Located:
    """Moments of the density proportional to (sum_i sqrt q_i)^2 of Gaussians: [E, B, D] -> [K, B, D] (HELVAE).

    Its cross terms sqrt(q_i q_j) are Gaussians with the mass of the Bhattacharyya coefficient over all dimensions, so
    experts that agree are pooled and those that do not are mixed.
    """
    tau, variance = scale.pow(-2), scale.square()
    both = tau[:, None] + tau  # [E, E, B, D]
    at, width = ((tau[:, None] * loc[:, None] + tau * loc) / both).double(), (2 / both).double()
    spread = variance[:, None] + variance
    overlap = 0.5 * (2 * scale[:, None] * scale / spread).log() - (loc[:, None] - loc).square() / (4 * spread)
    pairs = inside[:, :, None] & inside[:, None]  # [K, E, E, B]
    mass = torch.where(pairs, overlap.sum(-1).exp(), 0.0).double()
    empty = _counts(inside, loc)[1].double()
    share = mass / (mass.sum((1, 2)) + empty[..., 0])[:, None, None]
    # the two moments differ by the variance alone, so they are summed in double precision
    mean = torch.einsum("kijb,ijbd->kbd", share, at)
    square = torch.einsum("kijb,ijbd->kbd", share, width + at.square())
    return mean.to(loc.dtype), (square - mean.square() + empty).clamp_min(LEAST_VARIANCE).sqrt().to(loc.dtype)


_NOT_CLOSED = "of another family is not of that family"
FUSIONS = Table(
    "model.inference.fusion",
    {
        "product": Fusion(product, ("normal",), f"a product of densities {_NOT_CLOSED}"),
        "geometric": Fusion(geometric, ("normal",), f"a geometric mean of densities {_NOT_CLOSED}"),
        "wasserstein": Fusion(wasserstein, ("normal", "laplace")),
        "hellinger": Fusion(hellinger, ("normal",), "its cross terms have a closed form for Gaussians only"),
        "dependent": Fusion(dependent, ("normal",), "the consensus is that of Gaussian estimates"),
    },
)
