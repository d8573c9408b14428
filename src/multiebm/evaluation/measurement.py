"""What a metric is, what it is given, and what it may need.

A metric looks at a `Measurement` and returns its results by name; what several look at is computed once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from multiebm.core.names import Views
from multiebm.core.random import ItemGenerators, item_generators
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.evaluation import EvaluationSettings
from multiebm.evaluation.result import Result, stream_seed
from multiebm.models.model import MultimodalModel

NOT_ASKED = "left out by the settings"
T = TypeVar("T")
K = TypeVar("K")


class FeatureReader(Protocol):
    """Whatever turns states into features: judges, or an Inception network."""

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features [B, F] of states [B, *shape], by the modalities that it reads."""
        ...


class JudgesLike(FeatureReader, Protocol):
    """Classifiers, or an exact reader of the class."""

    @property
    def accuracy(self) -> dict[str, float]:
        """Shares of real test items that are read correctly, by the modalities that are read."""
        ...

    def predict(self, views: Views) -> dict[str, Tensor]:
        """Return classes int64 [B] of states [B, *shape], by modality."""
        ...


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model, data and readers of its samples; `skipped` says of each result that is left out why.

    Any `batch_size` (items) gives the same numbers, and every stream of draws derives from `seed`.
    """

    model: MultimodalModel
    dataset: MultimodalDataset
    judges: JudgesLike | None
    settings: EvaluationSettings = EvaluationSettings()
    seed: int = 0
    inception: FeatureReader | None = None
    batch_size: int = 500
    skipped: dict[str, str] = field(default_factory=dict)
    _made: dict[Callable[..., Any], Any] = field(default_factory=dict)

    @property
    def no_chain(self) -> str:
        """Why there is no data chain to measure; empty where there is one."""
        if self.model.energy is None:
            return "the model has no energy, so no data chain"
        learned = self.model.energy_learned
        return "" if learned else "the energy has not had a step of training, so its chain says nothing"

    def once(self, make: Callable[["Measurement"], T]) -> T:
        """Return `make(self)`, computed on the first call."""
        if make not in self._made:
            self._made[make] = make(self)
        found: T = self._made[make]
        return found

    def rng(self, name: str) -> torch.Generator:
        """Return a fresh generator of the stream called `name`."""
        return torch.Generator().manual_seed(stream_seed(self.seed, name))

    def chunks(self, items: Tensor, name: str) -> Iterator[tuple[Tensor, ItemGenerators]]:
        """Yield `items` [N] batch by batch, each item with a generator of its own from the stream called `name`."""
        seed = stream_seed(self.seed, name)
        for first in range(0, len(items), self.batch_size):
            rows = items[first : first + self.batch_size]
            yield rows, item_generators(seed, len(rows), first)


def joined(batches: Iterable[dict[K, Tensor]]) -> dict[K, Tensor]:
    """Return batches [B, ...], at least one, as whole tensors [N, ...] on the CPU."""
    parts = list(batches)
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]}


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

    @property
    def more(self) -> bool | None:
        """Whether more is better; None where neither is."""
        return None if self.best is None else self.best > self.span[0]
