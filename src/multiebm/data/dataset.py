"""A data set is two resident splits of raw tensors; a batch of it is in state space, with an explicit presence mask.

Training reads an endless stream of shuffled batches that resumes exactly: the order is a function of (seed, epoch).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.cells import FEW_ROWS
from multiebm.core.errors import DataError
from multiebm.core.handed import SHOWN, Array
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.modalities import Modality
from multiebm.modalities.gaps import Code, codes_in

SplitName = Literal["train", "test"]
UNSAID = (
    "if that says that a value is missing, leave such cells empty (NaN) and train with --missing nan (in Python "
    "missing='nan'), or mask them"
)


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Raw storage: `views` by modality (pictures uint8 or float32 [N, C, H, W], vectors float64 or float32 [N, D]),
    `present` bool [N, M] with columns in the order of `views`, `labels` int64 [N] (numbers of classes, -1 where one is
    unknown) or None. Absent entries may hold anything, NaN included. `rows`: int64 [N], which rows of the user's own
    arrays these are. `at`: int64 [N] by modality, of those whose values several items share: a view is then [K, ...],
    each value once, and `at` says which of them an item has.
    """

    views: Views
    present: Tensor
    labels: Tensor | None = None
    rows: Tensor | None = None
    at: Views = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.present.shape[0])

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of one modality [N, ...] and where it is present, bool [N]. Shared ones are copied to each
        item; `there` and `take` copy less.
        """
        view = self.views[name]
        return view[self.at[name]] if name in self.at else view, self.there(name)

    def there(self, name: str) -> Tensor:
        """Return where one modality is present, bool [N]."""
        return self.present[:, list(self.views).index(name)]

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Return the values of one modality [B, ...] of the items in `rows` (int64 [B])."""
        if name in self.at:
            rows = self.at[name].index_select(0, rows)
        # index_select copies whole rows; indexing by [] is more than ten times slower on uint8 pictures.
        return self.views[name].index_select(0, rows)

    def known(self, name: str) -> Tensor:
        """Return the values of one modality [K, ...] that items have, shared ones once."""
        there = self.there(name)
        return self.views[name][self.at[name][there].unique() if name in self.at else there]

    def select(self, rows: Tensor) -> "Split":
        """Return the items in `rows` (int64 [N]): views [N, ...] but for shared ones, `present` [N, M]."""
        views = {name: view if name in self.at else view[rows] for name, view in self.views.items()}
        labels, own = (None if of is None else of[rows] for of in (self.labels, self.rows))
        return Split(views, self.present[rows], labels, own, {name: of[rows] for name, of in self.at.items()})

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {list(view.shape[1:])}" for name, view in self.views.items())
        labels = "no labels" if self.labels is None else "labels"
        return f"Split({len(self)} items: {parts}; {self.present.float().mean():.0%} of parts present; {labels})"


class Kept(NamedTuple):
    """What the data set `arrays` is made of anew: arrays [N, ...] as in an .npz, and its settings beside `path`."""

    arrays: dict[str, Array]
    settings: dict[str, Any]


