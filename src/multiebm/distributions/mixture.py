"""A mixture of K components per item, diagonal or Gaussian: the one form of every posterior over the shared latent."""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.random import ItemGenerators, Randomness, rand
from multiebm.distributions import gaussian
from multiebm.distributions.families import Family

# Stratified uniforms keep this far (in units of 1/B) from the edges between experts, so that rounding moves no item.
_EDGE = 1e-3


class Diagonal(NamedTuple):
    """One diagonal location-scale density per item: `loc`, `scale` [B, D], or [M, B, D] for the experts of M parts.

    With a `root` [B, D, D], the Cholesky factor of a precision, it is a Gaussian with dependent coordinates instead.
    """

    loc: Tensor
    scale: Tensor
    family: Family
    root: Tensor | None = None

    def rsample(self, rng: Randomness) -> Tensor:
        """Draw [B, D], differentiable in `loc` and `scale`."""
        if self.root is not None:
            return gaussian.rsample(rng, self.loc, self.root)
        return self.family.rsample(rng, self.loc, self.scale)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density in nats: x [..., B, D] -> [..., B]."""
        if self.root is not None:
            return gaussian.log_prob(x, self.loc, self.root)
        return self.family.log_prob(x, self.loc, self.scale).sum(-1)

    def select(self, rows: Tensor) -> "Diagonal":
        """Return the densities of the items in `rows` (int64 [N], any may come again): [..., N, D]."""
        root = None if self.root is None else self.root[..., rows, :, :]
        return self._replace(loc=self.loc[..., rows, :], scale=self.scale[..., rows, :], root=root)

    def detach(self) -> "Diagonal":
        """Return the same density as a constant: no gradient reaches loc or scale, [B, D]."""
        root = None if self.root is None else self.root.detach()
        return self._replace(loc=self.loc.detach(), scale=self.scale.detach(), root=root)


class Mixture(NamedTuple):
    """`loc`, `scale` [K, B, D]; normalised `log_weight` [K, B]; `members` bool [K, M]: evidence of component k, or
    [K, B, M] of component k of each item.

    The density of eq. (5) of arXiv 2605.00644, with weights that need not be equal. With a `root` [K, B, D, D], the
    Cholesky factors of their precisions, components are Gaussians with dependent coordinates.
    """

    loc: Tensor
    scale: Tensor
    log_weight: Tensor
    members: Tensor
    family: Family
    root: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """The mean of the mixture, [B, D]."""
        return (self.log_weight.exp()[..., None] * self.loc).sum(0)

    def component_log_prob(self, z: Tensor) -> Tensor:
        """Return log q_k(z) for every component: z [..., B, D] -> [..., K, B] in nats."""
        if self.root is not None:
            return gaussian.log_prob(z.unsqueeze(-3), self.loc, self.root)
        return self.family.log_prob(z.unsqueeze(-3), self.loc, self.scale).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log sum_k w_k q_k(z), eq. (5), arXiv 2605.00644: z [..., B, D] -> [..., B] in nats."""
        return (self.component_log_prob(z) + self.log_weight).logsumexp(-2)

    def select(self, rows: Tensor) -> "Mixture":
        """Return the mixtures of the items in `rows` (int64 [N], any may come again): [K, N, D]."""
        root = None if self.root is None else self.root[:, rows]
        loc, scale, log_weight = self.loc[:, rows], self.scale[:, rows], self.log_weight[:, rows]
        members = self.members if self.members.dim() == 2 else self.members[:, rows]
        return self._replace(loc=loc, scale=scale, log_weight=log_weight, members=members, root=root)

    def detach(self) -> "Mixture":
        """Return the same density as a constant: no gradient reaches loc, scale [K, B, D] or the weights."""
        root = None if self.root is None else self.root.detach()
        loc, scale, log_weight = self.loc.detach(), self.scale.detach(), self.log_weight.detach()
        return self._replace(loc=loc, scale=scale, log_weight=log_weight, root=root)

    def rsample_all(self, rng: Randomness, n: int) -> Tensor:
        """Draw n times from every component: [n, K, B, D], differentiable in `loc` and `scale`."""
        loc = self.loc.expand(n, *self.loc.shape)
        if self.root is not None:
            return gaussian.rsample(rng, loc, self.root)
        return self.family.rsample(rng, loc, self.scale)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return r_k = softmax_k of log w_k q_k(z), its gradient's weights in eq. (12): z [B, D] -> [K, B]."""
        return (self.component_log_prob(z) + self.log_weight).softmax(0)

    def members_of(self, index: Tensor) -> Tensor:
        """Return the evidence of the component that each item was assigned to: index [B] -> bool [B, M]."""
        if self.members.dim() == 2:
            return self.members[index]
        return self.members[index, torch.arange(len(index), device=index.device)]

    def assign(self, rng: Randomness) -> Tensor:
        """Draw one component per item, int64 of shape [B], by the inverse of its weights' distribution function.

        With one for the batch the uniforms are stratified over the batch, so with equal weights every component gets
        B/K items, rounded up or down (balanced assignment); per-item generators draw independently.
        """
        n = self.log_weight.shape[1]
        if isinstance(rng, ItemGenerators):
            u = rand(rng, (n, 1), self.log_weight)[:, 0]  # [B]
        else:
            order = torch.randperm(n, generator=rng, device=rng.device)
            # a random offset, or experts in the middle of the order would get less whenever K does not divide B
            offset = torch.rand((), generator=rng, device=rng.device).clamp(_EDGE, 1 - _EDGE)
            u = ((order + offset) / n).to(self.log_weight.device)
        edges = self.log_weight.exp().cumsum(0)  # [K, B]
        # rounding of the last edge must not pick a component that is absent
        last = (self.log_weight > -torch.inf).float().cumsum(0).argmax(0)
        return torch.minimum((u >= edges).sum(0), last)

    def component(self, index: Tensor) -> Diagonal:
        """Return the component that each item was assigned to: index [B] -> Diagonal over [B, D]."""
        items = torch.arange(index.shape[0], device=index.device)
        root = None if self.root is None else self.root[index, items]
        return Diagonal(self.loc[index, items], self.scale[index, items], self.family, root)
