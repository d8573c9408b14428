"""Categories: columns of texts, bools or whole numbers that name classes. Raw values and states are probabilities of
classes, float32, the columns' side by side: 1 for the class of what was handed over, 0 for the others.

Where NaN means missing, single columns may be: all their classes are NaN. The likelihood sums over the others.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.cells import is_empty
from multiebm.core.classes import LARGEST, LISTED, class_name, classes_of, places_of
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import Array, Handed, Mask, in_columns
from multiebm.core.random import Randomness, rand
from multiebm.distributions.likelihoods import Observation
from multiebm.modalities.base import Columns, Modality, Scale, Shows, unknown_keys
from multiebm.modalities.gaps import missing_problems
from multiebm.modalities.vector import VectorNetworks
from multiebm.nn.blocks import Link, VectorTrunk, WithoutGaps, mlp

SMOOTHED = 0.01  # of a probability that is judged, which is then at least that over the number of classes
STEPS = 500  # of logistic regression
LEAST = 1e-9  # probability of a class: log 0 has no gradient
SUM_TOLERANCE = 1e-3  # by which probabilities that are handed over may miss 1


@dataclass(frozen=True)
class Categorical(Observation):
    """p(x | mean) = prod_c mean_c ^ x_c over the classes of all columns, the mean being their probabilities."""

    sizes: tuple[int, ...]
    weight: float = 1.0

    def cells(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return x_c log mean_c of each class, 0 in columns that are NaN: [B, K] in nats."""
        return x.nan_to_num(0.0) * mean.clamp_min(LEAST).log()

    def sample(self, mean: Tensor, rng: Randomness) -> Tensor:
        """Draw a class of each column, as 1 among 0: [B, K] -> [B, K]."""
        drawn, at = [], rand(rng, (len(mean), len(self.sizes)), mean)  # where in [0, 1) the class of a column lies
        for i, block in enumerate(mean.split(self.sizes, 1)):
            share = block.cumsum(1)
            chosen = (share <= at[:, i : i + 1] * share[:, -1:]).sum(1).clamp_max(self.sizes[i] - 1)
            drawn.append(nn.functional.one_hot(chosen, self.sizes[i]).to(mean.dtype))
        return torch.cat(drawn, 1)


UNSEEN = -5.0  # the bias of a class that no training item has, where others have 0 on average


