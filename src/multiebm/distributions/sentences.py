"""The density of captions: a categorical one of each token, given what a decoder says of its position."""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.random import Randomness, rand
from multiebm.core.tokens import counted, ended, one_hot, tokens_of

LEAST = 1e-9  # probability of a token: log 0 has no gradient


class Sentences(NamedTuple):
    """p(x | mean) = prod_t mean_t[x_t] over positions up to the end mark; the last can only be that, and counts not."""

    weight: float = 1.0

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the weight times `log_density`: [B, T, V] -> [B] in nats."""
        return self.weight * self.log_density(x, mean)

    def log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the sum of log mean_t[x_t] over words and their end: [B, T, V] -> [B] in nats."""
        return self.cells(x, mean).sum(1)

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log mean_t[x_t] of each position, 0 behind the end: [B, T, V] -> [B, T] in nats."""
        tokens = tokens_of(x)
        said = mean.gather(2, tokens[..., None])[..., 0].clamp_min(LEAST).log()
        return torch.where(counted(tokens), said, 0.0)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw captions as states: [B, T, V] -> [B, T, V]."""
        share, at = mean.cumsum(2), rand(rng, mean.shape[:2], mean)[..., None]
        drawn = (share <= at * share[..., -1:]).sum(2).clamp_max(mean.shape[2] - 1)
        return one_hot(ended(drawn), mean.shape[2]).to(mean)
