"""Tables with gaps, filled in by a model, as a step of scikit-learn."""

import logging
from collections.abc import Sequence
from datetime import date, timedelta
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from multiebm.core.cells import is_missing, odd_cells
from multiebm.core.errors import ConfigError, whole_number
from multiebm.core.random import SEEDS
from multiebm.data import MultimodalDataset, Rows, from_arrays
from multiebm.data.columns import Columns, check_parts_said, columns_of_parts
from multiebm.experiments.api import train
from multiebm.experiments.load import load_experiment
from multiebm.experiments.planning import in_steps
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sizes import sizes_for
from multiebm.models.use import check_parts

logger = logging.getLogger("multiebm")

PART = "table"  # the only part where none are named
TOGETHER = 256  # rows that are filled in at a time, always as many: sums are then rounded alike
HIDDEN = 0.5  # share of a row's cells that encoders are not shown, at most
FOLDS = 5  # of the cells that `score` hides

Table = NDArray[Any]
_CONVERTED = (str, bytes, date, timedelta, np.datetime64, np.timedelta64)  # are no numbers, and can be made some


class Imputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills the gaps (NaN) of a table of numbers [N, D] with the means of what a model trained on it expects.

    Parameters
    ----------
    parts : which columns form which part, {"sensor": ["temp", "hum*"], "lab": [4, 5]}, by name, pattern or place; every
        column is in one. None: all are one part.
    method : a preset for own data, as of `multiebm.train`.
    draws : completions of a row of which a filled cell is the mean, at least 2.
    steps : of training; None: as many as the method has.
    seconds : that training takes at most; None: as long as its steps do.
    overrides : settings of the method, such as "training.batch_size=32".
    random_state : seed of training and of completions. An int gives the same model and the same cells again.
    verbose : whether training shows how far it is.

    Attributes
    ----------
    model_ : the `MultimodalModel`.
    parts_ : places of the columns of each part, by its name.
    mean_, scale_ : mean and deviation [D] of the observed cells of each column.
    seed_ : the seed that was used.
    n_features_in_, feature_names_in_ : number and names of the columns.

    A row is filled in by itself: the same row is always filled in the same way. A column that never varied in `fit` is
    filled with its value, with 0 where it had none, and a row without any cell with the means of columns.
    """

    def __init__(
        self,
        parts: Columns | None = None,
        method: str = "own",
        draws: int = 20,
        steps: int | None = None,
        seconds: float | None = None,
        overrides: Sequence[str] = (),
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.parts = parts
        self.method = method
        self.draws = draws
        self.steps = steps
        self.seconds = seconds
        self.overrides = overrides
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on the observed cells of a table [N, D] with at least two rows; `y` is not used.

        ValueError for no such table, ConfigError for parameters that cannot be used, DataError for numbers beyond 1e37.
        """
        table = self._table(X, reset=True)
        whole_number("draws", self.draws, 2, SEEDS - 1, "a number of draws")
        if self.steps is not None:
            whole_number("steps", self.steps, 1, SEEDS - 1, "a number of steps")
        seed = self.random_state
        self.seed_ = int(seed if isinstance(seed, Integral) else check_random_state(seed).randint(2**31 - 1))
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{i}" for i in range(table.shape[1])])]
        self.parts_ = self._places(names)
        self._experiment()  # whose mistakes are told before any work
        if np.isnan(table).all():
            raise ValueError("X: got no observed cell, expected some to learn from")
        seen = np.ma.masked_invalid(table.astype(np.float64))
        same = (seen.min(0) == seen.max(0)).filled(True)
        self.mean_ = np.where(same, seen.min(0).filled(0.0), seen.mean(0).filled(0.0))
        self.scale_ = np.where(same, 0.0, seen.std(0).filled(0.0))
        with TemporaryDirectory() as folder:
            dataset = self._dataset(table, names)
            for far in [*dataset.codes().values(), *dataset.outliers().values()]:
                logger.warning("%s; mend them, or make them NaN", far)
            experiment = self._experiment(sizes_for(self.method, dataset, self.overrides))
            self.model_ = train(experiment, Path(folder) / "run", dataset=dataset, progress=bool(self.verbose))
        return self

    def transform(self, X: Any) -> Table:
        """Return a table [N, D] with its gaps filled; what is observed is as it was given, to the bit."""
        check_is_fitted(self)
        return self._filled(self._table(X, reset=False))

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the root mean square error of observed cells of a table [N, D] that were hidden, in deviations.

        0 is the best; about -1 is what means of columns reach. Each cell is hidden once, a fifth of them at a time,
        drawn by the seed; columns that never varied in `fit` do not count. ValueError where no cell is left.
        """
        check_is_fitted(self)
        table = self._table(X, reset=False)
        counted = ~np.isnan(table) & (self.scale_ > 0)
        if not counted.any():
            raise ValueError("X: got no observed cell in a column that varied in fit, expected some to hide")
        fold = np.full(table.shape, -1)
        fold[counted] = np.random.default_rng(self.seed_).permutation(int(counted.sum())) % FOLDS
        found = table.copy()
        for k in range(FOLDS):
            hidden = fold == k
            found[hidden] = self._filled(np.where(hidden, np.nan, table))[hidden]
        wrong = (found.astype(np.float64) - table) / np.where(self.scale_ > 0, self.scale_, 1.0)
        return -float(np.sqrt(np.mean(wrong[counted] ** 2)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _table(self, X: Any, reset: bool) -> Table:
        """Return a table as floats [N, D]; ValueError of the column that has no numbers, else of scikit-learn."""
        least = 2 if reset else 1
        how: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}
        try:
            return validate_data(self, X, reset=reset, ensure_min_samples=least, **how)
        except (ValueError, TypeError) as error:
            if wrong := _no_numbers(X):
                raise ValueError(f"X{wrong}") from error
            raise

    def _places(self, names: list[str]) -> dict[str, list[int]]:
        """Return the places of the columns of each part; ConfigError where a column is in none."""
        if self.parts is None:
            return {PART: list(range(len(names)))}
        check_parts_said(self.parts, "X")
        places = columns_of_parts(names, self.parts, "X")
        if left := set(range(len(names))).difference(*places.values()):
            listed = ", ".join(repr(names[at]) for at in sorted(left)[:8])
            raise ConfigError(f"parts: got columns in no part ({listed}), expected each in one; put them into one")
        return places

    def _experiment(self, sizes: Sequence[str] = ()) -> Experiment:
        """Return the method in fp32, in which small networks are no slower."""
        limit = [] if self.seconds is None else [f"training.seconds={self.seconds}"]
        bounds = any(phase.kind == "bound" for phase in load_experiment(self.method).training.phases)
        gaps = [f"training.phases.bound.hidden={HIDDEN}"] if bounds else []  # or no encoder of a whole table sees any
        given = [*sizes, *gaps, "training.precision=fp32", f"seed={self.seed_}", *limit, *self.overrides]
        experiment = load_experiment(self.method, given)
        return experiment if self.steps is None else in_steps(experiment, self.steps)

    def _dataset(self, table: Table, names: list[str]) -> MultimodalDataset:
        """Return the rows [N, D], all of them to train on."""
        kinds = {
            name: {"kind": "vector", "missing": "nan"}
            | ({"columns": [names[at] for at in places]} if hasattr(self, "feature_names_in_") else {})
            for name, places in self.parts_.items()
        }
        none = Rows(self._split(table[:1]))  # of testing: every row is trained on
        return from_arrays(self._split(table), kinds, test=none, name="X")

    def _split(self, table: Table) -> dict[str, Any]:
        return {name: table[:, places] for name, places in self.parts_.items()}

    def _filled(self, table: Table) -> Table:
        """Return a copy of a table [N, D] with its gaps filled."""
        gaps = np.isnan(table)
        filled = np.where(gaps, self.mean_.astype(table.dtype), table)
        check_parts(self.model_.modalities, self._split(np.where(gaps.all(1, keepdims=True), filled, table)))
        rows = np.flatnonzero(gaps.any(1) & ~gaps.all(1))
        for some in np.split(rows, range(TOGETHER, len(rows), TOGETHER)):
            if len(some):
                padded = self._split(table[np.resize(some, TOGETHER)])
                done = self.model_.impute(padded, draws=self.draws, seed=[self.seed_] * TOGETHER).mean
                means = filled[some]
                for name, places in self.parts_.items():
                    means[:, places] = done[name][: len(some)].cpu().numpy()
                filled[some] = np.where(gaps[some] & (self.scale_ > 0), means, filled[some])
        return filled


def _no_numbers(X: Any) -> str:
    """Return which column of a table [N, D] has no numbers, or a text among them; empty where none is found."""
    named = hasattr(X, "columns") and hasattr(X, "iloc")
    table = X if named else np.asarray(X, object)
    for i, name in enumerate(X.columns if named else range(table.shape[1] if table.ndim == 2 else 0)):
        cells = X.iloc[:, i].to_numpy() if named else table[:, i]
        hidden = np.zeros(cells.shape, bool)
        if wrong := odd_cells(cells, hidden, declared=True, empty="make such cells NaN"):
            return f", column {name!r}{wrong}"
        odd = (row for row, cell in enumerate(cells) if not isinstance(cell, Real) and not is_missing(cell))
        if (row := next(odd, None)) is not None and isinstance(cells[row], _CONVERTED):
            return (
                f", column {name!r}: got {str(cells[row])[:40]!r} in row {row}, expected numbers; leave the column out "
                "or make it numbers: of a date its days, of classes a column of 0 and 1 each"
            )
    return ""