class ClassReader(Protocol):
    """Whatever reads the class of parts: trained judges, or where it can be read off exactly, a rule."""

    @property
    def accuracy(self) -> dict[str, float]:
        """Shares of real test items that are read correctly, by the modalities that are read."""
        ...

    def predict(self, views: Views) -> dict[str, Tensor]:
        """Return classes int64 [B] of states [B, *shape], by modality."""
        ...

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features [B, F] of states [B, *shape], by the modalities that it reads."""
        ...


@dataclass(frozen=True, eq=False)
class MultimodalDataset:
    """Named modalities with a train and a test split. `fingerprint` is a sha256 of what the data is, so that anything
    derived from it (a trained classifier, say) can be cached under it. `n_classes` is None without labels; `classes`
    are the labels as they were given, in the order of their numbers, where the user gave them. `kept`: what a run keeps
    of data that were handed over in Python, to be evaluated from its folder. `exact` reads classes in place of judges.
    """

    name: str
    modalities: dict[str, Modality]
    train: Split
    test: Split
    n_classes: int | None
    citation: str
    fingerprint: str
    classes: tuple[int | str, ...] | None = None
    kept: Kept | None = None
    exact: ClassReader | None = None

    def describe(self) -> str:
        """Return it in words: "photo: 32x32 RGB pictures; sensors: 12 numbers; 80 rows to train, 20 to test".

        More lines name what is constant in training, columns without a value or that number the rows, parts that no row
        to train on has, `codes`, and `outliers`, where there are some.
        """
        parts = "; ".join(f"{name}: {m.describe()}" for name, m in self.modalities.items())
        missing = 1 - torch.cat([self.train.present, self.test.present]).float().mean().item()
        gaps = f"; {missing:.1%} of parts missing" if missing else ""
        for name, m in self.modalities.items():
            if m.lacks_cells:
                there = torch.cat([split.known(name) for split in (self.train, self.test)])
                share = float(there.isnan().float().mean()) if len(there) else 0.0
                gaps += f"; {share:.1%} of the cells of {name} missing" if share else ""
        told = self._unvaried() + self._counters()
        if none := [name for name in self.modalities if not self.train.there(name).any()]:
            told += f"\nno row to train on has {' or '.join(none)}, so nothing is learned of it; is `present` inverted?"
        elif len(self.modalities) > 1 and not (self.train.present.sum(1) > 1).any():
            told += (
                "\nno row to train on has two parts, so nothing joins them; put parts of one item into one row or name"
            )
        for found in self.codes().values():
            told += f"\n{found}; {UNSAID}"
        for name, far in self.outliers().items():
            told += (
                f"\n{far}; leave such cells empty, or, where they are right, train with --kind {name}="
                f"{self.modalities[name].kind},standardise=robust and model.parts.{name}.likelihood=student_t"
            )
        return f"{parts}; {len(self.train)} rows to train, {len(self.test)} to test{gaps}{told}"

    def _unvaried(self) -> str:
        """Return the lines of `describe` of what is constant in training, or has no value there."""
        same, alike, empty = list[str](), list[str](), list[str]()
        for name, m in self.modalities.items():
            if not len(known := self.train.known(name)):
                continue
            same += _listed(name, m.constant(known))
            if m.shows == "pictures" and torch.equal(known[0], known[-1]) and bool((known == known[0]).all()):
                alike.append(f"all pictures of {name} are the same")
            if m.lacks_cells:
                empty += _listed(name, [m.column(place) for place in known.isnan().all(0).nonzero()[:, 0].tolist()])
        constant = "; ".join([*([f"columns of {'; '.join(same)}"] if same else []), *alike])
        told = f"\nconstant in training, so nothing is learned of them: {constant}" if constant else ""
        has = "\nhas no value in training and comes back as 0, so leave it out: columns of"
        return f"{told}{has} {'; '.join(empty)}" if empty else told

    def _counters(self) -> str:
        """Return the line of `describe` of named columns that number the rows, one after the other in any order."""
        found = list[str]()
        for name, m in self.modalities.items():
            if not (m.by_cell and m.intervals and m.columns):
                continue
            values = torch.cat([split.known(name) for split in (self.train, self.test)])
            if (n := len(values)) < FEW_ROWS:
                continue
            at = (values.amax(0) - values.amin(0) == n - 1).nonzero()[:, 0]
            each = (values[:, at].sort(0).values.diff(dim=0) == 1).all(0)
            found += _listed(name, [m.column(place) for place in at[each].tolist()])
        return f"\nnumbers the rows, so leave it out if it names them: columns of {'; '.join(found)}" if found else ""

    def codes(self) -> dict[str, str]:
        """Return by part of numbers which values, far outside the others of a column in training and in many of its
        cells, may be codes such as -999 for what is missing, where there are some.
        """
        found = {}
        for name, m in self.modalities.items():
            if of := self._codes_of(name):
                shown = [
                    f"{code.value:g} in {code.share:.0%} of column {m.column(code.column)}, whose others are "
                    f"{code.low:g} to {code.high:g}"
                    for code in of[:SHOWN]
                ]
                more = f", ... ({len(of)} in all)" if len(of) > SHOWN else ""
                found[name] = f"far outside the other values of {name}: {'; '.join(shown)}{more}"
        return found

    def _codes_of(self, name: str) -> list[Code]:
        numbers = self.modalities[name].by_cell and self.modalities[name].intervals
        return codes_in(known.numpy()) if numbers and len(known := self.train.known(name)) else []

    def outliers(self) -> dict[str, str]:
        """Return by part which values squash the others of their columns in training; none of columns with `codes`."""
        found = {}
        for name, m in self.modalities.items():
            if not m.by_cell:  # of other kinds nothing is far off, and pairs of pictures would be copied
                continue
            at = self.train.there(name).nonzero()[:, 0]
            values = self.train.take(name, at)
            coded = {code.column for code in self._codes_of(name)}
            far = [of for of in m.far_off(values) if of[0] not in coded]
            shown = []
            for column, place, deviations in far[:SHOWN]:
                row = int(at[place] if self.train.rows is None else self.train.rows[at[place]])
                value = f"{float(values[place, column]):g}"
                shown.append(
                    f"{value} in row {row}, column {m.column(column)} ({deviations:.2g} deviations from the median)"
                )
            if far:
                more = f", ... ({len(far)} columns in all)" if len(far) > SHOWN else ""
                found[name] = (
                    f"outliers of {name}, beside which other values look all the same: {'; '.join(shown)}{more}"
                )
        return found

    def split(self, split: SplitName) -> Split:
        """Return the split called "train" or "test"; DataError for any other name."""
        if split not in ("train", "test"):
            raise DataError(f"data set {self.name!r}: got split {split!r}, expected 'train' or 'test'")
        return self.train if split == "train" else self.test

    def batch(self, split: SplitName, indices: Tensor) -> Batch:
        """Return rows `indices` (int64 [B]) in state space: views [B, ...] float32, zero where absent."""
        rows = self.split(split)
        indices = indices.to(rows.present.device)
        present = rows.present.index_select(0, indices)
        views = {name: m.to_state(rows.take(name, indices)) for name, m in self.modalities.items()}
        if not bool(present.all()):
            views = mask_views(views, present)
        return Batch(views, present, None if rows.labels is None else rows.labels.index_select(0, indices))


def _listed(name: str, columns: Sequence[str]) -> list[str]:
    """Return the first of the columns of a part in words, where there are any."""
    more = f", ... ({len(columns)} in all)" if len(columns) > SHOWN else ""
    return [f"{name}: {', '.join(columns[:SHOWN])}{more}"] if columns else []


def everything_present(views: Views) -> Tensor:
    """Return the presence mask [N, M] of views that lack nothing."""
    return torch.ones(len(next(iter(views.values()))), len(views), dtype=torch.bool)


def content_fingerprint(modalities: dict[str, Modality], train: Split, test: Split) -> str:
    """Return the sha256 of the modalities and of every value that is present, with type and shape, labels included."""
    digest = hashlib.sha256(repr(list(modalities.values())).encode())
    for rows in (train, test):
        whole = bool(rows.present.all())
        views = rows.views if whole else mask_views({name: rows.of(name)[0] for name in rows.views}, rows.present)
        labels = () if rows.labels is None else (rows.labels,)
        digest.update("".join(rows.at).encode())
        for tensor in (rows.present, *labels, *views.values(), *rows.at.values()):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def too_few(dataset: str, counts: Mapping[str, int | None]) -> list[str]:
    """Return a problem of the settings of `dataset` for each of `counts` that is below 1; None: no limit."""
    low = {key: n for key, n in counts.items() if n is not None and n < 1}
    return [f"{dataset}.{key}: got {n}, expected at least 1; raise it" for key, n in low.items()]


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the permutation, int64 of shape [n], of epoch `epoch` of the stream named by `seed`."""
    return torch.randperm(n, generator=make_generator((seed * 1_000_003 + epoch) % 2**63))


