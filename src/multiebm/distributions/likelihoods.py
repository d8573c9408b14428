"""What is assumed of data around a decoder's mean: noise with a scale, fixed or learned, or black and white."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multiebm.core.random import Randomness, rand
from multiebm.core.table import Table
from multiebm.distributions.families import LAPLACE, NORMAL, Family

DEGREES = 4.0  # of freedom of Student's t: the fewest whole ones but for 3 with a variance, 2 of the scale squared
START_SCALE = 0.3  # at which a learned scale begins, state units
LEAST_SCALE = 0.02  # that a learned one may have, state units: samples that a chain refines would let it shrink to 0
LEAST_DRAW = 2.0**-25  # stands for a uniform draw of 0 in float32, whose next one is 2^-24
EDGE = 1e-4  # least probability of black or white: log 0 has no gradient
PACE = 10.0  # Adam moves a scale by 1 % a step at a rate of 1e-3, as fast as what networks give


class Observation(ABC):
    """p(x | mean) of one item's state, and its `weight`, the factor on this part in sums over modalities."""

    weight: float

    @abstractmethod
    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p of each value, 0 where it is missing: [B, ...] -> [B, K] in nats, whose sum is `log_density`."""

    @abstractmethod
    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw states from p(x | mean): [B, ...] -> [B, ...]."""

    def log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x | mean), summed over what there is of the item: [B, ...] -> [B] in nats."""
        return self.cells(x, mean).sum(1)

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the weight times `log_density`: [B, ...] -> [B] in nats."""
        return self.weight * self.log_density(x, mean)


class Noise(NamedTuple):
    """`log_prob(x, mean, scale)` elementwise, in nats; `rsample(rng, mean, scale)`, broadcast shape [..., D].

    `deviation`: the standard deviation at scale 1.
    """

    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    rsample: Callable[[Randomness, Tensor, Tensor], Tensor]
    deviation: float = 1.0


def _t_log_prob(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    constant = math.lgamma((DEGREES + 1) / 2) - math.lgamma(DEGREES / 2) - 0.5 * math.log(DEGREES * math.pi)
    return constant - scale.log() - (DEGREES + 1) / 2 * (((x - mean) / scale).square() / DEGREES).log1p()


def _t_rsample(rng: Randomness, mean: Tensor, scale: Tensor) -> Tensor:
    """Bailey (1994): the polar method for normal draws, whose radius has the tails of t."""
    shape = torch.broadcast_shapes(mean.shape, scale.shape)
    radius = (DEGREES * (rand(rng, shape, mean).clamp_min(LEAST_DRAW).pow(-2 / DEGREES) - 1)).sqrt()
    return mean + scale * radius * (2 * math.pi * rand(rng, shape, mean)).cos()


LIKELIHOODS = Table(
    "likelihood",
    {
        "normal": Noise(NORMAL.log_prob, NORMAL.rsample),
        "laplace": Noise(LAPLACE.log_prob, LAPLACE.rsample, 2**0.5),
        "student_t": Noise(_t_log_prob, _t_rsample, (DEGREES / (DEGREES - 2)) ** 0.5),
    },
)


@dataclass(frozen=True)
class Likelihood(Observation):
    """p(x_m | z): noise of this `scale` around the decoder mean, and `weight` lambda_m in sums over modalities.

    With `gaps` NaN is a cell that is missing: what is left is exactly the marginal, as cells are independent.
    """

    family: Family | Noise
    scale: float | Tensor
    weight: float = 1.0
    gaps: bool = False

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p of each number, 0 where it is missing: [B, ...] -> [B, K] in nats."""
        if not self.gaps:
            return self.family.log_prob(x, mean, self._scale(mean)).flatten(1)
        there = ~x.isnan()
        cells = self.family.log_prob(torch.where(there, x, 0.0), mean, self._scale(mean))
        return torch.where(there, cells, 0.0).flatten(1)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw mean plus noise: [B, ...] -> [B, ...]."""
        return self.family.rsample(rng, mean, self._scale(mean))

    def _scale(self, like: Tensor) -> Tensor:
        return self.scale.to(like) if isinstance(self.scale, Tensor) else like.new_tensor(self.scale)


class LearnedScale(nn.Module, Observation):
    """A likelihood whose scale, of a shape that broadcasts over items, the bound teaches; at least LEAST_SCALE."""

    def __init__(self, noise: Noise, shape: tuple[int, ...], weight: float, gaps: bool) -> None:
        super().__init__()
        self.noise, self.weight, self.gaps = noise, weight, gaps
        self.log_scale = nn.Parameter(torch.full(shape, math.log(START_SCALE - LEAST_SCALE) / PACE))

    @torch.no_grad()
    def begin(self, deviation: Tensor) -> None:
        """Set the scale so that the noise has these standard deviations [D], or their mean square where it is one."""
        own = deviation if self.log_scale.numel() == deviation.numel() else deviation.square().mean().sqrt()[None]
        scale = (own / self.noise.deviation - LEAST_SCALE).clamp_min(LEAST_SCALE / 10)
        self.log_scale.copy_((scale.log() / PACE).view_as(self.log_scale))

    @property
    def now(self) -> Likelihood:
        """The likelihood at the scale that is learned so far."""
        scale = LEAST_SCALE + (PACE * self.log_scale).exp()
        return Likelihood(self.noise, scale, self.weight, self.gaps)

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p of each number, 0 where it is missing: [B, ...] -> [B, K] in nats."""
        return self.now.cells(x, mean)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw mean plus noise: [B, ...] -> [B, ...]."""
        return self.now.sample(mean, rng)


@dataclass(frozen=True)
class Bernoulli(Observation):
    """Black or white, states -1 and 1, with a probability that grows from 0 to 1 as the mean does from -1 to 1.

    Greys are soft targets, a share of white: their cross entropy, which is no density over greys.
    """

    weight: float = 1.0

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return v log p + (1 - v) log(1 - p) of v = (x + 1) / 2 and p = (mean + 1) / 2: [B, ...] -> [B, K] in nats."""
        v, p = (x + 1) / 2, ((mean + 1) / 2).clamp(EDGE, 1 - EDGE)
        return (v * p.log() + (1 - v) * (-p).log1p()).flatten(1)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw black or white, -1 or 1: [B, ...] -> [B, ...]."""
        return 2 * (rand(rng, mean.shape, mean) < (mean + 1) / 2).to(mean.dtype) - 1
