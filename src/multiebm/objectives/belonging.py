"""How an energy of interaction learns what belongs together: true items against items one of whose parts is foreign.

Conditional InfoNCE, summed over all parts m, after van den Oord et al. 2018 (arXiv 1807.03748, eq. (4)):

    L = -sum_m E log exp f(x_m, x_-m) / [exp f(x_m, x_-m) + sum_j exp f(x_m^(j), x_-m)],    x_m^(j) ~ p(x_m)

The donors x_m^(j) are parts of other items of the batch. For every number of donors the least loss is at
f = log p(X) / prod_m p(x_m) and, of functions of all parts, there alone, up to a constant (docs/methods/belonging.md).
Where a share e of the donors is corrupted, of density c, it is at f = log p(X) / prod_m [(1 - e) p(x_m) + e c(x_m)].
"""

from collections.abc import Callable
from math import log1p
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


def with_corrupted(donors: Tensor, own: Tensor, there: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Return `donors` [B, M, J] with each exchanged for a corrupted part with probability `share`, rows B, B + 1, ...

    Corrupted row k, [K], is of item `own` [K] and has parts `there` [K, M], all equally likely. No item gets a part of
    its own, or what is corrupted would depend on its other parts, and the optimum with it.
    """
    items, parts, j = donors.shape
    pick, chosen = (torch.rand(donors.shape, generator=rng).to(donors.device) for _ in range(2))
    found = donors.clone()
    for m in range(parts):
        rows = there[:, m].nonzero()[:, 0]
        if not len(rows):
            continue
        row = rows[(pick[:, m] * len(rows)).long().clamp_max(len(rows) - 1)]  # [B, J]
        foreign = own[row] != torch.arange(items, device=donors.device)[:, None]
        taken = (chosen[:, m] < share) & foreign & (donors[:, m] >= 0)
        found[:, m] = torch.where(taken, items + row, donors[:, m])
    return found


def higher(true: Tensor, other: Tensor) -> Tensor:
    """Return 1 where a true item [N] has a higher value than another [..., K], and a half for ties: [..., N, K]."""
    return (true[:, None] > other[..., None, :]).double() + 0.5 * (true[:, None] == other[..., None, :]).double()


def has_contrast(present: Tensor, donors: Tensor) -> Tensor:
    """Return which parts have a term, bool [B, M]: those there beside another part, of which there is a donor."""
    return present & (present.sum(1, keepdim=True) > 1) & (donors >= 0).any(2)


def contrasts(head: Head, features: Tensor, present: Tensor, donors: Tensor) -> Tensor:
    """Return the terms of the loss [B, M] in nats, by item and part; 0 where there is none (`has_contrast`).

    Features [B + K, M, F], one pass of the trunks for all donors, of which K are corrupted; `present` [B, M]; `donors`
    rows int64 [B, M, J].
    """
    n = len(present)
    true, terms = head(features[:n], present), []
    for m, there in enumerate(has_contrast(present, donors).T):
        rows = there.nonzero()[:, 0]
        of = donors[rows, m]  # [N, J]
        moved = features[rows, None].repeat(1, of.shape[1], 1, 1)  # [N, J, M, F]
        moved[:, :, m] = features[of.clamp_min(0), m]
        foreign = head(moved, present[rows, None].expand(-1, of.shape[1], -1)).masked_fill(of < 0, -torch.inf)
        own = true[rows]
        terms.append(spread(torch.cat([own[:, None], foreign], 1).logsumexp(1) - own, rows, n))
    return torch.stack(terms, 1)


def belonging_loss(
    head: Head, features: Tensor, present: Tensor, donors: Tensor, corrupted: float = 0.0
) -> BelongingLoss:
    """Return the sum of the terms over parts, mean over the items that have any; shapes as of `contrasts`.

    The share of `corrupted` donors gives away -log(1 - share) nats at most, which are no information about other parts.

    A part that an item lacks has no term and is nobody's donor; an item with fewer than two parts has no term.
    """
    terms, there = contrasts(head, features, present, donors), has_contrast(present, donors)
    total = terms.sum() / there.any(1).sum().clamp_min(1)
    most = (donors >= 0).sum(2).add(1).log()  # nats, what a perfect f would have of parts that say all of each other
    known = torch.where(there, most - terms.detach() + log1p(-corrupted), 0.0).sum(0) / there.sum(0).clamp_min(1)
    return BelongingLoss(total, known)