class BatchStream(Iterator[Batch]):
    """Batches of `batch_size` rows of one split, in state space, without end; the incomplete last batch is dropped.

    Raises DataError when the split holds fewer rows than one batch.
    """

    def __init__(self, dataset: MultimodalDataset, split: SplitName, batch_size: int, seed: int) -> None:
        n = len(dataset.split(split))
        if not 1 <= batch_size <= n:
            raise DataError(
                f"batches of data set {dataset.name!r}: got batch_size {batch_size}, expected 1 to {n}, the rows of "
                f"its {split} split; lower batch_size or supply more data"
            )
        self.dataset, self.split, self.batch_size, self._n = dataset, split, batch_size, n
        self._go_to(seed, epoch=0, position=0)

    def _go_to(self, seed: int, epoch: int, position: int) -> None:
        self.seed, self.epoch, self._position = seed, epoch, position
        self._order = epoch_order(self._n, seed, epoch)

    def __next__(self) -> Batch:
        if self._position >= self._n // self.batch_size:
            self._go_to(self.seed, self.epoch + 1, 0)
        start = self._position * self.batch_size
        self._position += 1
        return self.dataset.batch(self.split, self._order[start : start + self.batch_size])

    def state_dict(self) -> dict[str, int]:
        """Return everything the next batch depends on, besides the data: plain integers."""
        place = {"seed": self.seed, "epoch": self.epoch, "position": self._position}
        return place | {"batch_size": self.batch_size, "rows": self._n}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; DataError if it belongs to other data or to another batch size."""
        for key, here in (("batch_size", self.batch_size), ("rows", self._n)):
            if state[key] != here:
                raise DataError(
                    f"resuming the {self.split} stream of {self.dataset.name!r}: got {key} {state[key]} in the saved "
                    f"state, expected {here}; resume with the data and batch size of the run, or start a new run"
                )
        self._go_to(state["seed"], state["epoch"], state["position"])
