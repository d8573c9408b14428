"""Gaussians with dependent coordinates, by the Cholesky factor of their precision: N(loc, (L L')^-1), L = `root`."""

import math

import torch
from torch import Tensor

from multiebm.core.random import Randomness, randn


def rsample(rng: Randomness, loc: Tensor, root: Tensor) -> Tensor:
    """Draw [..., D] at `loc` [..., D], `root` [..., D, D]; differentiable in both."""
    noise = randn(rng, loc.shape, loc)
    return loc + torch.linalg.solve_triangular(root.mT, noise[..., None], upper=True)[..., 0]


def log_prob(x: Tensor, loc: Tensor, root: Tensor) -> Tensor:
    """Return the log density in nats: x [..., D] -> [...]."""
    away = (root.mT @ (x - loc)[..., None])[..., 0]
    return log_root_det(root) - 0.5 * (away.square().sum(-1) + loc.shape[-1] * math.log(2 * math.pi))


def kl_to_standard(loc: Tensor, root: Tensor) -> Tensor:
    """Return KL(q || N(0, I)) in nats, loc [..., D] -> [...]."""
    eye = torch.eye(loc.shape[-1], dtype=loc.dtype, device=loc.device).expand_as(root)
    inverse = torch.linalg.solve_triangular(root, eye, upper=False)  # the trace of the covariance is its squared size
    trace, size = inverse.square().sum((-2, -1)), loc.square().sum(-1)
    return 0.5 * (trace + size - loc.shape[-1]) + log_root_det(root)


def log_mass(loc: Tensor, root: Tensor) -> Tensor:
    """Return the log of the integral of N(z; 0, I) exp(pull' z - z' precision z / 2), loc [..., D] -> [...].

    `loc` and `root` are those of the density that it is, normalised.
    """
    return 0.5 * (root.mT @ loc[..., None])[..., 0].square().sum(-1) - log_root_det(root)


def log_root_det(root: Tensor) -> Tensor:
    """Return log det L, half of the log determinant of the precision: [..., D, D] -> [...]."""
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
