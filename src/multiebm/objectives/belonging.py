"""How an energy of interaction learns what belongs together: true items against items one of whose parts is foreign.

Conditional InfoNCE, summed over all parts m, after van den Oord et al. 2018 (arXiv 1807.03748, eq. (4)):

    L = -sum_m E log exp f(x_m, x_-m) / [exp f(x_m, x_-m) + sum_j exp f(x_m^(j), x_-m)],    x_m^(j) ~ p(x_m)

The donors x_m^(j) are parts of other items of the batch. For every number of donors the least loss is at
f = log p(X) / prod_m p(x_m) and, of functions of all parts, there alone, up to a constant (docs/methods/belonging.md).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.tree import spread

Head = Callable[[Tensor, Tensor], Tensor]  # features [..., M, F] and present bool [..., M] -> f [...], nats


class BelongingLoss(NamedTuple):
    """`total` to minimise, nats an item; `information` [M], nats: what f knows of I(x_m; x_-m), log(1 + J) at most."""

    total: Tensor
    information: Tensor


def draw_donors(present: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return `n` donors of each part of each item: rows of other items that have it, int64 [B, M, n], -1 for none.

    `present` [B, M]. All other items are equally likely and none comes twice: there are fewer in a small batch.
    """
    donors = torch.full((*present.shape, n), -1, device=present.device)
    for m, here in enumerate(present.T):
        rows = here.nonzero()[:, 0]
        found = min(n, len(rows) - 1)
        if found > 0:
            rows = rows[torch.randperm(len(rows), generator=rng).to(rows.device)]
            after = torch.arange(len(rows))[:, None] + torch.arange(1, found + 1)  # those that follow in a ring
            donors[rows, m, :found] = rows[(after % len(rows)).to(rows.device)]
    return donors


def has_contrast(present: Tensor, donors: Tensor) -> Tensor:
    """Return which parts have a term, bool [B, M]: those there beside another part, of which there is a donor."""
    return present & (present.sum(1, keepdim=True) > 1) & (donors >= 0).any(2)


def contrasts(head: Head, features: Tensor, present: Tensor, donors: Tensor) -> Tensor:
    """Return the terms of the loss [B, M] in nats, by item and part; 0 where there is none (`has_contrast`).

    Features [B, M, F], one pass of the trunks for all donors; `present` [B, M]; `donors` rows int64 [B, M, J].
    """
    true, terms = head(features, present), []
    for m, there in enumerate(has_contrast(present, donors).T):
        rows = there.nonzero()[:, 0]
        of = donors[rows, m]  # [N, J]
        moved = features[rows, None].repeat(1, of.shape[1], 1, 1)  # [N, J, M, F]
        moved[:, :, m] = features[of.clamp_min(0), m]
        foreign = head(moved, present[rows, None].expand(-1, of.shape[1], -1)).masked_fill(of < 0, -torch.inf)
        own = true[rows]
        terms.append(spread(torch.cat([own[:, None], foreign], 1).logsumexp(1) - own, rows, len(features)))
    return torch.stack(terms, 1)


def belonging_loss(head: Head, features: Tensor, present: Tensor, donors: Tensor) -> BelongingLoss:
    """Return the sum of the terms over parts, mean over the items that have any; shapes as of `contrasts`.

    A part that an item lacks has no term and is nobody's donor; an item with fewer than two parts has no term.
    """
    terms, there = contrasts(head, features, present, donors), has_contrast(present, donors)
    total = terms.sum() / there.any(1).sum().clamp_min(1)
    most = (donors >= 0).sum(2).add(1).log()  # nats, what a perfect f would have of parts that say all of each other
    known = torch.where(there, most - terms.detach(), 0.0).sum(0) / there.sum(0).clamp_min(1)
    return BelongingLoss(total, known)
