"""Vectors: raw float64 in units of their own; states float32, standardised by the present training entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import SHOWN, Handed, Mask, in_order
from multiebm.modalities.base import RAW_LIMIT, Given, Modality, Shows, refuse, unknown_keys
from multiebm.nn.blocks import VectorTrunk, mlp

STATE_LIMIT = 1e9  # standard deviations from the training mean; networks square them, and float32 ends at 3e38
_CONSTANT = 1e-14  # of the largest magnitude: less spread than that is rounding, a few last digits of float64


@dataclass(frozen=True)
class VectorNetworks:
    """Encoders and decoders of vectors: MLPs with two hidden layers."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    width: Annotated[PositiveInt, Field(description="units of a hidden layer")] = 128


@dataclass(frozen=True)
class Vector(Modality):
    """`shape` (D,), the standardisation of each coordinate (none: states are raw values), and the names of the columns
    where training had them.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "vector"
    shows: ClassVar[Shows] = "points"
    networks: ClassVar[type] = VectorNetworks

    name: str
    shape: tuple[PositiveInt]
    loc: tuple[FiniteFloat, ...] = ()
    scale: tuple[Annotated[PositiveFloat, FiniteFloat], ...] = ()
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("loc", "scale", "columns"):
            if (n := len(getattr(self, key))) not in (0, *self.shape):
                raise ConfigError(f"modality {self.name!r}, {key}: got {n} of them, expected {self.shape[0]}, or none")
        if len(self.loc) != len(self.scale):
            raise ConfigError(
                f"modality {self.name!r}: got {len(self.loc)} loc and {len(self.scale)} scale, expected as many of both"
            )

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Refuse every key but the kind."""
        return unknown_keys(where, declared, ["kind"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of vectors [N, D], not yet standardised."""
        shape = part.values.shape
        if len(shape) != 2 or shape[1] == 0:
            extra = (
                "for one number a row use array[:, None], of a series series.to_frame()"
                if len(shape) == 1
                else "flatten it, array.reshape(len(array), -1)"
            )
            raise DataError(f"{where}: got shape {shape}, expected a vector's (N, D) with D at least 1; {extra}")
        return cls(name, shape[1:], columns=part.columns)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return numbers [N, D], columns of a data frame by name, as float64; rows that are not `present` are 0."""
        values = in_order(part, self.columns, where).values
        if (got := values.shape)[1:] != self.shape:
            message = f"{where}: got shape {got}, expected (rows, {self.shape[0]})"
            if got == self.shape:
                raise DataError(f"{message}; of one item pass x[None]")
            fix = f"pass the {self.shape[0]} columns of training" if len(got) == 2 else "reshape it"
            raise DataError(f"{message}; {fix}")
        kept = np.zeros(values.shape, np.float64)
        kept[present] = values[present]
        with np.errstate(invalid="ignore"):
            refuse(~(np.abs(kept) <= RAW_LIMIT), where)
        return torch.from_numpy(kept)

    def fit(self, train: Given, every: Sequence[Given], where: str) -> Self:
        """Return the modality standardised by the mean and deviation of the present training rows [N, D]."""
        raw, present = train
        seen = raw[present]
        if len(seen) == 0:
            return replace(self, loc=(0.0,) * self.shape[0], scale=(1.0,) * self.shape[0])
        loc, spread, largest = seen.mean(0), seen.std(0, correction=0), seen.abs().amax(0)
        constant = (seen.amin(0) == seen.amax(0)) | (spread <= _CONSTANT * largest)
        loc, spread = torch.where(constant, seen[0], loc), torch.where(constant, 1.0, spread)  # only centred
        return replace(self, loc=tuple(loc.tolist()), scale=tuple(spread.tolist()))

    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        """Refuse vectors [N, D] whose standardised values lie where arithmetic ends."""
        size = self.to_state(raw).abs_().masked_fill_(~present[:, None], 0)  # [N, D], standard deviations
        far = (~(size <= STATE_LIMIT).all(1)).nonzero()[:, 0].tolist()
        if far:
            row, column = far[0], int(size[far[0]].nan_to_num(nan=float("inf")).argmax())
            raise DataError(
                f"{where}: got {raw[row, column].item():g} in row {row}, column {column} ({len(far)} rows in all, "
                f"first {far[:SHOWN]}), expected at most {STATE_LIMIT:g} standard deviations from the mean of "
                "training; repair them, or mark those entries absent in `present`"
            )

    def to_state(self, raw: Tensor) -> Tensor:
        """Standardise [B, D]."""
        if not self.loc:
            return raw.to(torch.float32)
        # a column of epoch seconds has its spread in digits that float32 does not hold
        exact = raw.to(torch.float64)
        return ((exact - exact.new_tensor(self.loc)) / exact.new_tensor(self.scale)).to(torch.float32)

    def to_raw(self, state: Tensor) -> Tensor:
        """Map [B, D] back to float64 in their own units."""
        state = state.to(torch.float64)
        return state * state.new_tensor(self.scale) + state.new_tensor(self.loc) if self.loc else state

    def as_given(self, raw: Tensor) -> Tensor:
        """Return [B, D] as float64."""
        return raw.to(torch.float64)

    def show(self, raw: Tensor) -> Tensor:
        """Return the first two coordinates, [B, 1 or 2]."""
        return raw[:, :2]

    def encoder(self, n_out: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, D] -> [B, n_out]."""
        return mlp([*self.shape, networks.width, networks.width, n_out], nn.ReLU())

    def decoder(self, n_in: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, n_in] -> [B, D]."""
        return mlp([n_in, networks.width, networks.width, *self.shape], nn.ReLU())

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return an MLP on the vectors side by side: [B, D] each -> [B, width]."""
        return VectorTrunk(sum(m.shape[0] for m in together), width)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return two layers, [B, D] -> [B, n_features]."""
        return nn.Sequential(
            nn.Linear(*self.shape, n_features), nn.ReLU(), nn.Linear(n_features, n_features), nn.ReLU()
        )
