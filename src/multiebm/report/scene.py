"""What every section draws from: a run, its trained model and its data; and the choice of what to show."""

from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.core.tree import per_item
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.evaluation.measurement import JudgesLike
from multiebm.evaluation.result import stream_seed
from multiebm.modalities import Modality
from multiebm.models.model import MultimodalModel
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

    def showing(self, shows: str) -> dict[str, Modality]:
        """Return the modalities that show themselves as "pictures", "points" or "text"."""
        return {name: m for name, m in self.modalities.items() if m.shows == shows}

    @property
    def no_energy(self) -> str:
        """Why there is nothing to show of the data chain; empty where there is."""
        if self.model.energy is None:
            return "the model has no energy"
        return "" if self.model.energy_learned else "the energy has not had a step of training"

    def rng(self, use: str, n: int) -> ItemGenerators:
        """Return one generator an item for the draws called `use`, the same on every call."""
        return item_generators(stream_seed(self.record.experiment.seed, f"report/{use}"), n)

    def raw(self, views: Views) -> Views:
        """Map states [B, ...] to what a model gives its users."""
        return {name: self.modalities[name].to_raw(view) for name, view in views.items()}

    def test_batch(self, n: int, part: str | None = None) -> Batch:
        """Return up to `n` test items that have `part` (or any), spread over the classes, on the model's device."""
        assert self.dataset is not None
        rows = pick_items(self.dataset.test, n, None if part is None else list(self.modalities).index(part))
        return self.dataset.batch("test", rows).to(self.model.device)

    def real(self, batch: Batch) -> Views:
        """Return the raw values [B, ...] of a batch; NaN, which is drawn as nothing, where a part is absent that is no
        text.
        """
        raw = self.raw(batch.views)
        for (name, view), has in zip(raw.items(), batch.present.T, strict=True):
            if view.is_floating_point() and self.modalities[name].shows != "text":
                raw[name] = torch.where(per_item(has, view), view, torch.nan)
        return raw

    def read(self, raw: Views) -> dict[str, Tensor]:
        """Return the classes int64 [B] that the judges read in raw values [B, ...], by the parts with a judge."""
        assert self.judges is not None
        return self.judges.predict({name: self.modalities[name].to_state(raw[name]) for name in self.judges.accuracy})


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
