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
FEW = 32  # patterns of gaps, up to which sums go by pattern (`_Few`), beyond by row (`_Many`); systems of columns
FOLDS = 5  # of the cross-validation that chooses the prior on loadings
MANY, LARGE = 500, 2**16  # rows, and cells, with which one fold does
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
        return self.expect(x, _gaps(x))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) [N] in nats of what there is of rows [N, F], NaN where a cell is missing."""
        return self.expect(x, _gaps(x))[2]

    def expect(self, x: Tensor, gaps: "_Few | _Many") -> tuple[Tensor, Tensor, Tensor]:
        """Return E[z | x] [N, K], covariances [P, K, K] of z by pattern of gaps, and log p(x) [N] of rows [N, F]."""
        off = torch.nan_to_num(x.double() - self.loc, nan=0.0)
        weighed = self.loadings / self.noise[:, None]
        eye = torch.eye(self.loadings.shape[1], dtype=torch.float64)
        root = torch.linalg.cholesky(eye + gaps.products(weighed, self.loadings))
        covariance, pull = torch.cholesky_inverse(root), off @ weighed
        mean, there = gaps.times(pull, covariance), gaps.patterns.double()
        fixed = there @ (self.noise * 2 * torch.pi).log() + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return mean, covariance, 0.5 * ((pull * mean).sum(1) - (off.square() / self.noise).sum(1) - fixed[gaps.of_row])


class _Few(NamedTuple):
    """Which cells rows have: `patterns` [P, F] (bool) and `of_row` [N]. Sums go by pattern, as products of matrices."""

    patterns: Tensor
    of_row: Tensor

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a' b over the cells of each pattern, of a and b [F, K]: [P, K, K]."""
        return torch.stack([a[own].T @ b[own] for own in self.patterns])

    def times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Return each of the rows [N, K] times the matrix of its pattern, symmetric [P, K, K]: [N, K]."""
        found = torch.zeros_like(rows)
        for i, own in enumerate(matrices):
            found[self.of_row == i] = rows[self.of_row == i] @ own
        return found

    def with_squares(self, sums: Tensor, z: Tensor) -> Tensor:
        """Return sums [P, K, K] and z' z of the rows z [N, K] of each pattern."""
        return sums + torch.stack([z[self.of_row == i].T @ z[self.of_row == i] for i in range(len(self.patterns))])


class _Many(NamedTuple):
    """`_Few` of so many patterns that sums go by row."""

    patterns: Tensor
    of_row: Tensor

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a' b over the cells of each pattern, of a and b [F, K]: [P, K, K]."""
        each = (a[:, :, None] * b[:, None]).flatten(1)  # [F, K K]
        return (self.patterns.double() @ each).view(-1, a.shape[1], b.shape[1])

    def times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Return each of the rows [N, K] times the matrix of its pattern, symmetric [P, K, K]: [N, K]."""
        return (matrices[self.of_row] @ rows[..., None])[..., 0]

    def with_squares(self, sums: Tensor, z: Tensor) -> Tensor:
        """Return sums [P, K, K] and z' z of the rows z [N, K] of each pattern."""
        return sums.index_add(0, self.of_row, z[:, :, None] * z[:, None])


def _gaps(x: Tensor) -> _Few | _Many:
    patterns, index = (~x.isnan()).unique(dim=0, return_inverse=True)
    return (_Few if len(patterns) <= FEW else _Many)(patterns, index)


def factor_analysis(x: Tensor, k: int, shrink: float = 1.0, start: Factors | None = None) -> Factors:
    """Return `k` factors of rows [N, F], NaN where a cell is missing; `start` is where it begins, if not by itself.

    Loadings have the prior N(0, noise / shrink): few rows make small ones. A column without two values has none.
    """
    x, gaps = x.double(), _gaps(x)
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
    rows = gaps.of_row.bincount(minlength=len(gaps.patterns)).double()
    rows_of, alike = gaps.patterns.double().T.unique(dim=0, return_inverse=True)  # columns of the same rows
    for _ in range(STEPS):
        z, covariance, log_p = own.expect(seen, gaps)
        prior = 0.5 * shrink * (own.loadings.square().sum(1) / own.noise).sum() / len(x)
        if (value := float(log_p.mean() - prior)) - before < TOLERANCE:
            break
        before, xz = value, off.T @ z  # [F, K]
        squares = gaps.with_squares(rows[:, None, None] * covariance, z)  # [P, K, K]
        systems = torch.einsum("up,pkl->ukl", rows_of, squares) + shrink * eye
        if len(systems) <= FEW:
            loadings = torch.empty_like(xz)
            for i, system in enumerate(systems):
                loadings[alike == i] = torch.linalg.solve(system, xz[alike == i].T).T
        else:
            loadings = torch.linalg.solve(systems[alike], xz[..., None])[..., 0]
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
    one = n >= MANY or x.numel() >= LARGE
    fold, folds = torch.arange(n) % FOLDS, 0 if n < 2 * FOLDS else 1 if one else FOLDS
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
