"""What every section draws from: a run, its trained model and its data; and the choice of what to show."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.modality import Modality, Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.core.tree import per_item
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import JudgesLike
from multiebm.evaluation.result import stream_seed
from multiebm.models.model import MultimodalModel
from multiebm.report.figures import Cloud, draw_clouds
from multiebm.report.record import RunRecord

NEEDS_DATA = "it needs the run's data, which are not at hand (the reason stands among the facts at the top)"
SHOWN = 8  # pictures in a row
POINTS = 300  # items of a scatter chart


class Scene(NamedTuple):
    """A run folder's record, its model in evaluation mode, its data set, and judges where there are any.

    Without the data (`dataset` None) `no_data` says why, and what needs them is left out.
    """

    record: RunRecord
    model: MultimodalModel
    dataset: MultimodalDataset | None
    judges: JudgesLike | None = None
    no_data: str = ""

    @property
    def modalities(self) -> dict[str, Modality]:
        """The model's modalities by name."""
        return self.model.modalities

    @property
    def has_pictures(self) -> bool:
        """Whether any modality is a picture."""
        return any(m.kind == "picture" for m in self.modalities.values())

    @property
    def no_energy(self) -> str:
        """Why there is nothing to show of the data chain; empty where there is."""
        if self.model.energy is None:
            return "the model has no energy"
        return "" if self.model.energy_learned else "the energy has not had a step of training"

    def generators(self, use: str, n: int) -> ItemGenerators:
        """Return one generator per item for the draws called `use`, the same on every call."""
        return item_generators(stream_seed(self.record.experiment.seed, f"report/{use}"), n)

    def raw(self, views: Views) -> Views:
        """Map state-space views [B, ...] to what is shown: pictures in [0, 1], vectors in their own units."""
        return self.seen({name: self.modalities[name].to_raw(view) for name, view in views.items()})

    def seen(self, raw: Views) -> Views:
        """Map what a model gives its users [B, ...] to what is shown: pictures of a declared range to [0, 1]."""
        return {name: self.modalities[name].shown(view) for name, view in raw.items()}

    def test_batch(self, n: int, part: str | None = None) -> Batch:
        """Return `n` test items that have `part` (or any; all, if fewer), spread over the classes, on the model's
        device.
        """
        assert self.dataset is not None
        rows = pick_items(self.dataset.test, n, None if part is None else list(self.modalities).index(part))
        return self.dataset.batch("test", rows).to(self.model.device)

    def real(self, batch: Batch) -> Views:
        """Return the raw values [B, ...] of a batch; NaN, which is shown as nothing, where a part is absent."""
        shown = zip(self.raw(batch.views).items(), batch.present.T, strict=True)
        return {name: torch.where(per_item(has, view), view, torch.nan) for (name, view), has in shown}

    def real_points(self, n: int = POINTS) -> Views:
        """Return raw test items [up to n, ...] as `real` does; none without data."""
        if self.dataset is None:
            return {name: torch.empty(0, *m.shape) for name, m in self.modalities.items()}
        return self.real(self.test_batch(n))

    def read(self, views: Views) -> dict[str, Tensor]:
        """Return what the judges read in states as users see them, labels int64 [B], by the parts with a judge."""
        assert self.judges is not None
        return self.judges.predict({n: self.modalities[n].clamp_state(views[n]) for n in self.judges.accuracy})


def pick_items(split: Split, n: int, column: int | None = None) -> Tensor:
    """Return the indices int64 [min(n, N)] of items to show: complete ones if they suffice, classes evenly spread.

    Others have at least one part if any item has, and that of `column` if one is given.
    """
    complete = split.present.all(1).nonzero()[:, 0]
    having = split.present.any(1) if column is None else split.present[:, column]
    having = having | (column is None and not having.any())
    rows = complete if len(complete) >= n else having.nonzero()[:, 0]
    if split.labels is None or not len(rows):
        return rows[:n]
    labels = split.labels[rows]
    classes = labels.unique()
    if n < len(classes):
        wanted = classes[torch.arange(n) * len(classes) // n]
        return torch.stack([rows[labels == c][0] for c in wanted])
    turn = torch.zeros(len(rows), dtype=torch.int64)  # how many of its class come before a row
    for c in classes:
        turn[labels == c] = torch.arange(int((labels == c).sum()))
    return rows[torch.argsort(turn * (int(classes.max()) + 1) + labels, stable=True)[:n]]


def cloud_charts(
    scene: Scene, what: str, titled: list[tuple[str, Views, int]], classes: Tensor | None = None
) -> dict[str, str]:
    """Return a scatter chart for every vector modality: a panel per (title, raw views [N, D], colour) over real items.

    `classes` [N] colour the points of every panel. Of more than two coordinates the first two are shown.
    """
    charts, shades = {}, None if classes is None else classes.cpu().numpy()
    real = scene.real_points()
    for name, modality in scene.modalities.items():
        if modality.kind == "vector":
            clouds = [Cloud(title, to_points(views[name]), colour, shades) for title, views, colour in titled]
            charts[name] = draw_clouds(f"{name}: {what}", clouds, to_points(real[name]))
    return charts


def to_points(values: Tensor) -> npt.NDArray[np.floating]:
    """Return the first two coordinates of raw vectors [N, D] for a chart: [N, 1 or 2]."""
    points: npt.NDArray[np.floating] = values[:, :2].detach().cpu().numpy()
    return points
