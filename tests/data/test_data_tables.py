"""Tables of other libraries than pandas, known by their methods, and columns whose names are numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

import multiebm
from multiebm.core.errors import ConfigError, DataError

FRAME = pd.DataFrame({"a": np.arange(20.0), "b": np.arange(20.0) ** 2, "c": ["x", "y"] * 10})
PARTS = {"num": ["b", "a"], "cls": "c"}
WHOLE = multiebm.read_data(FRAME, parts=PARTS)


class Column:
    """As of polars or pyarrow: no index, no type that NumPy knows."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_numpy(self):
        return FRAME[self.name].to_numpy()


class Convertible:
    def to_pandas(self):
        return FRAME


class ByColumn:
    """As polars where pyarrow is not here."""

    columns = list(FRAME)

    def to_pandas(self):
        raise ModuleNotFoundError("pyarrow is required")

    def to_numpy(self):
        return FRAME.to_numpy()

    def __getitem__(self, name):
        return Column(name)


class Whole:
    columns = list(FRAME)

    def to_numpy(self):
        return FRAME.to_numpy()


@pytest.mark.parametrize("kind", [Convertible, ByColumn, Whole])
def test_a_table_of_any_library_gives_what_that_of_pandas_gives(kind):
    found = multiebm.read_data(kind(), parts=PARTS)
    assert found.modalities == WHOLE.modalities
    assert all(torch.equal(view, WHOLE.train.views[name]) for name, view in found.train.views.items())


def test_columns_of_any_library_are_parts():
    found = multiebm.read_data({"num": Column("b"), "cls": Column("c")})
    assert torch.equal(found.train.views["num"], WHOLE.train.views["num"][:, :1])
    assert torch.equal(found.train.views["cls"], WHOLE.train.views["cls"])


def test_a_series_is_no_table():
    with pytest.raises(DataError, match="data: got Series, expected a dict of arrays by part"):
        multiebm.read_data(FRAME["a"], parts=PARTS)


def test_whole_numbers_are_names_where_columns_have_such():
    frame = FRAME.set_axis([2, 1, 0], axis=1)
    data = multiebm.read_data(frame, parts={"num": [1, 2], "cls": 0})
    assert torch.equal(data.train.views["num"], WHOLE.train.views["num"])
    by_place = multiebm.read_data(FRAME, parts={"num": [1, 0], "cls": 2})
    assert torch.equal(by_place.train.views["num"], WHOLE.train.views["num"])


def test_an_archive_of_python_objects_is_refused_with_the_fix(tmp_path):
    np.savez(tmp_path / "o.npz", a=np.array([1, 2, 3], object))
    with pytest.raises(DataError, match=r"o.npz: .*a.npy: values of type object; make numbers or texts of them"):
        multiebm.read_data(tmp_path / "o.npz")


def test_rows_of_which_none_has_two_parts_are_said():
    there = np.arange(20) < 10
    said = multiebm.from_arrays({"a": FRAME["a"], "b": FRAME["b"]}, present={"a": there, "b": ~there}).describe()
    assert said.splitlines()[-1] == (
        "no row to train on has two parts, so nothing joins them; put parts of one item into one row or name"
    )
    assert "joins" not in WHOLE.describe()


def test_a_table_without_parts_and_texts_among_numbers_are_told_with_the_call_that_mends_them():
    with pytest.raises(ConfigError, match=r"in Python multiebm.read_data\(table, parts={'name': \[columns\]}\), which"):
        multiebm.train(FRAME)
    with pytest.raises(
        DataError, match="column 'c': got str 'x' in row 0, .*put the column into a part of its own, of k"
    ):
        multiebm.read_data(FRAME, parts={"all": ["a", "c"]}, kinds={"all": "vector"})
