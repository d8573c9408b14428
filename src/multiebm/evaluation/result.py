"""A number, and how each sort of number gets its standard error."""

import hashlib
from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.errors import DataError

TRUSTED_ACCURACY = 0.95  # a coherence read by a classifier that is worse than this on real test data says little
RESAMPLES = 5  # as the Frechet distances of the literature are usually reported


class Result(NamedTuple):
    """A number, its standard error (same unit) and the number of items it was computed from.

    All are finite. One item says nothing of its own error: the standard error of n = 1 is 0, and `n` says why.
    """

    value: float
    standard_error: float
    n: int


def is_trustworthy(accuracy: dict[str, float]) -> bool:
    """Return whether every judge reads at least 95 % of the real test items of its modality correctly."""
    return min(accuracy.values()) >= TRUSTED_ACCURACY


def proportion(hits: Tensor) -> Result:
    """Return the share of true entries of `hits`, shape [N], and its binomial standard error sqrt(p (1 - p) / N)."""
    n = hits.numel()
    if n == 0:
        raise DataError(f"a proportion of no items: got hits of shape {tuple(hits.shape)}, expected at least one item")
    p = float(hits.double().mean())
    return Result(p, sqrt(p * (1 - p) / n), n)


def mean_of_items(values: Tensor) -> Result:
    """Return the mean over columns of the column means of `values` [N, K], NaN where an entry does not exist.

    The standard error treats rows as independent and the entries of a row as not: it is that of the row means, hence
    the binomial one for K = 1 and zeros and ones.
    """
    rows = values.double().nanmean(1)
    rows = rows[~rows.isnan()]
    if rows.numel() == 0:
        raise DataError(f"a mean of no items: got values of shape {tuple(values.shape)}, all undefined")
    value = float(values.double().nanmean(0).nanmean())
    return Result(value, float(rows.std(correction=0)) / sqrt(rows.numel()), rows.numel())


def mean_and_columns(name: str, hits: dict[str, Tensor]) -> dict[str, Result]:
    """Return `name`, the mean over columns, and "name/column" of `hits`, 0 or 1 by column [N], NaN where undefined.

    A column without an entry is left out, and nothing is left of none.
    """
    defined = {column: hit for column, hit in hits.items() if not hit.isnan().all()}
    if not defined:
        return {}
    each = {f"{name}/{column}": proportion(hit[~hit.isnan()]) for column, hit in defined.items()}
    return {name: mean_of_items(torch.stack(list(defined.values()), 1))} | each


def bootstrap_deviation(
    statistic: Callable[[Tensor], Tensor], n: int, rng: torch.Generator, resamples: int = RESAMPLES
) -> Tensor:
    """Return the standard deviation of `statistic(rows)` over `resamples` draws of n rows with replacement.

    `rows`: indices of shape [n]. Efron (1979), https://doi.org/10.1214/aos/1176344552.
    """
    draws = [statistic(torch.randint(n, (n,), generator=rng)) for _ in range(resamples)]
    return torch.stack(draws).double().std(0)


def mean_and_parts(
    name: str, samples: dict[str, Tensor], statistic: Callable[[str, Tensor], Tensor], rng: torch.Generator
) -> dict[str, Result]:
    """Return `name`, the mean over parts, and "name/part": `statistic(part, samples[part])`, of shape [].

    Samples are [N, ...] by part. Standard errors are deviations over 5 resamples of them, of all parts the same items.
    Nothing is left of no part.
    """
    if not samples:
        return {}

    def values(rows: Tensor) -> Tensor:
        each = torch.stack([statistic(part, own[rows]) for part, own in samples.items()])
        return torch.cat([each.mean().reshape(1), each])

    n = len(next(iter(samples.values())))
    numbers = zip(values(torch.arange(n)).tolist(), bootstrap_deviation(values, n, rng).tolist(), strict=True)
    names = (name, *(f"{name}/{part}" for part in samples))
    return {key: Result(value, error, n) for key, (value, error) in zip(names, numbers, strict=True)}


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream called `name`, so that no two metrics share draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:5], "big")
