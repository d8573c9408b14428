"""What says how data are read: parts, kinds and test splits of a wrong form are refused with the right one."""

import datetime

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import multiebm
from multiebm.core.errors import ConfigError, DataError
from small_models import small_model

N = 20
TABLE = pd.DataFrame({"a": np.arange(N) * 1.5, "b": np.arange(N) ** 2.0, "c": ["x", "y"] * (N // 2)})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["a", "b"], r"table, parts: got list, expected a dict of columns by part; write parts={'name': \['a', 'b'\]}"),
        ("a", r"table, parts: got str, expected a dict of columns by part; write parts={'name': \['a'\]}"),
        ({"x": []}, "table, part 'x': got no column, expected columns, .*; say at least one, or leave the part out$"),
        ({"x": None}, "table, part 'x': got None, expected columns, by name, pattern or place"),
        ({"x": ["a", 1.5]}, "table, part 'x': got 1.5, expected columns"),
        ({"x": TABLE.dtypes == "float64"}, "part 'x': got True, .*; of a mask of columns give list.table.columns.mask"),
        ({"labels": "a"}, "table, part 'labels': got a reserved name"),
        ({1: "a"}, "table, part 1: got 1, which is no text, expected a name; quote it"),
    ],
)
def test_parts_of_a_wrong_form_are_refused_with_the_right_one(parts, said):
    with pytest.raises(ConfigError, match=said):
        multiebm.read_data(TABLE, parts=parts)
    if not isinstance(parts, dict):
        with pytest.raises(ConfigError, match="X, parts: got"):
            multiebm.Imputer(parts=parts).fit(TABLE[["a", "b"]])


def test_columns_of_a_set_of_an_index_and_of_several_levels_are_taken():
    for columns in ({"a", "b"}, pd.Index(["a", "b"]), ("a", "b"), np.array(["a", "b"])):
        assert set(multiebm.read_data(TABLE, parts={"x": columns}).modalities["x"].columns) == {"a", "b"}
    levels = TABLE[["a", "b"]].set_axis(pd.MultiIndex.from_tuples([("u", "a"), ("u", "b")]), axis=1)
    assert multiebm.read_data(levels, parts={"x": [("u", "b")]}).modalities["x"].columns == ("u_b",)
    assert multiebm.read_data(levels, parts={"x": "u_*"}).modalities["x"].columns == ("u_a", "u_b")


def test_a_column_that_is_there_twice_is_taken_by_the_place_that_is_said():
    twice = pd.concat([TABLE, TABLE[["a"]]], axis=1)
    with pytest.raises(ConfigError, match=r"2 columns called 'a', expected one; .*\(in Python parts={'x': \[0\]}\)"):
        multiebm.read_data(twice, parts={"x": "a"})


@pytest.mark.parametrize("kinds", [["counts"], "counts"])
def test_kinds_are_said_by_part(kinds):
    with pytest.raises(ConfigError, match=r"kinds: got (list|str), expected a dict by part; write kinds={'name': 'cou"):
        multiebm.read_data(TABLE, parts={"x": "a"}, kinds=kinds)


def test_tables_and_plain_test_arrays_are_no_arguments_of_from_arrays():
    with pytest.raises(DataError, match=r"got DataFrame, expected a dict of arrays .* use multiebm.read_data\(table"):
        multiebm.from_arrays(TABLE)
    for test in ({"x": TABLE[["a"]]}, TABLE):
        with pytest.raises(ConfigError, match=r"test: got .*, expected a split; .* test=multiebm.Rows\({'name': val"):
            multiebm.from_arrays({"x": TABLE[["a"]]}, test=test)
    with pytest.raises(DataError, match="got 1 row, expected at least 2 .*; supply test arrays, or more rows"):
        multiebm.read_data(TABLE[:1], parts={"x": "a"})


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (pd.date_range("2020-01-01", periods=N, tz="UTC"), r"Timestamp in row 0.*\(column - column.min\(\)\).dt.days"),
        ([datetime.date(2020, 1, 1)] * N, r"date in row 0.*of dates first pandas.to_datetime\(column\)"),
        (pd.Series(pd.to_timedelta(np.arange(N), "h"), dtype=object), r"Timedelta.*column / pandas.Timedelta\('1h"),
        (
            [None] * N,
            r"None in row 0.*; say that it is missing, missing: nan \(--missing nan, in Python missing='n",
        ),
    ],
)
def test_objects_that_are_no_numbers_are_refused_with_what_makes_numbers_of_them(cells, said):
    with pytest.raises(DataError, match=f"column 'd': got {said}"):
        multiebm.read_data(TABLE.assign(d=cells), parts={"x": "a", "d": "d"}, kinds={"d": "vector"})


