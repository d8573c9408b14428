"""Counts: whole numbers from 0 on, raw float32; states log(1 + count), standardised by the present training entries.

With `library` an item's rates are its own total times shares that the decoder gives: what differs between items is then
their profile and not how much of them was counted. Where nothing was counted the median total of training stands in.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from multiebm.core.errors import DataError
from multiebm.core.handed import Handed, Mask, in_columns
from multiebm.core.random import Randomness, rand
from multiebm.distributions.likelihoods import LEAST_DRAW, PACE, Observation
from multiebm.modalities.base import Columns, Given, Modality, Scale, Shows, check_per_column, unknown_keys
from multiebm.modalities.gaps import missing_problems, of_one_value
from multiebm.modalities.vector import VectorNetworks
from multiebm.nn.blocks import Link, VectorTrunk, WithGaps, WithoutGaps, mlp

LARGEST = 2**24  # count: up to it float32 holds every whole number
LEAST_SPREAD = 0.1  # of log(1 + count) in a column: a rare one would lie dozens of deviations away
RAREST = 1e-4  # mean count at which a decoder begins in a column of zeros
LEAST_MEAN = 0.01  # count that is predicted, as it is judged: one where none was expected is not infinitely bad
RIDGE, STEPS = 0.01, 300  # weight of squared coefficients in Poisson regression, and its steps
GLM_COLUMNS = 100  # for which Poisson regression takes seconds
LEAST_RATE = 1e-6  # added to every rate: log 0 has no gradient
LEAST_DISPERSION = 1e-4  # of a negative binomial, whose variance is rate + dispersion * rate^2; less is a Poisson


class Counting(nn.Module, Observation):
    """p(count | rate), Poisson, or negative binomial with a learned dispersion for each column, of standardised states.

    With `library` the mean says shares alone, and rates add up to the total of the item that is scored.
    """

    def __init__(self, part: "Counts", dispersed: bool, weight: float) -> None:
        super().__init__()
        self.weight, self.library, self.part = weight, part.library, part
        self.register_buffer("loc", torch.tensor(part.loc or (0.0,), dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(part.scale or (1.0,), dtype=torch.float32), persistent=False)
        self.loc: Tensor
        self.scale: Tensor
        self.log_dispersion = nn.Parameter(torch.full(part.shape, math.log(0.1) / PACE)) if dispersed else None

    @property
    def dispersion(self) -> Tensor | None:
        """That of each column, [D]; None of a Poisson."""
        return None if self.log_dispersion is None else LEAST_DISPERSION + (PACE * self.log_dispersion).exp()

    def counts(self, state: Tensor) -> Tensor:
        """Return the counts, or rates, that states [B, D] say."""
        return (state * self.scale.to(state) + self.loc.to(state)).expm1().clamp_min(0)

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(count | rate) of each cell, 0 where it is NaN: [B, D] in nats."""
        there = ~x.isnan()
        count, rate = self.counts(torch.where(there, x, 0.0)), self.counts(mean)
        if self.library:
            rate = rate * (count.sum(1, keepdim=True) / rate.sum(1, keepdim=True).clamp_min(LEAST_RATE))
        rate = rate + LEAST_RATE
        if (dispersion := self.dispersion) is None:
            cells = count.xlogy(rate) - rate - (count + 1).lgamma()
        else:
            # differences of large log-gammas lose the digits of float32
            x64, mu, r = count.double(), rate.double(), 1 / dispersion.double()
            cells = (x64 + r).lgamma() - r.lgamma() - (x64 + 1).lgamma() - r * (mu / r).log1p()
            cells = (cells + x64.xlogy(mu / (mu + r))).to(mean.dtype)
        return torch.where(there, cells, 0.0)

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw whole counts around the rates of `mean`, as states: [B, D] -> [B, D]."""
        import scipy.stats  # late: it takes a fifth of the time in which this package is imported

        at = rand(rng, mean.shape, mean).clamp_min(LEAST_DRAW).double().cpu().numpy()
        rate = self.counts(mean).double().cpu().numpy() + LEAST_RATE
        if (dispersion := self.dispersion) is None:
            drawn = scipy.stats.poisson.ppf(at, rate)
        else:
            r = 1 / dispersion.detach().double().cpu().numpy()
            drawn = scipy.stats.nbinom.ppf(at, r, r / (r + rate))
        return self.part.to_state(torch.from_numpy(drawn)).to(mean)


MOST_REGRESSED = 500  # columns of counts that begin at a regression; the others begin at the rates of training


class Rates(Link):
    """Make what a network says [B, D] states of rates: log rates around those of training, or shares of `total`."""

    def __init__(self, part: "Counts") -> None:
        super().__init__()
        self.total = math.log(part.total) if part.library and part.total else None
        loc = torch.tensor(part.loc or (0.0,), dtype=torch.float64)
        for name, value in (("base", loc.expm1().clamp_min(RAREST).log()), ("loc", loc)):
            self.register_buffer(name, value.to(torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(part.scale or (1.0,), dtype=torch.float32), persistent=False)
        self.base: Tensor
        self.loc: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return standardised log(1 + rate), [B, D]."""
        log_rate = self.base + x.float()
        if self.total is not None:
            log_rate = log_rate.log_softmax(1) + self.total
        log_rate = log_rate.clamp_max(math.log(LARGEST))
        return (nn.functional.softplus(log_rate) - self.loc) / self.scale  # log(1 + e^v) of the log rate v

    def begin(self, codes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [D, K] and biases [D] of the Poisson regression of each column on codes [N, K]."""
        from sklearn.linear_model import PoissonRegressor  # late: scikit-learn takes a second to import

        weight, bias = codes.new_zeros(states.shape[1], codes.shape[1]), codes.new_zeros(states.shape[1])
        scale, loc, base = (of.to(states) for of in (self.scale, self.loc, self.base))
        counts = (states * scale + loc).expm1().clamp_min(0)
        own = counts.nansum(1) if self.total is not None else torch.ones_like(counts[:, 0])  # rates are shares of this
        for j, column in enumerate(counts.T[:MOST_REGRESSED]):
            rows = ~column.isnan() & (own > 0)
            if not float(column[rows].sum()) > 0:
                continue
            with warnings.catch_warnings():  # steps that have not converged are no news here
                warnings.simplefilter("ignore")
                made = PoissonRegressor(alpha=1 / int(rows.sum())).fit(
                    codes[rows].numpy(), (column / own)[rows].numpy(), sample_weight=own[rows].numpy()
                )
            weight[j], bias[j] = torch.from_numpy(made.coef_).to(codes), float(made.intercept_) - float(base[j])
        return weight, bias


@dataclass(frozen=True)
class Counts(Modality):
    """`shape` (D,), the standardisation of log(1 + count) of each column, and names of the columns where training had
    them. `library`: rates are shares of an item's total, of which `total` is the median in training. `same`: places of
    columns with one value in training; all that is generated has it.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "counts"
    shows: ClassVar[Shows] = "points"
    networks: ClassVar[type] = VectorNetworks
    by_cell: ClassVar[bool] = True
    linked: ClassVar[bool] = True
    likelihoods: ClassVar[Mapping[str, Scale]] = {"negative_binomial": "none", "poisson": "none"}

    name: str
    shape: tuple[PositiveInt]
    library: bool = False
    loc: tuple[FiniteFloat, ...] = ()
    scale: tuple[Annotated[PositiveFloat, FiniteFloat], ...] = ()
    total: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    columns: tuple[str, ...] = ()
    missing: Literal["nan"] | None = field(default=None, repr=False)
    same: tuple[NonNegativeInt, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_per_column(self, "loc", "scale", "columns")

    @property
    def lacks_cells(self) -> bool:
        """Whether single cells may be missing: of an item whose total matters all are there or none."""
        return self.missing is not None and not self.library

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Take sparse matrices [N, D] of whole numbers from 0 on, among which NaN may be."""
        if part.was != "sparse" or part.values.ndim != 2 or part.values.dtype.kind not in "uif":
            return None
        values = part.values[~np.isnan(part.values)]
        return {} if bool(((values >= 0) & (values <= LARGEST) & (values == np.floor(values))).all()) else None

    def describe(self) -> str:
        """Return, say, "200 counts"."""
        return f"{self.shape[0]} count{'s' if self.shape[0] > 1 else ''}"

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {library: true or false (optional), missing: nan (optional)}."""
        problems = missing_problems(where, declared)
        if not isinstance(declared.get("library", False), bool):
            problems.append(
                f"{where}.library: got {declared['library']!r}, expected true (rates are shares of an item's total) or "
                "false; correct it"
            )
        return problems + unknown_keys(where, declared, ["kind", "library", "missing", "columns"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of counts [N, D], not yet standardised."""
        shape = part.values.shape if part.values.ndim != 1 else (len(part.values), 1)
        library = declared.get("library", False)
        if len(shape) != 2 or shape[1] < 1 + library:
            least = "2, whose shares are learned" if library else "1"
            raise DataError(f"{where}: got shape {shape}, expected counts (N, D) with D at least {least}; reshape them")
        partly = part.hidden.any(-1) & ~part.hidden.all(-1)
        missing: Any = "nan" if partly.any() else declared.get("missing")
        columns = part.columns or tuple(declared.get("columns", ()))
        return cls(name, shape[1:], library, columns=columns, missing=missing)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return counts [N, D], columns of a data frame by name, as float32; rows that are not `present` are 0."""
        part = in_columns(part, self.columns, *self.shape, where)
        kept = np.zeros(part.values.shape, np.float32)
        kept[present] = part.values[present]
        gone = part.hidden & present[:, None]
        bad = ~((kept >= 0) & (kept <= LARGEST) & (kept == np.floor(kept))) & ~gone
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            fix = (
                "hand over counts as they were counted, not normalised or logarithms, or declare kind: vector; samples "
                "and completions are whole counts with noise=True (--noise), and expected counts without it"
            )
            if np.isnan(kept[row, column]):
                fix = "declare missing: nan (--missing nan) if NaN is what says that a value is missing"
            raise DataError(
                f"{where}: got {kept[row, column]:g} in row {row}, column {self.column(column)} ({bad.sum()} such "
                f"values in all), expected whole numbers from 0 to {LARGEST:,}; {fix}"
            )
        kept[gone] = np.nan
        return torch.from_numpy(kept)

    def fit(self, train: Given, every: Sequence[Given], where: str) -> Self:
        """Return the modality standardised by mean and deviation of log(1 + count) in present training rows [N, D]."""
        raw, present = train
        if not len(seen := raw[present].double()):
            return replace(self, loc=(0.0,) * self.shape[0], scale=(1.0,) * self.shape[0])
        state = seen.log1p()
        loc = state.nanmean(0).nan_to_num(0.0)
        spread = (state - loc).square().nanmean(0).nan_to_num(0.0).sqrt().clamp_min(LEAST_SPREAD)
        total = max(1.0, float(np.median(seen.sum(1)))) if self.library else 0.0
        same = tuple(of_one_value(seen))
        return replace(self, loc=tuple(loc.tolist()), scale=tuple(spread.tolist()), total=total, same=same)

    def to_state(self, raw: Tensor) -> Tensor:
        """Standardise log(1 + count), [B, D]."""
        log = raw.to(torch.float64).log1p()
        return ((log - log.new_tensor(self.loc)) / log.new_tensor(self.scale) if self.loc else log).to(torch.float32)

    def to_raw(self, state: Tensor) -> Tensor:
        """Map [B, D] back to counts; of means they are expected counts, with fractions."""
        log = state.to(torch.float64)
        if self.loc:
            loc, one = log.new_tensor(self.loc), list(self.same)
            log = log * log.new_tensor(self.scale) + loc
            log[:, one] = loc[one].expm1().round().log1p()
        return log.expm1().clamp_min(0).to(torch.float32)

    def drawn(self, raw: Tensor) -> Tensor:
        """Return draws [B, D] as whole counts."""
        return raw.round()

    def as_given(self, raw: Tensor) -> Tensor:
        """Return [B, D] as float32."""
        return raw.to(torch.float32)

    def show(self, raw: Tensor) -> Tensor:
        """Return the first two columns, [B, 1 or 2]."""
        return raw[:, :2]

    def encoder(self, n_out: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, D] -> [B, n_out]; where cells may be missing, it is told which there are."""
        first = [WithGaps()] if self.lacks_cells else []
        n_in = (1 + len(first)) * self.shape[0]
        return nn.Sequential(*first, mlp([n_in, networks.width, networks.width, n_out], nn.ReLU()))

    def decoder(self, n_in: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP that gives rates, as states: [B, n_in] -> [B, D]."""
        return nn.Sequential(mlp([n_in, networks.width, networks.width, *self.shape], nn.ReLU()), Rates(self))

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return an MLP on the states side by side: [B, D] each -> [B, width]."""
        return VectorTrunk(sum(m.shape[0] for m in together), width)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return two layers, [B, D] -> [B, n_features]; to a judge a missing cell is one at the mean."""
        return nn.Sequential(WithoutGaps(), mlp([*self.shape, n_features, n_features], nn.ReLU()), nn.ReLU())

    def likelihood(self, family: str, scale: float | Literal["learned"], weight: float) -> Observation:
        """Return p(count | rate), which has no scale."""
        return Counting(self, family == "negative_binomial", weight)

    def settle(self, moved: Tensor) -> Tensor:
        """Return [B, D] with no count below 0."""
        if not self.loc:
            return moved.clamp_min(0)
        return moved.maximum(-moved.new_tensor(self.loc) / moved.new_tensor(self.scale))

    def seen(self, state: Tensor) -> Tensor:
        """Return [B, D] with no count below 0."""
        return self.settle(state)

    def corrupt(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Return states [B, D] of whole counts, spoilt as any others."""
        return self.to_state(self.to_raw(super().corrupt(state, rng)).round())

    def judged(self, state: Tensor) -> Tensor:
        """Return states [B, D] as whole counts."""
        return self.to_raw(state).round()

    def expected(self, mean: Tensor) -> Tensor:
        """Return the rates of decoder means, [B, D]."""
        return self.to_raw(mean)

    def errors(self, true: Tensor, predicted: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Return the Poisson deviance 2 (x log(x / rate) - x + rate) [N, D]; of rates below LEAST_MEAN, as of that."""
        rate = predicted.clamp_min(LEAST_MEAN)
        deviance = 2 * (true.xlogy(true / rate) - true + rate)
        return {"deviance": torch.where(spread > 0, deviance, torch.nan)}

    def regress(self, x: Columns, y: Columns, new: Columns) -> Columns:
        """Fit counts y [N, D] to x [N, F] by column, beyond GLM_COLUMNS by ridge regression; return rates [M, D]."""
        if y.shape[1] > GLM_COLUMNS:
            return super().regress(x, y, new).clip(0)
        from sklearn.linear_model import PoissonRegressor  # late: scikit-learn takes a second to import

        found = np.zeros((len(new), y.shape[1]))
        for k, column in enumerate(y.T):
            rows = ~np.isnan(column)
            if column[rows].any():
                with warnings.catch_warnings():  # steps that have not converged are no news here
                    warnings.simplefilter("ignore")
                    made = PoissonRegressor(alpha=RIDGE, max_iter=STEPS).fit(x[rows], column[rows])
                    # a line in log rates leaves the range of counts far from training rows
                    found[:, k] = made.predict(new).clip(0, 2 * column[rows].max())
        return found
