"""Vectors: raw float64 in units of their own; states float32, standardised by the present training entries.

Where NaN means missing, single cells may be: they are NaN in raw values and states. Encoders are told which there are,
and the likelihood sums over the others, which is the exact marginal of a density that is a product over cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from multiebm.core.cells import is_empty, is_text
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import SHOWN, Handed, Mask, in_columns
from multiebm.modalities.base import RAW_LIMIT, Given, Modality, Scale, Shows, check_per_column, refuse, unknown_keys
from multiebm.modalities.gaps import missing_problems
from multiebm.nn.blocks import VectorTrunk, WithGaps, WithoutGaps, mlp

QUARTILES = 1.3489795003921634  # between those of N(0, 1): their distance over it is a deviation
STATE_LIMIT = 1e9  # standard deviations from the training mean; networks square them, and float32 ends at 3e38
Standardise = Literal["deviation", "robust"]  # by mean and deviation, or by median and quartiles
FLAT, LONE = 30.0, 3.0  # times its middle half's that a column's deviation is, by values of so many deviations
TAME = 10.0  # deviations from the median, within which the start sees robust states: it has squares
_CONSTANT = 1e-14  # of the largest magnitude: less spread than that is rounding, a few last digits of float64


@dataclass(frozen=True)
class VectorNetworks:
    """Encoders and decoders of vectors: MLPs with two hidden layers."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    width: Annotated[PositiveInt, Field(description="units of a hidden layer")] = 128


