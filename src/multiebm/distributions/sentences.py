"""The density of captions: a categorical one of each token, given what a decoder says of its position."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multiebm.core.random import Randomness, rand
from multiebm.core.tokens import counted, ended, one_hot, tokens_of
from multiebm.distributions.likelihoods import Observation

LEAST = 1e-9  # probability of a token: log 0 has no gradient
WIDTH = 64  # of what reads the words before one


@dataclass(frozen=True)
class Sentences(Observation):
    """p(x | mean) = prod_t mean_t[x_t] over positions up to the end mark; the last can only be that, and counts not."""

    weight: float = 1.0

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


class Causal(nn.Module, Observation):
    """p(x | mean) = prod_t p(x_t | x_<t, mean_t), each a softmax of log mean_t and what the words before it say.

    A recurrent network (GRU, Cho et al. 2014, arXiv 1406.1078) reads these words. So words of a sample follow each
    other, where positions that are independent given the latents mix the forms that a sentence may have.
    """

    def __init__(self, size: int, weight: float = 1.0, width: int = WIDTH) -> None:
        super().__init__()
        self.weight = weight
        self.words, self.net = nn.Linear(size, width, bias=False), nn.GRU(width, width, batch_first=True)
        self.say = nn.Linear(width, size)

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x_t | x_<t, mean_t) of each position, 0 behind the end: [B, T, V] -> [B, T] in nats."""
        tokens = tokens_of(x)
        said = self._behind(tokens, mean).gather(2, tokens[..., None])[..., 0]
        return torch.where(counted(tokens), said, 0.0)

    def marginal(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Return p(x_t | x_<t, mean_t) along captions drawn: [B, T, V] -> [B, T, V].

        Their mean over draws is the probability of a word at its place, whatever stands before it.
        """
        drawn = self.sample(mean, rng)
        tokens = tokens_of(drawn)
        return torch.where(counted(tokens)[..., None], self._behind(tokens, mean).exp(), drawn)

    def _behind(self, tokens: Tensor, mean: Tensor) -> Tensor:
        """Return log probabilities [B, T, V] of each token, given those of `tokens` [B, T] before it."""
        read = torch.nn.functional.embedding(tokens[:, :-1], self.words.weight.T)
        return self._shares(mean, self.net(torch.nn.functional.pad(read, (0, 0, 1, 0)))[0])

    def _shares(self, mean: Tensor, read: Tensor) -> Tensor:
        """Return log probabilities [B, T, V] of tokens, given what was read [B, T, K]."""
        return (mean.clamp_min(LEAST).log() + self.say(read).to(mean.dtype)).log_softmax(2)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw captions as states, word by word: [B, T, V] -> [B, T, V]."""
        return self._said(mean, rand(rng, mean.shape[:2], mean))

    def mode(self, mean: Tensor) -> Tensor:
        """Return captions as states, each word the likeliest behind those before it: [B, T, V] -> [B, T, V]."""
        return self._said(mean, None)

    def _said(self, mean: Tensor, at: Tensor | None) -> Tensor:
        """Say captions word by word: the one at the place `at` [B, T] of its probabilities, or the likeliest."""
        drawn, kept = list[Tensor](), None
        read = self.words.weight.new_zeros(len(mean), 1, self.net.hidden_size)
        for t in range(mean.shape[1]):
            out, kept = self.net(read, kept)
            share = self._shares(mean[:, t : t + 1], out)[:, 0].exp()
            if at is None:
                word = share.argmax(1)
            else:
                below = share.cumsum(1)
                word = (below <= at[:, t : t + 1] * below[:, -1:]).sum(1).clamp_max(mean.shape[2] - 1)
            drawn.append(word)
            read = torch.nn.functional.embedding(word[:, None], self.words.weight.T)
        return one_hot(ended(torch.stack(drawn, 1)), mean.shape[2]).to(mean)
