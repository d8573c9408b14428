"""Codes such as -999 that stand for what is missing are named before training; what is like them and no code is not."""

import numpy as np
import pandas as pd
import pytest

import multiebm
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import Rows, from_arrays
from multiebm.modalities.gaps import codes_in

N = 200
NORMAL = np.random.default_rng(0).normal(size=N)


def coded(values, code, every=10) -> np.ndarray:
    return np.where(np.arange(N) % every == 0, code, values)[:, None]


def test_a_code_is_named_with_column_share_the_others_and_the_fix_and_is_no_outlier_as_well():
    frame = pd.DataFrame(np.c_[NORMAL, coded(NORMAL, -999), coded(NORMAL, 999, 20)], columns=["a", "b", "c"])
    data = from_arrays({"x": frame}, test=Rows({"x": frame[:2]}))
    low, high = (f"{of(NORMAL[np.arange(N) % 10 > 0]):g}" for of in (min, max))
    least, most = (f"{of(NORMAL[np.arange(N) % 20 > 0]):g}" for of in (min, max))
    assert data.describe().splitlines()[1:] == [
        f"far outside the other values of x: -999 in 10% of column 'b', whose others are {low} to {high}; "
        f"999 in 5% of column 'c', whose others are {least} to {most}; if that says that a value is missing, leave "
        "such cells empty (NaN) and train with --missing nan (in Python missing='nan'), or mask them"
    ]
    assert data.outliers() == {}


@pytest.mark.parametrize(
    ("values", "code"),
    [(NORMAL, -999), (NORMAL, 9999), (abs(NORMAL) * 20 + 18, -1), (np.arange(N) % 2, 99), (np.arange(N) % 5, 1e30),
     (np.exp(NORMAL), -9)],
)  # fmt: skip
def test_codes_far_outside_the_others_are_found(values, code):
    assert [(found.column, found.value, found.share) for found in codes_in(coded(values, code))] == [(0, code, 0.1)]


def test_several_codes_at_one_end_are_found_and_missing_cells_do_not_count():
    values = np.where(np.arange(N) % 10 == 5, 98, coded(NORMAL, 99)[:, 0])[:, None]
    assert [(found.value, found.share) for found in codes_in(values)] == [(99, 0.1), (98, 0.1)]
    values[1::2] = np.nan
    assert [(found.value, found.share) for found in codes_in(values)] == [(99, 0.2)]


@pytest.mark.parametrize(("low", "high"), [(-999, 999), (-999, 9999), (-500, 700)])
def test_codes_at_both_ends_are_none_of_the_others(low, high):
    values = np.where(np.arange(N) % 20 == 5, high, coded(NORMAL, low)[:, 0])
    least, most = (float(of(values[(values > low) & (values < high)])) for of in (min, max))
    assert codes_in(values[:, None]) == [(0, low, 0.1, least, most), (0, high, 0.05, least, most)]


@pytest.mark.parametrize(
    "values",
    [np.arange(N) % 2, np.arange(N) % 3 - 1, np.arange(N) % 6 - 1, np.arange(N) % 3 * 50, np.round(NORMAL),
     np.maximum(NORMAL, 0), np.where(np.arange(N) % 4, 0, np.exp(NORMAL)), np.arange(N) + 1000, np.full(N, 9.0)],
)  # fmt: skip
def test_classes_zeros_and_steps_are_no_codes(values):
    assert codes_in(values.astype(float)[:, None]) == []


def test_a_declaration_of_a_code_says_how_it_becomes_nan():
    with pytest.raises(
        ConfigError, match="missing: got -999, expected nan, a word, .*first make NaN of cells that are -999"
    ):
        multiebm.read_data({"x": NORMAL}, missing=-999)
    with pytest.raises(ConfigError, match="missing: got the number nan, expected nan, a word, .*write missing='nan'"):
        multiebm.read_data({"x": NORMAL}, missing=np.nan)


def test_a_part_that_no_row_has_is_said_without_a_share_of_its_cells():
    said = multiebm.read_data({"x": NORMAL, "y": NORMAL * np.nan}, missing="nan").describe()
    assert "nan%" not in said
    assert "no row to train on has y" in said


def test_what_has_no_rows_and_arrays_in_cells_are_told_with_the_fix():
    with pytest.raises(DataError, match=r"'x': got generator, which has no rows.*numpy.asarray\(list\(values\)\)"):
        multiebm.read_data({"x": (row for row in NORMAL)})
    cells = np.empty(2, object)
    cells[:] = [np.zeros(3), np.ones(3)]
    for several in (cells, list(cells), pd.Series(cells)):
        assert multiebm.read_data({"x": several}).modalities["x"].shape == (3,)
    with pytest.raises(DataError, match=r"row 0: got Interval.*make a text of it, str\(value\) or .astype\(str\)"):
        multiebm.read_data({"x": pd.cut(pd.Series(NORMAL), 3)})


@pytest.mark.parametrize(
    "setting", ["data.settings.modalities={x: counts}", "data.settings={seed: 1}", "data.name=toy2d"]
)
def test_settings_of_data_beside_data_are_refused_before_a_run_begins(setting, tmp_path):
    with pytest.raises(
        ConfigError, match=r"overrides: got data\..* beside data that were handed over.*read_data\(data, kinds="
    ):
        multiebm.train({"x": NORMAL}, tmp_path / "run", [setting], progress=False)
    with pytest.raises(ConfigError, match="beside data that were handed over"):
        multiebm.train("own", tmp_path / "run", [setting], dataset=multiebm.read_data({"x": NORMAL}), progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["training.seconds=5", {"training.seconds": 5}])
def test_overrides_that_are_no_list_are_refused_in_one_line_beside_data(given, tmp_path):
    with pytest.raises(ConfigError) as error:
        multiebm.train({"x": NORMAL}, tmp_path / "run", given, progress=False)
    assert str(error.value) == (
        f"overrides: got {given!r:.60}, expected a list of texts, such as ['training.batch_size=32']"
    )