@pytest.mark.parametrize("gone", [None, pd.NA, np.nan, pd.NaT])
def test_what_is_no_value_among_objects_is_missing_where_that_is_declared(gone):
    table = TABLE.astype(object)
    table.loc[3, "a"] = gone
    data = multiebm.read_data(table, parts={"x": ["a", "b"]}, kinds={"x": "vector"}, missing="nan")
    rows = {int(row): view for row, view in zip(data.train.rows, data.train.views["x"], strict=True)}
    rows |= {int(row): view for row, view in zip(data.test.rows, data.test.views["x"], strict=True)}
    assert rows[3].isnan().tolist() == [True, False]
    assert rows[4].tolist() == [6.0, 16.0]
    model = multiebm.build("arrays", data)
    number = TABLE[["a", "b"]].copy()
    number.loc[3, "a"] = np.nan
    assert model.encode(table[["a", "b"]]).tolist() == model.encode(number).tolist()
    lists = [[gone, 2.0], [1.0, gone]]
    assert model.encode({"x": lists}).tolist() == model.encode({"x": [[np.nan, 2.0], [1.0, np.nan]]}).tolist()


@pytest.mark.parametrize("empty", [[None] * N, pd.array([pd.NA] * N, "string"), pd.array([pd.NA] * N, "Int64")])
def test_a_column_without_any_value_is_one_whatever_its_type(empty):
    data = multiebm.read_data(TABLE.assign(e=empty), parts={"x": ["a", "e"]}, kinds={"x": "vector"}, missing="nan")
    assert "has no value in training and comes back as 0, so leave it out: columns of x: 'e'" in data.describe()


def test_sparse_matrices_of_every_kind_are_read_and_gaps_among_counts_are_missing():
    counts = np.arange(2 * N).reshape(N, 2) % 5
    for form in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil"):
        data = multiebm.read_data({"n": getattr(scipy.sparse, f"{form}_matrix")(counts)})
        assert data.modalities["n"].kind == "counts"
        assert sorted(torch.cat([data.train.views["n"], data.test.views["n"]]).tolist()) == sorted(counts.tolist())
    gaps = scipy.sparse.csr_matrix(np.where(counts == 3, np.nan, counts))
    data = multiebm.read_data({"n": gaps}, missing="nan")
    assert data.modalities["n"].kind == "counts"
    assert int(sum(split.views["n"].isnan().sum() for split in (data.train, data.test))) == (counts == 3).sum()
    with pytest.raises(DataError, match="got nan in row 1, column 1 .*declare missing: nan"):
        multiebm.read_data({"n": gaps})


def test_a_matrix_that_lies_on_its_side_and_a_lone_text_are_told_what_to_pass():
    turned = scipy.sparse.csr_matrix(np.ones((3, N)))
    with pytest.raises(
        DataError, match="different lengths .n 3, c 20.*, or pass the transpose of n, .T, if its columns"
    ):
        multiebm.read_data({"n": turned, "c": ["x", "y"] * (N // 2)})
    model = small_model(multiebm.read_data({"c": ["x", "y"] * (N // 2)}).modalities)
    with pytest.raises(DataError, match=r"'c': got a text, expected one row an item; pass a list, \[text\]"):
        model.encode({"c": "x"})


def test_columns_that_number_the_rows_are_named():
    ids = np.random.default_rng(0).permutation(N) + 1000
    said = multiebm.read_data(TABLE.assign(id=ids, i=range(N)), parts={"x": ["b", "id", "i"]}).describe()
    assert said.splitlines()[1] == "numbers the rows, so leave it out if it names them: columns of x: 'id', 'i'"
    ids[0] = 3000
    assert "numbers" not in multiebm.read_data(TABLE.assign(id=ids), parts={"x": ["a", "b"], "y": "id"}).describe()[40:]
