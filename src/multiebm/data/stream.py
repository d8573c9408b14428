"""An endless stream of shuffled batches that resumes exactly: the order is a function of (seed, epoch) alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.errors import DataError
from multiebm.core.random import make_generator
from multiebm.data.dataset import MultimodalDataset, SplitName


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
