"""Captions as tokens [B, T] and as states [B, T, V]: V numbers for each of T positions, of which the largest counts.

A caption ends at its first END, what follows is END too, and so is the last position: every caption has an end.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

END, UNKNOWN = 0, 1  # of every vocabulary: what ends a caption and fills what follows, and any word that it has not


def ended(tokens: Tensor) -> Tensor:
    """Return tokens int64 [B, T], END from the first END on and at the last position."""
    tokens = tokens.clone()
    tokens[:, -1] = END
    return tokens.masked_fill((tokens == END).cumsum(1) > 0, END)


def tokens_of(state: Tensor) -> Tensor:
    """Return the tokens int64 [B, T] of states [B, T, V], the nearest one-hot rows of a caption."""
    return ended(state.detach().argmax(-1))


def one_hot(tokens: Tensor, size: int) -> Tensor:
    """Return tokens int64 [..., T] as float32 states [..., T, size], 1 at the token and 0 elsewhere."""
    return F.one_hot(tokens, size).to(torch.float32)


def counted(tokens: Tensor) -> Tensor:
    """Return where tokens [B, T] count, bool: words and the END behind them, but at the last place, always END."""
    before = (tokens == END).cumsum(1) - (tokens == END).long()
    found = before == 0
    found[:, -1] = False
    return found


def share_changed(before: Tensor, after: Tensor) -> Tensor:
    """Return the share [B] of the places at which captions `before` and `after`, tokens [B, T], differ: of those up to
    the end of the longer one, ends included; 0 where both are empty and alike.
    """
    told = counted(before) | counted(after)
    return ((before != after) & told).sum(1) / told.sum(1).clamp_min(1)
