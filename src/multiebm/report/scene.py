"""What every section draws from: a run, its trained model and its data; and the choice of what to show."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.modality import Modality, Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.base import JudgesLike, stream_seed
from multiebm.models.model import MultimodalModel
from multiebm.report.figures import Cloud, draw_clouds
from multiebm.report.record import RunRecord

SHOWN = 8  # pictures in a row
POINTS = 300  # items of a scatter chart


class Scene(NamedTuple):
    """A run folder's record, its model in evaluation mode, its data set, and judges where the caller has them."""

    record: RunRecord
    model: MultimodalModel
    dataset: MultimodalDataset
    judges: JudgesLike | None = None

    @property
    def modalities(self) -> dict[str, Modality]:
        """The model's modalities by name."""
        return self.model.modalities

    @property
    def has_pictures(self) -> bool:
        """Whether any modality is a picture."""
        return any(m.kind == "picture" for m in self.modalities.values())

    def generators(self, use: str, n: int) -> ItemGenerators:
        """Return one generator per item for the draws called `use`, the same on every call."""
        return item_generators(stream_seed(self.record.experiment.seed, f"report/{use}"), n)

    def raw(self, views: Views) -> Views:
        """Map state-space views [B, ...] to raw values of the same shape, as users see them."""
        return {name: self.modalities[name].to_raw(view) for name, view in views.items()}

    def test_batch(self, n: int) -> Batch:
        """Return `n` test items (or all, if fewer), spread over the classes, on the model's device."""
        return self.dataset.batch("test", pick_items(self.dataset.test, n)).to(self.model.device)


def pick_items(split: Split, n: int) -> Tensor:
    """Return the indices int64 [min(n, N)] of items to show: complete ones if they suffice, classes evenly spread."""
    complete = split.present.all(1).nonzero()[:, 0]
    rows = complete if len(complete) >= n else torch.arange(len(split))
    if split.labels is None:
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
    real = scene.raw(scene.test_batch(POINTS).views)
    for name, modality in scene.modalities.items():
        if modality.kind == "vector":
            clouds = [Cloud(title, to_points(views[name]), colour, shades) for title, views, colour in titled]
            charts[name] = draw_clouds(f"{name}: {what}", clouds, to_points(real[name]))
    return charts


def to_points(values: Tensor) -> npt.NDArray[np.floating]:
    """Return the first two coordinates of raw vectors [N, D] for a chart: [N, 1 or 2]."""
    points: npt.NDArray[np.floating] = values[:, :2].detach().cpu().numpy()
    return points
