"""The imputer keeps what is observed, fills gaps with means of its model, and passes scikit-learn's own checks."""

import pickle
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from multiebm import Imputer
from multiebm.core.errors import ConfigError, DataError

SHORT = {"steps": 5, "draws": 2}
OFTEN = (  # of scikit-learn's checks those that run with the fast tests: they train once, or not at all
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_pickle",
    "check_readonly_memmap_input",
    "check_n_features_in",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_estimators_unfitted",
    "check_estimator_sparse_array",
    "check_dict_unchanged",
)
NAMES = ["temp", "hum_in", "hum_out", "ph", "salt", "flow"]


def name_of(check) -> str:
    return check.func.__name__ if isinstance(check, partial) else check.__name__


def checks():
    for estimator, check in estimator_checks_generator(Imputer(**SHORT)):
        marks = () if name_of(check) in OFTEN else pytest.mark.slow
        yield pytest.param(estimator, check, id=name_of(check), marks=marks)


def lines(n: int = 400, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Rows of rank 2 and low noise: six columns in units of their own."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + noise * rng.normal(size=(n, 6))
    return rows * [1, 10, 0.1, 1, 1000, 1] + [0, 5, 0, -3, 1e4, 0]


def with_gaps(table: np.ndarray, share: float = 0.2, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(table.shape) < share, np.nan, table)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return with_gaps(lines(60))


@pytest.fixture(scope="module")
def fitted(table) -> Imputer:
    return Imputer(**SHORT).fit(table)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
@pytest.mark.filterwarnings("ignore")
def test_it_passes_the_check_of_scikit_learn(estimator, check):
    check(estimator)


def test_every_check_that_runs_often_is_one():
    assert set(OFTEN) <= {name_of(check) for _, check in estimator_checks_generator(Imputer(**SHORT))}


def test_what_is_observed_comes_back_to_the_bit_and_no_gap_is_left(fitted, table):
    filled, kept = fitted.transform(table), ~np.isnan(table)
    assert filled.dtype == np.float64
    assert np.array_equal(filled[kept], table[kept])
    assert np.isfinite(filled).all()
    assert np.isnan(table).any()  # it was not written into


def test_gaps_are_the_mean_of_the_draws_of_the_model(fitted, table):
    rows = np.flatnonzero(np.isnan(table).any(1) & ~np.isnan(table).all(1))
    draws = fitted.model_.impute({"table": table[rows]}, draws=2, seed=[fitted.seed_] * len(rows)).draws["table"]
    assert draws.shape == (2, len(rows), 6)
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_allclose(fitted.transform(table)[rows], draws.mean(0).numpy(), rtol=1e-5)


def test_a_row_is_filled_alike_wherever_it_stands_and_in_every_table(fitted, table):
    table = np.tile(table, (6, 1))  # more than are filled in at a time
    whole, order = fitted.transform(table), np.random.default_rng(0).permutation(len(table))
    rounding = 1e-6 * np.nanstd(table, 0)  # of float32: some processors add up rows of a batch in another order
    assert (abs(fitted.transform(table[order]) - whole[order]) <= rounding).all()
    assert (abs(whole[:60] - whole[300:]) <= rounding).all()
    for row in (0, 7, 31):
        assert (abs(fitted.transform(table[[row]])[0] - whole[row]) <= rounding).all()


def test_the_same_seed_fills_alike_and_another_does_not(fitted, table):
    again = clone(fitted).fit(table)
    assert again.seed_ == 0
    assert np.array_equal(again.transform(table), fitted.transform(table))
    other = clone(fitted).set_params(random_state=1).fit(table)
    assert not np.allclose(other.transform(table), fitted.transform(table))
    drawn = clone(fitted).set_params(random_state=np.random.RandomState(3), steps=1).fit(table)
    assert drawn.seed_ == np.random.RandomState(3).randint(2**31 - 1)


def test_pickling_keeps_every_filled_cell(fitted, table):
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(table), fitted.transform(table))  # noqa: S301


