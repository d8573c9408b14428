"""Families of latents: location and scale in one dimension, applied elementwise, normal and Laplace."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.random import Randomness, rand, randn
from multiebm.core.table import Table

# 1 - 2|u| may be 0 in float32 when u = -1/2 exactly; log of it would be -inf.
_SMALLEST_TAIL = 1e-7


class Family(NamedTuple):
    """`log_prob(x, loc, scale)` elementwise, in nats; `rsample(rng, loc, scale)`, broadcast shape [..., D].

    `kl(loc, scale, loc_p, scale_p)` elementwise, KL(q || p) in nats. The density to the power 1 / T, normalised, is of
    the same family with `scale` times T^exponent.
    """

    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    rsample: Callable[[Randomness, Tensor, Tensor], Tensor]
    kl: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    exponent: float


def _normal_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((x - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def _normal_rsample(rng: Randomness, loc: Tensor, scale: Tensor) -> Tensor:
    return loc + scale * randn(rng, torch.broadcast_shapes(loc.shape, scale.shape), loc)


def _normal_kl(loc: Tensor, scale: Tensor, loc_p: Tensor, scale_p: Tensor) -> Tensor:
    return (scale_p / scale).log() + (scale.square() + (loc - loc_p).square()) / (2 * scale_p.square()) - 0.5


def _laplace_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -(x - loc).abs() / scale - (2 * scale).log()


def _laplace_rsample(rng: Randomness, loc: Tensor, scale: Tensor) -> Tensor:
    u = rand(rng, torch.broadcast_shapes(loc.shape, scale.shape), loc) - 0.5
    return loc - scale * u.sign() * (1 - 2 * u.abs()).clamp_min(_SMALLEST_TAIL).log()


def _laplace_kl(loc: Tensor, scale: Tensor, loc_p: Tensor, scale_p: Tensor) -> Tensor:
    away = (loc - loc_p).abs()
    return (scale_p / scale).log() + (away + scale * (-away / scale).exp()) / scale_p - 1


NORMAL = Family(_normal_log_prob, _normal_rsample, _normal_kl, 0.5)
LAPLACE = Family(_laplace_log_prob, _laplace_rsample, _laplace_kl, 1.0)
FAMILIES = Table("family", {"normal": NORMAL, "laplace": LAPLACE})