class Shares(Link):
    """Make the output of a network [B, K] probabilities of the classes of each column."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return a softmax over each column's classes, [B, K]; in float32, as bfloat16 would not add up to 1."""
        return torch.cat([block.softmax(1) for block in x.float().split(self.sizes, 1)], 1)

    def begin(self, codes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [D, K] and biases [D] of the logistic regression of each column on codes [N, K]."""
        from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

        weight, bias = codes.new_zeros(states.shape[1], codes.shape[1]), codes.new_zeros(states.shape[1])
        ends = torch.tensor((0, *self.sizes)).cumsum(0).tolist()
        for first, last in zip(ends, ends[1:], strict=False):
            own = states[:, first:last]
            rows = ~own.isnan().any(1)
            said = own[rows].argmax(1)
            classes = said.unique()
            bias[first:last] = UNSEEN
            bias[first + classes] = 0.0
            if len(classes) < 2:
                continue
            with warnings.catch_warnings():  # steps that have not converged are no news here
                warnings.simplefilter("ignore")
                made = LogisticRegression(max_iter=STEPS).fit(codes[rows].numpy(), said.numpy())
            slope, at = (torch.from_numpy(of).to(codes) for of in (made.coef_, made.intercept_))
            if len(classes) == 2:  # of which the second's is told, as the first's is 0
                slope, at = torch.cat([-slope, slope]) / 2, torch.cat([-at, at]) / 2
            weight[first + classes], bias[first + classes] = slope, at
        return weight, bias


@dataclass(frozen=True)
class Category(Modality):
    """`classes` of each column, as texts in order, and the `variables`, names of the columns where training had them.

    `columns` names the coordinates of raw values and states, such as "colour=red".
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    kind: ClassVar[str] = "category"
    shows: ClassVar[Shows] = "text"
    networks: ClassVar[type] = VectorNetworks
    numbers: ClassVar[bool] = False
    by_cell: ClassVar[bool] = True
    linked: ClassVar[bool] = True
    likelihoods: ClassVar[Mapping[str, Scale]] = {"categorical": "none"}

    name: str
    classes: Annotated[
        tuple[Annotated[tuple[str, ...], Field(min_length=1, max_length=LARGEST)], ...], Field(min_length=1)
    ]
    variables: tuple[str, ...] = ()
    missing: Literal["nan"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.variables and len(self.variables) != len(self.classes):
            n = len(self.variables)
            raise ConfigError(f"modality {self.name!r}, variables: got {n}, expected {len(self.classes)}, or none")
        if any(len(set(of)) < len(of) for of in self.classes):
            raise ConfigError(f"modality {self.name!r}, classes: got one twice in a column, expected each once")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of classes of each column."""
        return tuple(map(len, self.classes))

    @property
    def shape(self) -> tuple[int]:  # type: ignore[override]
        """(K,), the classes of all columns."""
        return (sum(self.sizes),)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of classes of each column."""
        return self.sizes

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the coordinates: the column, "=" and the class."""
        return tuple(
            f"{of}={text}" for of, classes in zip(self.handed_columns, self.classes, strict=True) for text in classes
        )

    @property
    def handed_columns(self) -> tuple[str, ...]:
        """The names of the columns of classes: those of training, else the part's own, with a number if several."""
        n = len(self.classes)
        return self.variables or ((self.name,) if n == 1 else tuple(f"{self.name} {i + 1}" for i in range(n)))

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Take texts, bool and what pandas calls categories, [N] or [N, C], and whole numbers that are 0 and 1."""
        values = part.values
        if values.ndim not in (1, 2) or not values.size:
            return None
        if part.was == "categories" or values.dtype.kind in "USb":
            return {}
        if values.dtype.kind in "iu":
            return {} if values.min() == 0 and values.max() == 1 else None
        cells = [cell for cell in values.flat if not is_empty(cell)] if values.dtype == object else []
        is_text = any(isinstance(cell, str | bytes) for cell in cells)
        return {} if is_text or (cells and all(isinstance(cell, bool | np.bool_) for cell in cells)) else None

    def describe(self) -> str:
        """Return, say, "5 categories", or "3 columns of categories (2, 4 and 7)"."""
        if len(self.sizes) == 1:
            return "1 category" if self.sizes == (1,) else f"{self.sizes[0]} categories"
        *most, last = map(str, self.sizes)
        return f"{len(self.sizes)} columns of categories ({', '.join(most)} and {last})"

    def keep(self, part: Handed) -> Array:
        """Return what was handed over as the names of classes, empty where it is missing."""

        def name(cell: Any, hidden: Any) -> str:
            try:
                return "" if hidden else class_name(cell, "")
            except DataError:  # in a row that is not there
                return ""

        return np.array(list(map(name, part.values.flat, part.hidden.flat))).reshape(part.values.shape)

    @classmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with {missing: nan (optional)}."""
        return missing_problems(where, declared) + unknown_keys(where, declared, ["kind", "missing", "columns"])

    @classmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of categories [N] or [N, C]; their classes are those that are not masked."""
        shape = part.values.shape if part.values.ndim != 1 else (len(part.values), 1)
        if len(shape) != 2 or shape[1] == 0:
            raise DataError(f"{where}: got shape {shape}, expected columns of categories, (N, C) or (N,); reshape them")
        partly = part.hidden.any(-1) & ~part.hidden.all(-1)
        missing: Any = "nan" if partly.any() else declared.get("missing")
        part = cls(name, (("",),) * shape[1], missing=missing).hide(part)  # of any classes
        cells, hidden, classes = part.values.reshape(shape), part.hidden.reshape(shape), []
        for i in range(shape[1]):
            column = f" of column {part.columns[i]!r}" if part.columns else f" of column {i}" if shape[1] > 1 else ""
            classes.append(classes_of(cells[:, i], hidden[:, i], where, column))
        return cls(name, tuple(classes), part.columns or tuple(declared.get("columns", ())), missing)

    def read(self, part: Handed, present: Mask, where: str) -> Tensor:
        """Return categories [N, C] or [N], or probabilities [N, K], as float32 [N, K]; 0 in rows not `present`."""
        values, n = part.values, len(self.classes)
        if values.dtype.kind in "biuf" and values.shape[1:] == self.shape != (n,):
            return self._probabilities(values, part.hidden, present, where)
        part = in_columns(part, self.variables, n, where)
        raw, first = np.zeros((len(values), *self.shape), np.float32), 0
        for i, classes in enumerate(self.classes):
            own, first = slice(first, first + len(classes)), first + len(classes)
            at = f" of column {self.handed_columns[i]!r}" if n > 1 else ""
            rows = np.flatnonzero(present & ~part.hidden[:, i])
            raw[present & part.hidden[:, i], own] = np.nan
            raw[rows, own.start + places_of(part.values[rows, i], rows, classes, where, at)] = 1
        return torch.from_numpy(raw)

    def _probabilities(self, values: Array, hidden: Mask, present: Mask, where: str) -> Tensor:
        raw = np.zeros(values.shape, np.float32)
        raw[present] = values[present]
        gone, ends = hidden & present[:, None], np.cumsum((0, *self.sizes))[:-1]
        total = np.add.reduceat(np.where(gone, 0, raw), ends, 1)  # [N, C]
        partly = np.logical_or.reduceat(gone, ends, 1) != np.logical_and.reduceat(gone, ends, 1)
        wrong = ~(np.logical_and.reduceat(gone, ends, 1) | (np.abs(total - 1) <= SUM_TOLERANCE)) | partly
        if (bad := (wrong.any(1) | (raw < 0).any(1)) & present).any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: got {raw[row][:LISTED].tolist()} in row {row}, expected a class in each of "
                f"{len(self.classes)} columns, or probabilities of {self.shape[0]} classes that add up to 1 in each "
                "column; correct them"
            )
        raw[gone] = np.nan
        return torch.from_numpy(raw)

    def to_state(self, raw: Tensor) -> Tensor:
        """Return probabilities [B, K] as they are."""
        return raw.to(torch.float32)

    def to_raw(self, state: Tensor) -> Tensor:
        """Return probabilities [B, K] as they are."""
        return state.to(torch.float32)

    def as_given(self, raw: Tensor) -> Tensor:
        """Return probabilities [B, K] as they are."""
        return raw.to(torch.float32)

    def show(self, raw: Tensor) -> list[str]:
        """Return the likeliest class of each column, "?" where it is missing, a line an item."""
        best = [(block.argmax(1).tolist(), block.isnan().any(1).tolist()) for block in raw.split(self.sizes, 1)]
        return [
            ", ".join("?" if gone[row] else of[at[row]] for of, (at, gone) in zip(self.classes, best, strict=True))
            for row in range(len(raw))
        ]

    def encoder(self, n_out: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP [B, K] -> [B, n_out]; a column that is missing has no class, all 0."""
        return nn.Sequential(WithoutGaps(), mlp([*self.shape, networks.width, networks.width, n_out], nn.ReLU()))

    def decoder(self, n_in: int, networks: VectorNetworks) -> nn.Module:
        """Return an MLP and a softmax for each column, [B, n_in] -> [B, K]."""
        return nn.Sequential(mlp([n_in, networks.width, networks.width, *self.shape], nn.ReLU()), Shares(self.sizes))

    def energy_trunk(self, together: Sequence[Modality], width: int) -> nn.Module:
        """Return an MLP on the probabilities side by side: [B, K] each -> [B, width]."""
        return VectorTrunk(sum(m.shape[0] for m in together), width)

    def judge_trunk(self, width: int, n_features: int) -> nn.Module:
        """Return two layers, [B, K] -> [B, n_features]."""
        return nn.Sequential(WithoutGaps(), mlp([*self.shape, n_features, n_features], nn.ReLU()), nn.ReLU())

    def likelihood(self, family: str, scale: float | Literal["learned"], weight: float) -> Observation:
        """Return the categorical p(x | mean), which has no scale."""
        return Categorical(self.sizes, weight)

    def settle(self, moved: Tensor) -> Tensor:
        """Return the nearest probabilities to [B, K], column by column (Duchi et al. 2008)."""
        return torch.cat([_to_simplex(block) for block in moved.split(self.sizes, 1)], 1)

    def corrupt(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Return states [B, K] with a class drawn for each column, all as likely; a missing column stays missing."""
        return Categorical(self.sizes).sample(torch.ones_like(state), rng).where(~state.isnan(), torch.nan)

    intervals: ClassVar[bool] = False

    def errors(self, true: Tensor, predicted: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Return the log loss in nats and whether the likeliest class is the true one, 0 or 1, of every column [N, C].

        Probabilities are moved by SMOOTHED towards equal ones, or a share of 0 among neighbours were infinitely bad.
        """
        loss, hit = [], []
        for of, p in zip(true.split(self.sizes, 1), predicted.split(self.sizes, 1), strict=True):
            loss.append(-(of * ((1 - SMOOTHED) * p + SMOOTHED / p.shape[1]).log()).sum(1))  # NaN where it is missing
            right = (of.argmax(1) == p.argmax(1)).to(p.dtype)
            hit.append(torch.where(of.isnan().any(1), torch.nan, right))
        return {"log_loss": torch.stack(loss, 1), "accuracy": torch.stack(hit, 1)}

    def regress(self, x: Columns, y: Columns, new: Columns) -> Columns:
        """Fit classes y [N, K] of each column to x [N, F]; return their probabilities by new x [M, F], [M, K]."""
        from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

        found, first = np.zeros((len(new), y.shape[1])), 0
        for size in self.sizes:
            own, first = slice(first, first + size), first + size
            rows = ~np.isnan(y[:, own]).any(1)
            said = y[rows, own].argmax(1)
            if len(classes := np.unique(said)) < 2:
                found[:, own.start + (classes[0] if len(classes) else 0)] = 1
                continue
            with warnings.catch_warnings():  # many classes, and steps that have not converged, are no news here
                warnings.simplefilter("ignore")
                made = LogisticRegression(max_iter=STEPS).fit(x[rows], said)
            found[:, own.start + made.classes_] = made.predict_proba(new)
        return found


def _to_simplex(x: Tensor) -> Tensor:
    """Project [B, K] onto the simplex: max(x - t, 0), with the t at which the rest adds up to 1."""
    falling = x.sort(1, descending=True).values
    t = (falling.cumsum(1) - 1) / torch.arange(1, x.shape[1] + 1, device=x.device)  # if the first k are left
    kept = (falling > t).sum(1, keepdim=True).clamp_min(1)
    return (x - t.gather(1, kept - 1)).clamp_min(0)
