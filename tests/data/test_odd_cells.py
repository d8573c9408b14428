"""A text in a column of numbers: the error names the part, the column, the row and the cell, and says the fix."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.data import from_arrays, read_data
from multiebm.data.parts import read_parts
from multiebm.models.use import check_parts

N = 60
TABLE = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 4)).round(3), columns=["temp", "hum", "ph", "salt"])
PARTS = {"sensor": ["temp", "hum"], "lab": ["ph", "salt"]}
EMPTY = "leave such cells empty (NaN) and train with --missing nan (in Python missing='nan')"
CLASSES = "or if each value is a class declare kind: category (--kind NAME=category)"


def with_cell(cell, row=17) -> pd.DataFrame:
    changed = TABLE.astype(object)
    changed.loc[row, "hum"] = cell
    return changed


def as_csv(changed, folder):
    changed.to_csv(folder / "mine.csv", index=False)
    return folder / "mine.csv"


def as_frame(changed, folder):
    return changed


def message(cell, mend) -> str:
    return f"column 'hum': got the text {cell!r} in row 17, expected a number, as 59 of the 60 cells are; {mend}"


@pytest.mark.parametrize("form", [as_csv, as_frame])
@pytest.mark.parametrize(
    ("cell", "mend"),
    [
        ("abc", f"mend it, or {EMPTY}"),
        ("?", f"if '?' means missing, {EMPTY}; else mend it"),
        ("-", f"if '-' means missing, {EMPTY}; else mend it"),
        ("unknown", f"if 'unknown' means missing, {EMPTY}; else mend it"),
        ("1,5", f"write it with a decimal point and without a unit, or {EMPTY}"),
    ],
)
def test_a_text_among_numbers_is_named_with_column_row_and_fix(tmp_path, form, cell, mend):
    source = form(with_cell(cell), tmp_path)
    for declared, more in ((None, f", {CLASSES}"), ({"sensor": "vector"}, ""), ({"sensor": "counts"}, "")):
        with pytest.raises(DataError, match=re.escape(f"modality 'sensor', {message(cell, mend)}{more}") + "$"):
            read_data(source, PARTS, declared)


def test_arrays_of_objects_are_searched_column_by_column_and_hidden_cells_left_out():
    objects = with_cell("abc")[["temp", "hum"]].to_numpy()
    said = r"modality 'x', column 1: got the text 'abc' in row 17, expected a number, as 59 of the 60 cells are"
    for declared in (None, {"x": "vector"}):
        with pytest.raises(DataError, match=said):
            from_arrays({"x": objects}, declared)
    with pytest.raises(DataError, match=r"modality 'x': got the text 'abc' in row 17, expected a number"):
        from_arrays({"x": objects[:, 1]})
    objects = objects.copy()
    objects[3, 1] = "abc"
    with pytest.raises(DataError, match=r"got the text 'abc' in row 3 \(2 texts in all\), expected a number, as 58 of"):
        from_arrays({"x": objects[:, 1]})
    mask = np.isin(objects[:, 1], ["abc"])[:, None] & [False, True]
    found = from_arrays({"x": np.ma.MaskedArray(objects, mask)}, {"x": {"kind": "vector", "missing": "nan"}})
    assert (found.modalities["x"].kind, found.modalities["x"].shape) == ("vector", (2,))


def test_a_model_in_use_says_it_too(tmp_path):
    known = read_data(TABLE, PARTS).modalities
    some = read_parts(as_csv(with_cell("?"), tmp_path), known)[0]
    with pytest.raises(DataError, match=re.escape(message("?", "if '?' means missing"))):
        check_parts(known, some)


def test_numbers_that_are_written_as_texts_are_no_classes_unless_whole_or_declared():
    written = TABLE["temp"].map(str)
    with pytest.raises(DataError, match=f"got a number that is written as a text, '{written[0]}' in row 0.*to_numeric"):
        from_arrays({"x": written})
    with pytest.raises(DataError, match="got a number that is written as a text, '1,5' in row 0"):
        from_arrays({"x": np.array(["1,5", "2,25", "7,0", "1,1"])})
    with pytest.raises(DataError, match="got a number that is written as a text, '2' in row 1"):
        from_arrays({"x": np.array([1, "2", 3, 1], object)})
    assert from_arrays({"x": np.array(["1", "2", "10", "1"])}).modalities["x"].classes == (("1", "2", "10"),)
    declared = from_arrays({"x": np.array(["1.5", "2.5", "1.5", "2.5"])}, {"x": "category"})
    assert declared.modalities["x"].classes == (("1.5", "2.5"),)


def test_columns_of_numbers_beside_columns_of_texts_are_two_parts():
    people = pd.DataFrame({"age": [30, 41, 52, 33], "city": ["u", "v", "v", "u"], "member": [0, 1, 1, 0]})
    said = r"modality 'p': got numbers \(column 'age'\) and texts \(column 'city'\) in one part.*make two parts of them"
    with pytest.raises(DataError, match=said):
        read_data(people, {"p": ["age", "city"]})
    assert read_data(people, {"p": ["city", "member"]}).modalities["p"].classes == (("u", "v"), ("0", "1"))
    assert read_data(people, {"p": ["age", "city"]}, {"p": "category"}).modalities["p"].sizes == (4, 2)


def test_dates_beside_numbers_do_not_become_numbers():
    dated = TABLE.assign(day=pd.date_range("2020-01-01", periods=N).astype("datetime64[ns]"))
    with pytest.raises(DataError, match=r"modality 'x', column 'day': got dates, .* convert them to numbers"):
        read_data(dated, {"x": ["temp", "day"]})


def test_values_that_are_not_finite_are_named_with_their_column():
    for value in (np.nan, np.inf):
        with pytest.raises(DataError, match=r"1 rows, first \[17\], expected .* 1e\+37 \(column 'hum'\); repair them"):
            read_data(with_cell(value).astype(float), PARTS)
    with pytest.raises(DataError, match="got 1e\\+36 in row 17, column 'hum' "):
        read_data(
            {
                **{"lab": TABLE[["ph"]]},
                "test_lab": TABLE[["ph"]],
                "sensor": TABLE[["temp", "hum"]],
                "test_sensor": with_cell(1e36)[["temp", "hum"]].astype(float),
            }
        )


def test_a_part_without_gaps_is_not_said_to_lack_cells():
    gaps = TABLE.copy()
    gaps.loc[:5, "hum"] = np.nan
    assert read_data(gaps, PARTS, missing="nan").describe() == (
        "sensor: 2 numbers; lab: 2 numbers; 48 rows to train, 12 to test; 5.0% of the cells of sensor missing"
    )


@pytest.mark.parametrize("cells", [["12%", "13 %", "9%", "14%"], ["€3", "€4", "€5", "€7"], ["1,5 €", "2", "3", "4"]])
def test_numbers_with_a_unit_are_numbers_written_as_texts(cells):
    with pytest.raises(
        DataError, match=rf"got .*{re.escape(repr(cells[0]))} in row 0, expected a? ?number.*without a unit"
    ):
        from_arrays({"x": np.array(cells)})


def test_dates_and_names_of_rows_are_no_classes_unless_declared():
    days = pd.date_range("2020-01-01", periods=N)
    table = TABLE.assign(day=days.strftime("%Y-%m-%d"), at=days, name=[f"p{i}" for i in range(N)])
    with pytest.raises(DataError, match=r"modality 'x', column 'day': got dates, '2020-01-01' in row 0.*to_datetime"):
        read_data(table, {"x": ["day"]})
    with pytest.raises(
        DataError, match=r"modality 'x': got dtype datetime64\[us\], dates, expected numbers or classes"
    ):
        read_data(table, {"x": ["at"]})
    with pytest.raises(
        DataError,
        match=r"modality 'x', column 'name': got 60 different texts in 60 cells, such as 'p0', expected classes that "
        r"most rows share; leave out what names rows, or if each value is a class declare kind: category",
    ):
        read_data(table, {"x": ["name"]})
    assert read_data(table, {"x": ["name"]}, {"x": "category"}).modalities["x"].sizes == (60,)
    assert from_arrays({"x": np.array([f"p{i}" for i in range(19)])}).modalities["x"].sizes == (19,)


def test_pandas_categories_are_classes_whatever_their_values():
    table = TABLE.assign(word=pd.Categorical(["u", "v"] * 30), code=pd.Categorical([1, 2, 30] * 20))
    assert read_data(table, {"x": ["word", "code"]}).modalities["x"].classes == (("u", "v"), ("1", "2", "30"))
    with pytest.raises(DataError, match=r"got numbers \(column 'temp'\) and texts \(column 'code'\) in one part"):
        read_data(table, {"x": ["temp", "code"]})
    gaps = table.assign(code=table["code"].where(table.index > 0), rating=[3, 4] * 30)
    part = read_data(gaps, {"x": ["code", "rating"]}, {"x": {"kind": "category", "missing": "nan"}}).modalities["x"]
    assert part.classes == (("1", "2", "30"), ("3", "4"))


def test_arrays_of_no_kind_are_told_with_their_range_and_a_way_out():
    said = (
        r"got shape \(60, 2, 2\) of float64, expected values whose kind can be told \(they lie in \[-1, 5\]\).*"
        r"of pictures {kind: picture, layout: hw, range: \[-1, 5\]}; .*array.reshape\(len\(array\), -1\)"
    )
    with pytest.raises(DataError, match=said):
        from_arrays({"x": np.linspace(-1, 5, 240).reshape(60, 2, 2)})


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_table_is_read_by_what_stands_between_its_cells(tmp_path, mark):
    file = tmp_path / "mine.csv"
    file.write_text(f"temp{mark} city\n1.5{mark} u\n2.5{mark} v\n3.5{mark} u\n4.5{mark} v\n")
    found = read_data(file, {"x": ["temp"], "c": ["city"]})
    assert found.modalities["c"].classes == (("u", "v"),)
    assert sorted(torch.cat([found.train.views["x"], found.test.views["x"]])[:, 0].tolist()) == [1.5, 2.5, 3.5, 4.5]


def test_tables_that_cannot_be_read_say_why_in_one_line(tmp_path):
    for name, content, said in (
        ("latin.csv", "größe\n1\n".encode("latin1"), "in another encoding than UTF-8 .*; save it as UTF-8"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", r"\(Error tokenizing data. C error: Expected 2 fields in line 3, saw 3\)"),
        ("header.csv", b"a,b\n", "got 0 rows, expected at least 1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_data(tmp_path / name, {"x": ["a"] if name != "latin.csv" else ["größe"]})


def test_a_column_that_is_there_twice_is_not_taken_by_name():
    twice = pd.DataFrame(np.arange(12.0).reshape(4, 3), columns=["a", "a", "b"])
    with pytest.raises(
        ConfigError, match="table, part 'x': got 2 columns called 'a', expected one; rename them, or give"
    ):
        read_data(twice, {"x": ["a", "b"]})
    assert read_data(twice, {"x": [1, 2]}).modalities["x"].columns == ("a", "b")


BIG = np.arange(60) + 2**53
LOST = (
    "got 9007199254740993 in row 1, a whole number beyond 2^53, whose last digits are lost; subtract the least number"
)


@pytest.mark.parametrize(
    ("data", "column"),
    [
        ({"x": BIG}, ""),
        ({"x": pd.DataFrame({"a": np.arange(60.0), "id": BIG})}, ", column 'id'"),
        ({"x": np.c_[np.arange(60), BIG]}, ", column 1"),
        ({"x": np.array([[0.5, int(of)] for of in BIG], object)}, ", column 1"),
    ],
)
def test_whole_numbers_whose_last_digits_are_lost_are_named(data, column, caplog):
    read_data(data)
    assert caplog.messages == [
        f"arrays, modality 'x'{column}: {LOST} of its column, or, if it is the name of a row, leave the column out"
    ]


@pytest.mark.parametrize("values", [BIG - 2**53, np.arange(60) * 2**53, np.arange(60, dtype=np.uint64) * 2**58])
def test_whole_numbers_that_keep_every_digit_are_not(values, caplog):
    read_data({"x": values})
    assert caplog.text == ""


def test_periods_are_told_with_what_makes_numbers_or_classes_of_them():
    column = pd.Series(pd.period_range("2020-01", periods=60, freq="M"))
    said = (
        r"'x': got Period in row 0, expected real numbers; make times of them, column.dt.to_timestamp\(\), and numbers"
    )
    with pytest.raises(DataError, match=said):
        read_data({"x": column})
    times = column.dt.to_timestamp()
    numbers = read_data({"x": (times - times.min()).dt.days})
    assert numbers.modalities["x"].kind == "vector"
    classes = read_data({"x": column.astype(str)}, kinds={"x": "category"})
    assert len(classes.modalities["x"].columns) == 60
