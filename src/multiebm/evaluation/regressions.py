"""What a part is without any model of it: the mean of training, regression on the other parts, and neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.evaluation.measurement import Measurement, chosen_items
from multiebm.modalities.base import Columns

TRAIN_ROWS = 5000  # that regressions are fitted to, at most
CELLS, LEAST_ROWS = 2**25, 500  # numbers that these have at most, but for so many rows
COMPONENTS = 256  # principal ones, to which all other parts together are reduced where they have more columns each
AVERAGE, REGRESSION, NEIGHBOURS = ("mean", "regression", "neighbours")
NEAREST = 10  # neighbours whose mean is a prediction


class Scaling(NamedTuple):
    """Mean `at` and deviation `spread` [K] of a part's columns in training, and `axes` [K, F] of the larger ones."""

    at: Tensor
    spread: Tensor
    axes: Tensor | None

    def columns(self, flat: Tensor) -> Columns:
        """Return columns [N, K], NaN where one is missing, standardised, the mean where missing: [N, F]."""
        scaled = ((flat - self.at) / torch.where(self.spread > 0, self.spread, 1.0)).nan_to_num(nan=0.0)
        return (scaled if self.axes is None else scaled @ self.axes).numpy()


class Training(NamedTuple):
    """Training rows on the CPU, as many as regressions are fitted to, and the scaling of each part."""

    batch: Batch
    scalings: dict[str, Scaling]

    def columns(self, batch: Batch, names: Sequence[str]) -> Columns:
        """Return the columns of some parts of a batch side by side: [N, F]."""
        return np.concatenate([self.scalings[name].columns(flat(batch, name)) for name in names], 1)


def training(m: Measurement) -> Training:
    """Return the training rows that regressions are fitted to."""
    rows = min(TRAIN_ROWS, max(LEAST_ROWS, CELLS // sum(part.size for part in m.dataset.modalities.values())))
    batch = m.dataset.batch("train", chosen_items(torch.arange(len(m.dataset.train)), rows))
    scalings, each = {}, COMPONENTS // max(1, len(m.dataset.modalities) - 1)
    for name in m.dataset.modalities:
        own = flat(batch, name)
        at, spread = moments(own)
        scaling = Scaling(at, spread, None)
        if own.shape[1] > COMPONENTS and bool((spread > 0).any()):  # what never varies has no components
            from sklearn.decomposition import PCA  # late: scikit-learn takes a second to import

            scaled = scaling.columns(own)
            pca = PCA(min(each, len(scaled)), svd_solver="randomized", random_state=0).fit(scaled)
            scaling = Scaling(at, spread, torch.from_numpy(pca.components_.T))
        scalings[name] = scaling
    return Training(batch, scalings)


def flat(batch: Batch, name: str) -> Tensor:
    """Return a part's states as columns [N, K] in float64, NaN where the part or a cell is missing."""
    return torch.where(batch.there()[name], batch.views[name], torch.nan).flatten(1).double()


def moments(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation [K] of columns [N, K] over what is there; 0 where nothing is."""
    at = columns.nanmean(0).nan_to_num(nan=0.0)
    return at, (columns - at).square().nanmean(0).sqrt().nan_to_num(nan=0.0)


def predictions(m: Measurement, part: str, observed: Sequence[str], test: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Return what the mean, regression and neighbours predict of a part of `test` items [N, ...] from what is observed,
    in the numbers that its kind judges by, and their deviation in training [...]. Missing inputs are at their mean.
    """
    t, modality = m.once(training), m.dataset.modalities[part]
    names = list(m.dataset.modalities)
    known = t.batch.present[:, [names.index(other) for other in observed]].any(1)
    rows = (t.batch.present[:, names.index(part)] & known).nonzero()[:, 0]
    there = t.batch.select(rows)
    judged = modality.judged(torch.where(there.there()[part], there.views[part], torch.nan))
    y = judged.flatten(1).double()
    at, spread = moments(y)
    shape, n = judged.shape[1:], len(test.present)
    found = {AVERAGE: at.expand(n, -1)}
    if len(rows) > 1:
        from sklearn.neighbors import KNeighborsRegressor

        x, new = t.columns(there, observed), t.columns(test, observed)
        whole = torch.where(y.isnan(), at, y).numpy()
        near = KNeighborsRegressor(min(NEAREST, len(rows))).fit(x, whole).predict(new)
        found |= {REGRESSION: torch.from_numpy(modality.regress(x, y.numpy(), new)), NEIGHBOURS: torch.from_numpy(near)}
    return {name: of.reshape(n, *shape).float() for name, of in found.items()}, spread.reshape(shape).float()
