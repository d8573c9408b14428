"""A data set is two resident splits of raw tensors; a batch of it is in state space, with an explicit presence mask."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DataError
from multiebm.core.names import Views
from multiebm.modalities import Modality

SplitName = Literal["train", "test"]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Raw storage: `views` by modality (pictures uint8 or float32 [N, C, H, W], vectors float64 or float32 [N, D]),
    `present` bool [N, M] with columns in the order of `views`, `labels` int64 [N] (numbers of classes, -1 where one is
    unknown) or None. Absent entries may hold anything, NaN included.
    """

    views: Views
    present: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return int(self.present.shape[0])

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the view of one modality [N, ...] and where it is present, bool [N]."""
        return self.views[name], self.present[:, list(self.views).index(name)]

    def select(self, rows: Tensor) -> "Split":
        """Return the items in `rows` (int64 [N])."""
        views = {name: view[rows] for name, view in self.views.items()}
        return Split(views, self.present[rows], None if self.labels is None else self.labels[rows])

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {list(view.shape[1:])}" for name, view in self.views.items())
        labels = "no labels" if self.labels is None else "labels"
        return f"Split({len(self)} items: {parts}; {self.present.float().mean():.0%} of parts present; {labels})"


@dataclass(frozen=True, eq=False)
class MultimodalDataset:
    """Named modalities with a train and a test split. `fingerprint` is a sha256 of what the data is, so that anything
    derived from it (a trained classifier, say) can be cached under it. `n_classes` is None without labels; `classes`
    are the labels as they were given, in the order of their numbers, where the user gave them.
    """

    name: str
    modalities: dict[str, Modality]
    train: Split
    test: Split
    n_classes: int | None
    citation: str
    fingerprint: str
    classes: tuple[int | str, ...] | None = None

    def split(self, split: SplitName) -> Split:
        """Return the split called "train" or "test"; DataError for any other name."""
        if split not in ("train", "test"):
            raise DataError(f"data set {self.name!r}: got split {split!r}, expected 'train' or 'test'")
        return self.train if split == "train" else self.test

    def batch(self, split: SplitName, indices: Tensor) -> Batch:
        """Return rows `indices` (int64 [B]) in state space: views [B, ...] float32, zero where absent."""
        rows = self.split(split)
        present = rows.present.index_select(0, indices)
        # index_select copies whole rows; indexing by [] is more than ten times slower on uint8 pictures.
        views = {name: m.to_state(rows.views[name].index_select(0, indices)) for name, m in self.modalities.items()}
        if not bool(present.all()):
            views = mask_views(views, present)
        return Batch(views, present, None if rows.labels is None else rows.labels.index_select(0, indices))


def everything_present(views: Views) -> Tensor:
    """Return the presence mask [N, M] of views that lack nothing."""
    return torch.ones(len(next(iter(views.values()))), len(views), dtype=torch.bool)


def content_fingerprint(modalities: dict[str, Modality], train: Split, test: Split) -> str:
    """Return the sha256 of the modalities and of every value that is present, with type and shape, labels included."""
    digest = hashlib.sha256(repr(list(modalities.values())).encode())
    for rows in (train, test):
        batch_views = rows.views if bool(rows.present.all()) else mask_views(rows.views, rows.present)
        labels = () if rows.labels is None else (rows.labels,)
        for tensor in (rows.present, *labels, *batch_views.values()):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def too_few(dataset: str, counts: Mapping[str, int]) -> list[str]:
    """Return a problem of the settings of `dataset` for each of `counts` that is below 1."""
    return [f"{dataset}.{key}: got {n}, expected at least 1; raise it" for key, n in counts.items() if n < 1]