@dataclass(frozen=True)
class Vector(Modality):
    """`shape` (D,), the standardisation of each coordinate (none: states are raw values), and the names of the columns
    where training had them. `same`: places of columns with one value in training; all that is generated has it.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "vector"
    shows: ClassVar[Shows] = "points"
    networks: ClassVar[type] = VectorNetworks
    by_cell: ClassVar[bool] = True
    likelihoods: ClassVar[Mapping[str, Scale]] = dict.fromkeys(("normal", "laplace", "student_t"), "learned")

    name: str
    shape: tuple[PositiveInt]
    loc: tuple[FiniteFloat, ...] = ()
    scale: tuple[Annotated[PositiveFloat, FiniteFloat], ...] = ()
    columns: tuple[str, ...] = ()
    missing: Literal["nan"] | None = field(default=None, repr=False)
    standardise: Standardise = field(default="deviation", repr=False)
    same: tuple[NonNegativeInt, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_per_column(self, "loc", "scale", "columns")
        if len(self.loc) != len(self.scale):
            raise ConfigError(
                f"modality {self.name!r}: got {len(self.loc)} loc and {len(self.scale)} scale, expected as many of both"
            )

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Take numbers [N] or [N, D], and arrays of objects that are numbers, which no kind before it took."""
        if part.values.ndim not in (1, 2) or part.values.dtype.kind not in "biufO":
            return None
        if part.values.dtype == object and any(is_text(cell) and not is_empty(cell) for cell in part.values.flat):
            return None
        return {}

    def describe(self) -> str:
        """Return, say, "12 numbers"."""
        how = ", standardised by median and quartiles" if self.standardise == "robust" else ""
        return f"{self.shape[0]} number{'s' if self.shape[0] > 1 else ''}{how}"

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {missing: nan, standardise: robust, columns: [names]}, all optional."""
        problems, how = missing_problems(where, declared), declared.get("standardise", "deviation")
        if how not in (known := get_args(Standardise)):
            problems.append(
                f"{where}.standardise: got {how!r}, expected {known[0]} (mean and deviation) or {known[1]} (median and "
                "quartiles, which outliers do not move); correct or remove it"
            )
        return problems + unknown_keys(where, declared, ["kind", "missing", "columns", "standardise"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of vectors [N, D], not yet standardised."""
        shape = part.values.shape if part.values.ndim != 1 else (len(part.values), 1)
        if len(shape) != 2 or shape[1] == 0:
            raise DataError(
                f"{where}: got shape {shape}, expected a vector's (N, D) with D at least 1, or (N,) for one number a "
                "row; flatten it, array.reshape(len(array), -1)"
            )
        partly = part.hidden.any(-1) & ~part.hidden.all(-1)  # a mask says as well as NaN what is missing
        columns = part.columns or tuple(declared.get("columns", ()))
        missing: Any = "nan" if partly.any() else declared.get("missing")
        how = declared.get("standardise", "deviation")
        return cls(name, shape[1:], columns=columns, missing=missing, standardise=how)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return numbers [N, D], columns of a data frame by name, as float64; rows that are not `present` are 0."""
        part = in_columns(part, self.columns, *self.shape, where)
        values = part.values
        kept = np.zeros(values.shape, np.float64)
        kept[present] = values[present]
        gone = part.hidden & present[:, None]
        kept[gone] = 0
        with np.errstate(invalid="ignore"):
            refuse(~(np.abs(kept) <= RAW_LIMIT), where, bool(np.isnan(kept).any()), self.columns)
        kept[gone] = np.nan
        return torch.from_numpy(kept)

    def fit(self, train: Given, every: Sequence[Given], where: str) -> Self:
        """Return the modality standardised by the present training rows [N, D]: their mean and deviation, or `robust`.

        That is the median and the distance of the quartiles as that of a normal density, the deviation where it is 0.
        """
        raw, present = train
        seen = raw[present]
        if len(seen) == 0:
            return replace(self, loc=(0.0,) * self.shape[0], scale=(1.0,) * self.shape[0])
        if gaps := bool(seen.isnan().any()):
            whole = seen.isnan().all(0)  # a column without any value: as one of zeros
            seen = torch.where(whole, 0.0, seen)
            mean = seen.nanmean(0)
            loc, least, largest = mean, seen.nan_to_num(nan=torch.inf).amin(0), seen.nan_to_num(nan=-torch.inf).amax(0)
            spread, size = (seen - mean).square().nanmean(0).sqrt(), seen.nan_to_num(nan=0).abs().amax(0)
        else:
            loc, spread, size = seen.mean(0), seen.std(0, correction=0), seen.abs().amax(0)
            least, largest = seen.amin(0), seen.amax(0)
        if self.standardise == "robust":
            low, loc, high = _quartiles(seen)
            spread = torch.where(high > low, (high - low) / QUARTILES, spread)
        constant = (least == largest) | (spread <= _CONSTANT * size)
        first = least if gaps else seen[0]
        loc, spread = torch.where(constant, first, loc), torch.where(constant, 1.0, spread)  # only centred
        same = tuple(constant.nonzero()[:, 0].tolist())
        return replace(self, loc=tuple(loc.tolist()), scale=tuple(spread.tolist()), same=same)

    def far_off(self, raw: Tensor) -> list[tuple[int, int, float]]:
        """Return (column, row, deviations from the median by quartiles) of the furthest values of raw [N, D]: of each
        column that few values stretch so far that its others have all but one state. The furthest comes first.
        """
        if self.standardise == "robust" or not len(raw):
            return []
        lone = self.to_state(raw).abs_().nan_to_num_(nan=0).amax(0) > LONE
        columns = lone.nonzero()[:, 0]
        if not len(columns):
            return []
        own = raw[:, columns].double()
        low, middle, high = _quartiles(own)
        robust = (high - low) / QUARTILES
        off = (own - middle).abs().nan_to_num_(nan=0) / robust
        most, rows = off.max(0)
        flat = (robust > 0) & (own.new_tensor(self.scale)[columns] > FLAT * robust)
        found = [(int(columns[i]), int(rows[i]), float(most[i])) for i in flat.nonzero()[:, 0].tolist()]
        return sorted(found, key=lambda of: -of[2])

    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        """Refuse vectors [N, D] whose standardised values lie where arithmetic ends."""
        size = self.to_state(raw).abs_().masked_fill_(~present[:, None] | raw.isnan(), 0)  # [N, D], standard deviations
        far = (~(size <= STATE_LIMIT).all(1)).nonzero()[:, 0].tolist()
        if far:
            row, column = far[0], int(size[far[0]].nan_to_num(nan=float("inf")).argmax())
            raise DataError(
                f"{where}: got {raw[row, column].item():g} in row {row}, column {self.column(column)} ({len(far)} rows "
                f"in all, first {far[:SHOWN]}), expected at most {STATE_LIMIT:g} standard deviations from the mean of "
                "training; repair them, or mark those entries absent in `present`"
            )

    def to_state(self, raw: Tensor) -> Tensor:
        """Standardise [B, D]."""
        if not self.loc:
            return raw.to(torch.float32)
        # a column of epoch seconds has its spread in digits that float32 does not hold
        exact = raw.to(torch.float64)
        return ((exact - exact.new_tensor(self.loc)) / exact.new_tensor(self.scale)).to(torch.float32)

    def tamed(self, state: Tensor) -> Tensor:
        """Return robust states [B, D] within TAME deviations of the median; others as they are."""
        return state.clamp(-TAME, TAME) if self.standardise == "robust" else state

    def to_raw(self, state: Tensor) -> Tensor:
        """Map [B, D] back to float64 in their own units."""
        state = state.to(torch.float64)
        if not self.loc:
            return state
        scale = state.new_tensor(self.scale)
        scale[list(self.same)] = 0
        return state * scale + state.new_tensor(self.loc)

    def as_given(self, raw: Tensor) -> Tensor:
        """Return [B, D] as float64."""
        return raw.to(torch.float64)

    def show(self, raw: Tensor) -> Tensor:
        """Return the first two coordinates, [B, 1 or 2]."""
        return raw[:, :2]

    def encoder(self, n_out: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, D] -> [B, n_out]; where cells may be missing, it is told which there are."""
        if self.missing is None:
            return mlp([*self.shape, networks.width, networks.width, n_out], nn.ReLU())
        return nn.Sequential(WithGaps(), mlp([2 * self.shape[0], networks.width, networks.width, n_out], nn.ReLU()))

    def decoder(self, n_in: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, n_in] -> [B, D]."""
        return mlp([n_in, networks.width, networks.width, *self.shape], nn.ReLU())

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return an MLP on the vectors side by side: [B, D] each -> [B, width]."""
        return VectorTrunk(sum(m.shape[0] for m in together), width)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return two layers, [B, D] -> [B, n_features]; to a judge a missing cell is one at the mean."""
        first = [WithoutGaps()] if self.missing else []
        return nn.Sequential(
            *first, nn.Linear(*self.shape, n_features), nn.ReLU(), nn.Linear(n_features, n_features), nn.ReLU()
        )


def _quartiles(rows: Tensor) -> Tensor:
    """Return the quartiles of the columns of rows [N, D] that are not NaN, [3, D]."""
    return torch.from_numpy(np.nanquantile(rows.numpy(), [0.25, 0.5, 0.75], axis=0))
