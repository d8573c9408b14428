"""Observation models p(x_m | z) with a fixed scale, and their weight in sums over modalities."""

from typing import NamedTuple

from torch import Tensor

from multiebm.distributions.families import Family


class Likelihood(NamedTuple):
    """Family around the decoder mean with constant `scale` (never learned: revised data would let it shrink without
    bound) and `weight` lambda_m.
    """

    family: Family
    scale: float
    weight: float = 1.0

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return weight * log p(x | mean), summed over the item: [B, ...] -> [B] in nats."""
        return self.weight * self.log_density(x, mean)

    def log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x | mean) itself, summed over the item: [B, ...] -> [B] in nats."""
        return self.family.log_prob(x, mean, mean.new_tensor(self.scale)).flatten(1).sum(1)
