"""Factor analysis with a prior on loadings, and with gaps: x = loc + W z + noise, z ~ N(0, I), the noise by column.

The EM algorithm of Rubin & Thayer 1982 (https://doi.org/10.1007/BF02293851). A missing cell drops out of its row, which
is exact: given z cells are independent.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.progress import task

LEAST_NOISE = 1e-3  # share of a column's variance that is noise: columns that repeat others would have none
TOLERANCE = 1e-4  # nats a row and step of EM, below which it ends
STEPS = 100  # of EM at most
TURNS, SETTLED = 100, 1e-4  # of the start at most, until no column's noise changes by more
WIDE, TURNS_OF_WIDE = 200, 10  # columns, with more of which the start takes that many turns
FEW = 32  # patterns of gaps, up to which sums over rows are products of matrices, one a pattern
FOLDS, MANY = 5, 500  # of the cross-validation that chooses the prior on loadings; of so many rows one fold does
SHRINK = (1.0, 10.0, 100.0, 1000.0)  # precisions of the prior on loadings that it tries, in units of a column's noise


class Factors(NamedTuple):
    """`loc` [F], loadings [F, K] and `noise` [F], the variance of what factors leave, of F columns; float64."""

    loc: Tensor
    loadings: Tensor
    noise: Tensor

    def in_units(self, loc: Tensor, unit: Tensor) -> "Factors":
        """Return the factors of (x - loc) / unit, [F] both."""
        return Factors((self.loc - loc) / unit, self.loadings / unit[:, None], self.noise / unit.square())

    def posterior(self, x: Tensor) -> Tensor:
        """Return E[z | x] [N, K] of rows [N, F], NaN where a cell is missing."""
        return self.expect(x, *_patterns(x))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) [N] in nats of what there is of rows [N, F], NaN where a cell is missing."""
        return self.expect(x, *_patterns(x))[2]

    def expect(self, x: Tensor, patterns: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return E[z | x] [N, K], covariances [P, K, K] of z by pattern of gaps, and log p(x) [N]; `patterns` bool
        [P, F] of the cells that are there, and the one `index` [N] that a row has.
        """
        off = torch.nan_to_num(x.double() - self.loc, nan=0.0)
        weighed = self.loadings / self.noise[:, None]
        eye = torch.eye(self.loadings.shape[1], dtype=torch.float64)
        if len(patterns) <= FEW:
            precision = eye + torch.stack([weighed[own].T @ self.loadings[own] for own in patterns])
        else:
            squares = (weighed[:, :, None] * self.loadings[:, None]).flatten(1)  # [F, K K]
            precision = eye + (patterns.double() @ squares).view(-1, *eye.shape)
        root = torch.linalg.cholesky(precision)
        covariance, pull = torch.cholesky_inverse(root), off @ weighed
        if len(patterns) <= FEW:
            mean = torch.zeros_like(pull)
            for i, own in enumerate(covariance):
                mean[index == i] = pull[index == i] @ own
        else:
            mean = (covariance[index] @ pull[..., None])[..., 0]
        fixed = patterns.double() @ (self.noise * 2 * torch.pi).log() + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return mean, covariance, 0.5 * ((pull * mean).sum(1) - (off.square() / self.noise).sum(1) - fixed[index])


def _patterns(x: Tensor) -> tuple[Tensor, Tensor]:
    patterns, index = (~x.isnan()).unique(dim=0, return_inverse=True)
    return patterns, index


def factor_analysis(x: Tensor, k: int, shrink: float = 1.0, start: Factors | None = None) -> Factors:
    """Return `k` factors of rows [N, F], NaN where a cell is missing; `start` is where it begins, if not by itself.

    Loadings have the prior N(0, noise / shrink): few rows make small ones. A column without two values has none.
    """
    x, (patterns, index) = x.double(), _patterns(x)
    there = ~x.isnan()
    n = there.sum(0).clamp_min(1)
    loc = torch.nan_to_num(x, nan=0.0).sum(0) / n
    spread = (torch.nan_to_num(x - loc, nan=0.0).square().sum(0) / n).sqrt()
    unit = torch.where(spread > 1e-9 * (1 + loc.abs()), spread, 1.0)
    seen = (x - loc) / unit
    off = torch.nan_to_num(seen, nan=0.0)
    variance = off.square().sum(0) / n
    before, eye = -torch.inf, torch.eye(k, dtype=torch.float64)
    own = _start(off, variance, k) if start is None else start.in_units(loc, unit)
    rows = torch.zeros(len(patterns), dtype=torch.float64).index_add(0, index, torch.ones(len(x), dtype=torch.float64))
    for _ in range(STEPS):
        z, covariance, log_p = own.expect(seen, patterns, index)
        prior = 0.5 * shrink * (own.loadings.square().sum(1) / own.noise).sum() / len(x)
        if (value := float(log_p.mean() - prior)) - before < TOLERANCE:
            break
        before, xz = value, off.T @ z  # [F, K]
        squares = rows[:, None, None] * covariance  # [P, K, K]
        if len(patterns) <= FEW:
            squares += torch.stack([z[index == i].T @ z[index == i] for i in range(len(patterns))])
        else:
            squares = squares.index_add(0, index, z[:, :, None] * z[:, None])
        if len(patterns) == 1:  # all columns share one system
            loadings = torch.linalg.solve(squares[0] + shrink * eye, xz.T).T
        else:
            zz = torch.einsum("pf,pkl->fkl", patterns.double(), squares)
            loadings = torch.linalg.solve(zz + shrink * eye, xz[..., None])[..., 0]
        noise = variance - (loadings * xz).sum(1) / n
        own = Factors(own.loc, loadings, noise.clamp_min(LEAST_NOISE))
    return own.in_units(-loc / unit, 1 / unit)


def _start(off: Tensor, variance: Tensor, k: int) -> Factors:
    """Return where EM starts: the factors of standardised rows [N, F] whose gaps are at the mean.

    By turns the loadings that are likeliest given the noise, and the noise that these leave (Joreskog 1967,
    https://doi.org/10.1007/BF02289658).
    """
    noise, wide = variance.clamp_min(LEAST_NOISE), off.shape[1] > len(off)
    second = None if wide else off.T @ off / len(off)
    kept, loadings = min(k, *off.shape), off.new_zeros(off.shape[1], k)
    for _ in range(TURNS if len(variance) <= WIDE else TURNS_OF_WIDE):
        root = noise.sqrt()
        if second is None:  # the same values of a smaller matrix, of rows
            scaled = off / root / len(off) ** 0.5
            values, mixed = torch.linalg.eigh(scaled @ scaled.T)
            axes = scaled.T @ mixed / values.clamp_min(1e-12).sqrt()
        else:
            values, axes = torch.linalg.eigh(second / (root[:, None] * root))
        loadings[:, :kept] = root[:, None] * axes[:, -kept:] * (values[-kept:] - 1).clamp_min(0).sqrt()
        before, noise = noise, (variance - loadings.square().sum(1)).clamp_min(LEAST_NOISE)
        if float((noise - before).abs().max()) < SETTLED:
            break
    return Factors(torch.zeros_like(variance), loadings, noise)


def chosen_factors(x: Tensor, k: int, parts: Sequence[Tensor]) -> Factors:
    """Return `k` factors of rows [N, F], in random order, with the prior on loadings that predicts best.

    What is predicted, in rows that were left out, is each of the `parts` (bool [F]: its columns) from the others.
    """
    n, tried = len(x), dict.fromkeys(SHRINK, 0.0)
    fold, folds = torch.arange(n) % FOLDS, 0 if n < 2 * FOLDS else 1 if n >= MANY else FOLDS
    with task("start: factor analysis", folds * len(SHRINK) + 1) as advance:
        for left_out in range(folds):
            _try(x[fold != left_out], x[fold == left_out], k, parts, tried, advance)
        best = min(tried, key=tried.__getitem__) if folds else SHRINK[-1]
        found = factor_analysis(x, k, best)
        advance(1)
    return found


def _try(
    kept: Tensor,
    out: Tensor,
    k: int,
    parts: Sequence[Tensor],
    tried: dict[float, float],
    advance: Callable[[int], None],
) -> None:
    """Add to `tried`, by the prior on loadings, the error of factors of rows `kept` [N, F] on the others, `out`."""
    found = None
    for shrink in SHRINK:
        found = factor_analysis(kept, k, shrink, found)
        unit = found.loadings.square().sum(1) + found.noise  # the variance of a column
        for own in parts:
            codes = found.posterior(torch.where(own, torch.nan, out))
            off = out[:, own] - found.loc[own] - codes @ found.loadings[own].T
            squares = off.square() / unit[own]
            tried[shrink] += float(squares.nansum() / (~squares.isnan()).sum().clamp_min(1))
        advance(1)
