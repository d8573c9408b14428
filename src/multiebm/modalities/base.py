"""What a modality has to know: its values, its networks, its density. One class in one file knows it all.

Raw values are what users hand over and get back; states are float32 tensors that networks and chains see. Packages add
kinds under the entry point group `multiebm.modalities`, each a frozen dataclass of plain values, named as its `kind`;
`multiebm.testing.ModalityContract` proves one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from multiebm.core.cells import missing_texts
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.handed import SHOWN, Array, Handed, Mask
from multiebm.core.random import Randomness, rand, randn
from multiebm.core.table import nearest
from multiebm.distributions.likelihoods import LIKELIHOODS, LearnedScale, Likelihood, Observation
from multiebm.modalities.gaps import of_one_value
from multiebm.nn.pictures import blurred

Given = tuple[Tensor, Tensor]  # raw values [N, ...] of one split, and which are present, bool [N]
Shows = Literal["pictures", "points", "text"]  # what `show` gives
Columns = npt.NDArray[np.float64]
Scale = Literal["none", "fixed", "learned"]  # what a likelihood has: none, a number, a number or a learned one
RAW_LIMIT = 1e37  # near the largest float32, which is what networks compute in
NOISE = 0.5  # deviation of the most noise under which a robust judge reads states: a quarter of black to white
PENALTIES = np.logspace(-2, 4, 13)  # of ridge regression, of which cross-validation chooses


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
    scaled: bool = False  # pictures of any size become of one
    numbers: ClassVar[bool] = True  # values handed over are numbers; else they may be anything, texts say
    speaks: ClassVar[bool] = False  # items are sentences, states [B, T, V] of tokens, which `show` writes
    columns: tuple[str, ...] = ()  # names of the numbers of a raw item, where training had them
    missing: Literal["nan"] | None = None  # what says that a value is missing, beside masks
    likelihoods: ClassVar[Mapping[str, Scale]] = {"normal": "fixed", "laplace": "fixed"}  # the first is the default
    linked: ClassVar[bool] = False  # its own decoders end in a `Link`, as means are not any numbers
    blurs: ClassVar[bool] = False  # neighbours on the last two axes are alike: blurred they show the same
    still: ClassVar[bool] = False  # no chain in data space moves it
    noise_range: ClassVar[tuple[float, float] | None] = None  # of noise, from which a chain may start; None: N(0, I)
    by_cell: ClassVar[bool] = False  # where values may be missing, single cells may be: NaN in raw values and states

    @property
    def lacks_cells(self) -> bool:
        """Whether items may lack some of its cells and have the others."""
        return self.by_cell and self.missing is not None

    @property
    def handed_columns(self) -> tuple[str, ...]:
        """The names of the columns as they are handed over; `columns` are those that come back."""
        return self.columns

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """The shape of one raw item."""
        return self.shape

    @property
    def size(self) -> int:
        """Number of coordinates of one item's state."""
        return math.prod(self.shape)

    @property
    def places(self) -> int:
        """What the memory of its networks grows with: pixels of a picture, coordinates of a vector."""
        return self.size

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many neighbouring coordinates are missing together, where single cells may be."""
        return (1,) * self.size

    # values

    @classmethod
    def infer(cls, part: Handed) -> dict[str, Any] | None:
        """Return the declaration, beside its kind, under which values [N, ...] that were handed over without one are
        of this kind; None: they are not.
        """
        return None

    def describe(self) -> str:
        """Return what an item has of it, in words: "12 numbers"."""
        return f"{self.kind} of shape {' x '.join(map(str, self.raw_shape))}"

    def constant(self, raw: Tensor) -> list[str]:
        """Return the columns of raw values [N, D] that have one value, by name or place; of others none."""
        if raw.dim() != 2 or not len(raw):
            return []
        return [self.column(place) for place in of_one_value(raw) if not raw[:, place].isnan().all()]

    def column(self, place: int) -> str:
        """Return what messages call a column of raw values [N, D]: its name, or its place."""
        return repr(self.columns[place]) if self.columns else str(place)

    def far_off(self, raw: Tensor) -> list[tuple[int, int, float]]:
        """Return (column, row, how many robust deviations from the median) of values of raw [N, D] so far off that the
        others of their column have all but one state, the furthest of a column; of kinds without such none.
        """
        return []

    def hide(self, part: Handed) -> Handed:
        """Return values handed over [N, ...] with those masked that are missing: NaN, and beside texts None and ""."""
        sort = part.values.dtype.kind
        if self.missing is None or sort not in ("f" if self.numbers else "fOUS"):
            return part
        return part._replace(masked=part.hidden | (np.isnan if sort == "f" else missing_texts)(part.values))

    def keep(self, part: Handed) -> Array:
        """Return values handed over [N, ...], hidden by `hide`, as an array that a file of arrays holds; it is read as
        they are where NaN is declared missing.
        """
        return np.where(part.hidden, np.nan, part.values) if part.hidden.any() else part.values

    @classmethod
    @abstractmethod
    def declaration_problems(cls, where: str, declared: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a declaration beside its `kind`, each as "where.key: got ..., expected ..."."""

    @classmethod
    @abstractmethod
    def declare(cls, name: str, declared: Mapping[str, Any], part: Handed, where: str) -> Self:
        """Return the modality of training values [N, ...] declared without problems; DataError for other axes."""

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

    def check(self, raw: Tensor, present: Tensor, where: str) -> None:
        """Refuse raw values [N, *raw_shape] whose states, where `present`, no network can read: DataError."""
        return  # of most kinds networks can read all that `read` takes

    @abstractmethod
    def to_state(self, raw: Tensor) -> Tensor:
        """Map raw values [B, *raw_shape] to float32 states [B, *shape]; NaN passes through, for the caller to mask."""

    def tamed(self, state: Tensor) -> Tensor:
        """Return states [B, *shape] as the linear start reads them, with none so far off that it rules the others."""
        return state

    @abstractmethod
    def to_raw(self, state: Tensor) -> Tensor:
        """Map states [B, *shape] to raw values [B, *raw_shape], as users get them."""

    def drawn(self, raw: Tensor) -> Tensor:
        """Return raw values [B, *raw_shape] that were drawn with noise on the set where observed ones lie."""
        return raw

    @abstractmethod
    def as_given(self, raw: Tensor) -> Tensor:
        """Return observed raw values [B, *raw_shape] in the type and units of `to_raw`."""

    def give(self, raw: Tensor, given: Handed | None = None, there: Tensor | None = None) -> Any:
        """Return raw values [..., N, *raw_shape] as users get them; `given` are those that were handed over, and
        `there` (bool [N]) which of these are in their place.
        """
        return raw

    def average(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of draws [K, N, *raw_shape]; what all of them agree on is that, to the bit."""
        same, numbers = (draws == draws[0]).all(0), draws if draws.is_floating_point() else draws.double()
        return torch.where(same, draws[0], numbers.mean(0)), torch.where(same, 0.0, numbers.std(0))

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

    def disturb(self, state: Tensor, rng: Randomness) -> Tensor:
        """Return states [B, *shape] under noise whose deviation is drawn for each item, up to NOISE; where neighbours
        are alike, half of them blurred before. A robust judge learns and reads them.
        """
        alone = (len(state), *(1,) * (state.dim() - 1))
        if self.blurs:
            state = blurred(state).where(rand(rng, alone, state) < 0.5, state)
        return self.settle(state + NOISE * rand(rng, alone, state) * randn(rng, state.shape, state))

    def corrupt(self, state: Tensor, rng: torch.Generator) -> Tensor:
        """Return what no item has: states [B, *shape], each spoilt in one of three ways that `rng` draws.

        One value everywhere, of a picture one for each channel; uniform noise; or its own values, of a picture its
        pixels, shuffled. Values are within the range of the batch. A missing cell stays missing.
        """
        x = state.flatten(2) if state.dim() > 2 else state[:, None]  # [B, channels, places]
        gone = x.isnan()
        low, high = x.nan_to_num(nan=math.inf).amin(0), x.nan_to_num(nan=-math.inf).amax(0)
        low, high = (end.where(low <= high, 0.0) for end in (low, high))  # 0 where no item has the cell
        at, least, most = rand(rng, x.shape, x), low.amin(1, keepdim=True), high.amax(1, keepdim=True)
        one = (least + (most - least) * at[:, :, :1]).expand_as(x)
        order = at[:, :1].argsort(2).expand_as(x)
        shuffled = x.where(~gone, x.nanmean(2, keepdim=True)).gather(2, order).nan_to_num()
        way = torch.randint(3, (len(x),), generator=rng).to(x.device)
        spoilt = torch.stack([one, low + (high - low) * at, shuffled])[way, torch.arange(len(x), device=x.device)]
        return self.settle(spoilt.view_as(state)).where(~state.isnan(), torch.nan)

    # density and chain

    def likelihood(self, family: str, scale: float | Literal["learned"], weight: float) -> Observation:
        """Return p(x | mean) of states, one of `likelihoods`, with its weight in sums over modalities.

        A learned scale is one for every number of the state.
        """
        noise, gaps = LIKELIHOODS[family], self.lacks_cells
        if scale == "learned":
            return LearnedScale(noise, self.shape, weight, gaps)
        return Likelihood(noise, scale, weight, gaps)

    def relax(self, state: Tensor) -> Tensor:
        """Return what a chain in data space moves in place of `state`: [B, ...] that the energy reads as well."""
        return state

    def noise(self, like: Tensor, rng: Randomness) -> Tensor:
        """Return noise [B, *shape] from which a chain may start, in the shape of states `like`."""
        low, high = self.noise_range or (0.0, 0.0)
        return low + (high - low) * rand(rng, like.shape, like) if self.noise_range else randn(rng, like.shape, like)

    def settle(self, moved: Tensor) -> Tensor:
        """Return the state [B, *shape] that the end of a chain becomes, on the set where states lie."""
        return moved

    def seen(self, state: Tensor) -> Tensor:
        """Return a state [B, *shape] as its user would see it: that of its raw values."""
        return state

    # how a part that was filled in is judged

    intervals: ClassVar[bool] = True  # cells are numbers, of which draws make intervals

    def judged(self, state: Tensor) -> Tensor:
        """Return states [B, *shape] as the numbers in which predictions are averaged and judged, [B, ...]."""
        return self.seen(state)

    def expected(self, mean: Tensor) -> Tensor:
        """Return what `judged` is on average given the decoder mean, [B, ...]; its mean over draws is a prediction."""
        return self.judged(mean)

    def errors(self, true: Tensor, predicted: Tensor, spread: Tensor) -> dict[str, Tensor]:
        """Return what predictions [N, ...] of judged numbers are measured by, [N, K] each, NaN where nothing is there.

        The first one is compared with that of regression: less is better. "rmse" are squares, whose mean's root counts.
        `spread` [...] is the deviation over training items; a cell that is constant there does not count.
        """
        off = (predicted - true) / torch.where(spread > 0, spread, torch.nan)
        return {"rmse": off.square().flatten(1)}

    def regress(self, x: Columns, y: Columns, new: Columns) -> Columns:
        """Fit judged numbers y [N, K], NaN where one is missing, to x [N, F]; return what new x [M, F] say, [M, K]."""
        from sklearn.linear_model import RidgeCV  # late: scikit-learn takes a second to import

        gaps, found = np.isnan(y), np.zeros((len(new), y.shape[1]))
        for own in [slice(None)] if not gaps.any() else [slice(k, k + 1) for k in range(y.shape[1])]:
            rows = ~gaps[:, own].any(1)
            if rows.sum() > 1:
                found[:, own] = RidgeCV(PENALTIES).fit(x[rows], y[rows, own]).predict(new).reshape(len(new), -1)
        return found


def check_per_column(modality: Modality, *keys: str) -> None:
    """Raise ConfigError unless each of these fields of a modality has a value for every column, or none at all."""
    for key in keys:
        if (n := len(getattr(modality, key))) not in (0, *modality.shape):
            raise ConfigError(
                f"modality {modality.name!r}, {key}: got {n} of them, expected {modality.shape[0]}, or none"
            )
    n = len(getattr(modality, "loc", ()))
    if wrong := [place for place in getattr(modality, "same", ()) if place >= n]:
        raise ConfigError(f"modality {modality.name!r}, same: got {wrong[0]}, expected places below {n}")


def unknown_keys(where: str, declared: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Return a line for every key of a declaration that its kind does not know."""
    return [
        f"{where}: got unknown key {key!r}, expected {', '.join(known)}.{nearest(str(key), list(known))} Remove it"
        for key in declared
        if key not in known
    ]


def refuse(bad: Mask, where: str, nan: bool = False, columns: Sequence[str] = ()) -> None:
    """Raise DataError if any value [N, ...] is `bad`, as one that is not finite; `nan`: some are NaN; `columns`: the
    names of the columns of values [N, D], if they have any.
    """
    if len(rows := np.flatnonzero(bad.reshape(len(bad), -1).any(1))):
        named = [repr(columns[i]) for i in np.flatnonzero(bad.any(0))[:SHOWN]] if columns else []
        of = f" (column{'s' if len(named) > 1 else ''} {', '.join(named)})" if named else ""
        raise DataError(
            f"{where}: got {'NaN' if nan else 'too large'} or infinite values in {len(rows)} rows, first "
            f"{rows[:SHOWN].tolist()}, expected finite numbers below {RAW_LIMIT:g}{of}; repair them, mark them absent "
            f"in `present`, or {'' if nan else 'make NaN of them and '}say that NaN means missing (--missing nan)"
        )


def is_number(value: object) -> bool:
    """Return whether `value` is a finite real number, and no bool."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:  # a whole number beyond float64
        return False
