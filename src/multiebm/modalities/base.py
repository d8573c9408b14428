"""What a modality has to know: its values, its networks, its density. One class in one file knows it all.

Raw values are what users hand over and get back; states are float32 tensors that networks and chains see. Packages add
kinds under the entry point group `multiebm.modalities`, each a frozen dataclass of plain values, named as its `kind`;
`multiebm.testing.ModalityContract` proves one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from numbers import Real
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from multiebm.core.errors import DataError
from multiebm.core.handed import SHOWN, Handed, Mask
from multiebm.core.table import nearest
from multiebm.distributions.families import FAMILIES, Likelihood

Given = tuple[Tensor, Tensor]  # raw values [N, ...] of one split, and which are present, bool [N]

Shows = Literal["pictures", "points", "text"]  # what `show` gives
RAW_LIMIT = 1e37  # near the largest float32, which is what networks compute in


class Observation(Protocol):
    """p(x | mean) of one item's state, and its weight in sums over modalities."""

    def log_density(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x | mean), summed over the item: [B, ...] -> [B] in nats."""

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return the weight times `log_density`: [B, ...] -> [B] in nats."""


class Modality(ABC):
    """One part of the data. `shape` is that of one item's state.

    What is not abstract here is what most kinds do: raw values have the shape of states, and a chain moves states.
    """

    kind: ClassVar[str]
    shows: ClassVar[Shows]
    networks: ClassVar[type]  # settings of its encoders and decoders: a frozen dataclass with a default everywhere
    name: str
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None  # of raw values, black to white, where it was declared

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of one raw item."""
        return self.shape

    @property
    def size(self) -> int:
        """Number of coordinates of one item's state."""
        return prod(self.shape)

    @property
    def places(self) -> int:
        """What the memory of its networks grows with: pixels of a picture, coordinates of a vector."""
        return self.size

    # values

    @classmethod
    @abstractmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a declaration beside its `kind`, each as "where.key: got ..., expected ..."."""

    @classmethod
    @abstractmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of training values [N, ...] handed over under a declaration without problems; DataError
        where they have not its axes.
        """

    @abstractmethod
    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return values handed over [N, ...] as raw values [N, *raw_shape], a copy; DataError says what does not fit.

        Where `present` (bool [N]) is false they may be anything.
        """

    def fit(self, train: Given, every: Sequence[Given], where: str) -> Self:
        """Return the modality with what the training rows [N, *raw_shape] say; DataError where `every` split together
        shows that raw values are in other units than these are taken for.
        """
        return self

    @abstractmethod
    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        """Refuse raw values [N, *raw_shape] whose states, where `present`, no network can read: DataError."""

    @abstractmethod
    def to_state(self, raw: Tensor) -> Tensor:
        """Map raw values [B, *raw_shape] to float32 states [B, *shape]; NaN passes through, for the caller to mask."""

    @abstractmethod
    def to_raw(self, state: Tensor) -> Tensor:
        """Map states [B, *shape] to raw values [B, *raw_shape], as users get them."""

    @abstractmethod
    def as_given(self, raw: Tensor) -> Tensor:
        """Return observed raw values [B, *raw_shape] in the type and units of `to_raw`."""

    @abstractmethod
    def show(self, raw: Tensor) -> Any:
        """Return values of `to_raw` as `shows` says: [B, C, H, W] in [0, 1], points [B, 1 or 2], or a text an item."""

    # networks

    @abstractmethod
    def encoder(self, n_out: int, networks: Any) -> nn.Module:
        """Return a network of states [B, *shape] -> [B, n_out]."""

    @abstractmethod
    def decoder(self, n_in: int, networks: Any) -> nn.Module:
        """Return a network [B, n_in] -> mean states [B, *shape]."""

    @abstractmethod
    def energy_trunk(self, together: Sequence["Modality"], width: int) -> nn.Module:
        """Return a network of M states -> features [B, width] that an energy reads, with spectral norm.

        `together` are modalities of this kind, itself first; ConfigError where these cannot share a trunk.
        """

    @abstractmethod
    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return a network of states [B, *shape] -> [B, n_features], on which a classifier stands that reads labels."""

    def jitter(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Return states [B, *shape] as a judge sees them in training, changed by no more than their labels can take."""
        return state

    # density and chain

    def likelihood(self, family: str, scale: float, weight: float) -> Observation:
        """Return p(x | mean) of states, with a constant scale and its weight in sums over modalities."""
        return Likelihood(FAMILIES[family], scale, weight)

    def relax(self, state: Tensor) -> Tensor:
        """Return what a chain in data space moves in place of `state`: [B, ...] that the energy reads as well."""
        return state

    def settle(self, moved: Tensor) -> Tensor:
        """Return the state [B, *shape] that the end of a chain becomes, on the set where states lie."""
        return moved

    def seen(self, state: Tensor) -> Tensor:
        """Return a state [B, *shape] as its user would see it: that of its raw values."""
        return state


def unknown_keys(where: str, declared: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Return a line for every key of a declaration that its kind does not know."""
    return [
        f"{where}: got unknown key {key!r}, expected {', '.join(known)}.{nearest(str(key), list(known))} Remove it"
        for key in declared
        if key not in known
    ]


def refuse(bad: Mask, where: str) -> None:
    """Raise DataError if any value [N, ...] is `bad`, as one that is not finite."""
    if len(rows := np.flatnonzero(bad.reshape(len(bad), -1).any(1))):
        raise DataError(
            f"{where}: got NaN or infinite values in {len(rows)} rows, first {rows[:SHOWN].tolist()}, expected finite "
            f"numbers below {RAW_LIMIT:g}; repair them, or mark those entries absent in `present`"
        )


def is_number(value: object) -> bool:
    """Return whether `value` is a finite real number, and no bool."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:  # a whole number beyond float64
        return False
