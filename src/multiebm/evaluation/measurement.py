"""What a metric is, and what it is given: a model, and rows of a data set that can be measured.

A metric looks at a `Measurement` and returns its results by name; what several look at is computed once. Every item has
a generator of its own, so neither the batch size nor the order of metrics changes a sample.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DivergenceError
from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.data.dataset import ClassReader, MultimodalDataset, Split, SplitName
from multiebm.evaluation.result import EvaluationSettings, Result, stream_seed
from multiebm.models.model import MultimodalModel

if TYPE_CHECKING:
    from multiebm.evaluation.pairs import PairJudge

NOT_ASKED = "left out by the settings"
T = TypeVar("T")
K = TypeVar("K")


JudgesLike = ClassReader  # classifiers, or an exact reader of the class


class FeatureReader(Protocol):
    """Whatever turns states into features: judges, or a network of natural pictures."""

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features [B, F] of states [B, *shape], by the modalities that it reads."""
        ...


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model, data and readers of its samples; `skipped` says of each result that is left out why.

    Shares that `judges` read are means over these, the `others` like them, of other seeds; and beside them over sets of
    `robust` ones. Features are those of `judges` alone: distances between other features are other numbers.

    Any `batch_size` (items) gives the same numbers, and every stream of draws derives from `seed`.
    """

    model: MultimodalModel
    dataset: MultimodalDataset
    judges: JudgesLike | None
    settings: EvaluationSettings = EvaluationSettings()
    seed: int = 0
    inception: FeatureReader | None = None
    batch_size: int = 500
    robust: tuple[JudgesLike, ...] = ()
    lite0: FeatureReader | None = None  # of natural pictures
    pairs: "PairJudge | None" = None  # of a part of pictures and one of captions
    others: tuple[JudgesLike, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def plain(self) -> tuple[JudgesLike, ...]:
        """All sets of judges that read parts as they are."""
        return () if self.judges is None else (self.judges, *self.others)

    @property
    def no_chain(self) -> str:
        """Why there is no data chain to measure; empty where there is one."""
        if self.model.energy is None:
            return "the model has no energy, so no data chain"
        learned = self.model.energy_learned
        return "" if learned else "the energy has not had a step of training, so its chain says nothing"

    def skip(self, name: str, why: str) -> dict[str, Any]:
        """Note why `name` is left out, and return no results."""
        self.skipped[name] = why
        return {}

    def once(self, make: Callable[..., T], *key: Hashable) -> T:
        """Return `make(self, *key)`, computed on the first call."""
        if (make, *key) not in self._made:
            self._made[make, *key] = make(self, *key)
        return self._made[make, *key]

    def rng(self, name: str) -> torch.Generator:
        """Return a fresh generator of the stream called `name`."""
        return torch.Generator().manual_seed(stream_seed(self.seed, name))

    def chunks(self, items: Tensor, name: str) -> Iterator[tuple[Tensor, ItemGenerators]]:
        """Yield `items` [N] batch by batch, each item with a generator of its own from the stream called `name`."""
        seed = stream_seed(self.seed, name)
        for first in range(0, len(items), self.batch_size):
            rows = items[first : first + self.batch_size]
            yield rows, item_generators(seed, len(rows), first)

    def given(
        self, split: SplitName, items: Tensor, observed: tuple[str, ...], use: str
    ) -> Iterator[tuple[Batch, ItemGenerators]]:
        """Yield `items` [N] of a split batch by batch with what is `observed` of them alone, for the draws of `use`."""
        for rows, rng in self.chunks(items, f"{use}/{'+'.join(observed)}"):
            batch = self.dataset.batch(split, rows).to(self.model.device)
            present = batch.present & torch.tensor([name in observed for name in batch.views], device=self.model.device)
            yield Batch(mask_views(batch.views, present), present), rng

    def shown(self, views: Views, what: str) -> Views:
        """Return states [B, ...] as users see them: pictures are clamped to their range here, and nowhere else.

        DivergenceError with modality and count where any value is not finite.
        """
        views = self.model.likeliest(views)
        for name, view in views.items():
            if bad := int((~view.isfinite()).flatten(1).any(1).sum()):
                raise DivergenceError(
                    f"{what}: {bad} of {len(view)} generated items of modality {name!r} are not finite, expected all; "
                    f"evaluate an earlier checkpoint or lower the step size"
                )
        return {name: self.model.modalities[name].seen(view) for name, view in views.items()}


def joined(batches: Iterable[dict[K, Tensor]]) -> dict[K, Tensor]:
    """Return batches [B, ...], at least one, as whole tensors [N, ...] on the CPU."""
    parts = list(batches)
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}


def chosen_items(items: Tensor, n: int) -> Tensor:
    """Return `n` of `items` (int64 [N], ascending; all, if there are fewer), the same for every model."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))  # files are often sorted by class
    return items[order[:n].sort().values]


def labelled_items(split: Split) -> Tensor:
    """Return the rows of a split, int64 [N], whose class is known; none without labels."""
    return torch.empty(0, dtype=torch.int64) if split.labels is None else (split.labels >= 0).nonzero()[:, 0]


def complete_items(split: Split, items: Tensor, names: Iterable[str]) -> Tensor:
    """Return those of `items` (int64 of shape [N]) that have every modality of `names`."""
    return items[torch.stack([split.there(name) for name in names]).all(0)[items]]


class Metric(NamedTuple):
    """A row of the table of metrics. `measure(measurement, name)` returns `name` and "name/part" where it can, and
    says in `Measurement.skipped` why not where it cannot.
    """

    measure: Callable[[Measurement, str], dict[str, Result]]
    title: str
    meaning: str  # in plain words, for who reads the number
    best: float | None = None  # value of perfect samples or codes; None: neither more nor less is better
    span: tuple[float, float] = (0.0, 1.0)  # that no value leaves
    needs: tuple[str, ...] = ()  # keys of `NEEDS`
    sources: tuple[str, ...] = ()  # of joint samples, each measured as "source/name"; none: measured as "name"