def test_nothing_is_left_of_the_folder_it_trains_in(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Imputer(steps=1, draws=2).fit(table)
    assert list(tmp_path.iterdir()) == []


def test_columns_that_never_vary_and_empty_rows_have_their_own_values():
    table = with_gaps(lines(30))
    table[:, 3], table[:, 4], table[0] = 1e6, np.nan, np.nan
    table[5, 3] = np.nan
    fitted = Imputer(**SHORT).fit(table)
    filled = fitted.transform(table)
    assert np.all(filled[:, 3] == 1e6)
    assert np.all(filled[:, 4] == 0)
    means = np.nanmean(table[:, [0, 1, 2, 5]], 0)
    np.testing.assert_allclose(filled[0, [0, 1, 2, 5]], means, rtol=1e-12)
    assert np.array_equal(fitted.scale_ > 0, [True, True, True, False, False, True])


def test_parts_are_columns_by_name_pattern_or_place():
    frame = pd.DataFrame(with_gaps(lines(30)), columns=NAMES)
    parts = {"air": ["temp", "hum*"], "water": [3, "salt", "flow"]}
    fitted = Imputer(parts=parts, **SHORT).set_output(transform="pandas").fit(frame)
    assert fitted.parts_ == {"air": [0, 1, 2], "water": [3, 4, 5]}
    assert {name: m.columns for name, m in fitted.model_.modalities.items()} == {
        "air": ("temp", "hum_in", "hum_out"),
        "water": ("ph", "salt", "flow"),
    }
    filled = fitted.transform(frame)
    assert list(filled.columns) == NAMES
    assert filled.index.equals(frame.index)
    assert list(fitted.get_feature_names_out()) == NAMES
    rows = frame.to_numpy()[:5]
    done = fitted.model_.impute({"air": rows[:, :3], "water": rows[:, 3:]}, draws=2, seed=[0] * 5).mean
    np.testing.assert_allclose(filled.to_numpy()[:5], np.hstack([done["air"], done["water"]]), rtol=1e-5)


def test_the_score_is_minus_the_error_in_deviations(fitted, table):
    """Of a model that always says the means, it is -1 on the table of `fit`: each cell is hidden once."""
    says_means = clone(fitted).fit(table)
    says_means._filled = lambda rows: np.where(np.isnan(rows), says_means.mean_, rows)
    assert says_means.score(table) == pytest.approx(-1, abs=1e-9)
    knows = clone(fitted).fit(table)
    knows._filled = lambda rows: table
    assert knows.score(table) == 0
    assert fitted.score(table) == fitted.score(table)
    with pytest.raises(ValueError, match="got no observed cell in a column that varied"):
        fitted.score(np.full((2, 6), np.nan))


def test_it_is_a_step_of_a_pipeline():
    table = lines(80)
    target = table @ np.arange(6.0) + 1
    pipe = make_pipeline(Imputer(steps=5, draws=2), LinearRegression()).fit(with_gaps(table), target)
    filled = pipe[0].transform(with_gaps(table))
    np.testing.assert_allclose(pipe.predict(with_gaps(table)), LinearRegression().fit(filled, target).predict(filled))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"parts": {"a": [0, 1, 2]}}, ConfigError, "columns in no part \\('x3', 'x4', 'x5'\\), expected each in one"),
        ({"parts": {"a": [0, 9]}}, ConfigError, "part 'a': got no column 9, expected some of x0, x1"),
        ({"parts": {"a": [0, 1, 2], "b": [2, 3, 4, 5]}}, ConfigError, "got column 'x2' in the parts 'a' and 'b'"),
        ({"draws": 1}, ConfigError, "draws: got 1, expected a number of draws from 2"),
        ({"method": "mopo"}, ConfigError, "preset: got 'mopo'"),
        ({"steps": 0}, ConfigError, "steps: got 0, expected a number of steps from 1"),
        ({"seconds": -1}, ConfigError, "training.seconds"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_before_training(settings, error, said, table, monkeypatch):
    monkeypatch.setattr("multiebm.experiments.imputer.train", None)
    with pytest.raises(error, match=said):
        Imputer(**settings).fit(table)


def test_tables_that_cannot_be_used_are_refused(fitted, table):
    with pytest.raises(ValueError, match="got no observed cell, expected some to learn from"):
        Imputer().fit(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="has 5 features, but Imputer is expecting 6"):
        fitted.transform(table[:, :5])
    far = table.copy()
    far[3, 0] = 1e30
    with pytest.raises(DataError, match="got 1e\\+30 in row 3, column 0"):
        fitted.transform(far)


@pytest.mark.slow
def test_a_table_without_gaps_teaches_to_fill_them():
    whole = lines(600)
    table = with_gaps(whole)[400:]
    gaps, fitted = np.isnan(table), Imputer(steps=1500).fit(whole[:400])
    wrong = ((fitted.transform(table) - whole[400:]) / whole.std(0))[gaps]
    assert np.sqrt(np.mean(wrong**2)) < 0.3
    assert fitted.score(whole[400:]) > -0.3


@pytest.mark.slow
def test_on_a_linear_table_it_is_far_better_than_means_and_near_iterated_regressions():
    whole = lines(600)
    table = with_gaps(whole)
    gaps = np.isnan(table[400:])

    def error(filled) -> float:
        return float(np.sqrt(np.mean(((filled - whole[400:]) / whole.std(0))[gaps] ** 2)))

    ours = error(Imputer(steps=1500).fit(table[:400]).transform(table[400:]))
    regressions = error(IterativeImputer(max_iter=50, tol=1e-4).fit(table[:400]).transform(table[400:]))
    means = error(np.where(gaps, np.nanmean(table[:400], 0), table[400:]))
    assert means > 0.8
    assert ours < 0.35 * means
    assert ours < 1.2 * regressions


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        (
            "ph",
            lambda n: ["?", *range(n - 1)],
            "got the text '?' in row 0, expected a number, as 59 of the 60 cells are",
        ),
        ("ph", lambda n: ["u", "v"] * (n // 2), "got 'u' in row 0, expected numbers; leave the column out"),
        ("ph", lambda n: pd.date_range("2020-01-01", periods=n), "got '2020-01-01T00:00:00.000000"),
    ],
)
def test_a_column_without_numbers_is_named(column, cells, said):
    frame = pd.DataFrame(lines(60), columns=NAMES).assign(**{column: cells(60)})
    with pytest.raises(ValueError, match=re.escape(f"X, column '{column}': {said}")):
        Imputer(**SHORT).fit(frame)
    at = NAMES.index(column)
    with pytest.raises(ValueError, match=rf"X, column {at}: got "):
        Imputer(**SHORT).fit(frame.astype(object).to_numpy())


def test_an_outlier_that_squashes_its_column_is_said_with_column_and_row(caplog):
    table = np.random.default_rng(0).normal(size=(30, 2))
    table[7, 1] = 1e9
    Imputer(steps=1).fit(table)
    assert "outliers of table, beside which other values look all the same: 1e+09 in row 7, column 1 (" in caplog.text
    assert caplog.text.rstrip().endswith("deviations from the median); mend them, or make them NaN")
