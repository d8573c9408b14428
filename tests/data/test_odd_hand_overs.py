"""What newcomers hand over that is odd but plain: lists in cells, indices, names of columns, pictures, other files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.cli.options import data_settings
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import read_parts

N = 30
DRAWS = np.random.default_rng(0)
A = DRAWS.normal(size=(N, 2))
B = A @ [[1.0, 2.0], [0.0, 1.0]]
FRAME = pd.DataFrame({"x": A[:, 0], "y": A[:, 1], "u": B[:, 0], "v": B[:, 1]})
PARTS = {"one": ["x", "y"], "two": ["u", "v"]}


def values_of(data, name):
    """Return the raw values of a part by row of what was handed over, NaN where the row lacks it."""
    found = np.full((len(data.train) + len(data.test), *data.train.views[name].shape[1:]), np.nan)
    for split in (data.train, data.test):
        there = split.there(name)
        found[split.rows[there]] = split.of(name)[0][there]
    return found


@pytest.mark.parametrize("listed", [list, tuple, np.array, "series", "objects", "jsonl"])
def test_lists_of_numbers_in_cells_are_columns(listed, tmp_path):
    if listed == "jsonl":
        file = tmp_path / "t.jsonl"
        rows = [{"emb": b.tolist(), "x": a[0]} for a, b in zip(A, B, strict=True)]
        file.write_text("\n".join(map(json.dumps, rows)))
        source, parts = file, {"one": "x", "two": "emb"}
    elif listed in ("series", "objects"):
        cells = pd.Series(list(B)) if listed == "series" else pd.Series(list(B)).to_numpy()
        source, parts = {"one": A, "two": cells}, None
    else:
        source, parts = FRAME.assign(emb=[listed(row) for row in B]), {"one": "x", "two": ["emb"]}
    data = multiebm.read_data(source, parts=parts)
    assert np.array_equal(values_of(data, "two"), B)
    if parts:
        assert data.modalities["two"].columns == ("emb_0", "emb_1")
        model = multiebm.build("arrays-mopoe", data)
        plain = model.encode({"one": A[:, :1], "two": B})
        assert torch.equal(model.encode(source), plain)


def test_a_list_that_is_missing_is_a_row_that_is_missing_and_uneven_ones_are_named():
    cells = [*B[:5], None, *B[6:]]
    data = multiebm.read_data(FRAME.assign(emb=cells), parts={"one": "x", "two": "emb"}, missing="nan")
    assert np.array_equal(values_of(data, "two"), np.where(np.arange(N)[:, None] == 5, np.nan, B), equal_nan=True)
    cells[7] = np.zeros(3)
    with pytest.raises(DataError, match=r"'two'.* got row 7 of shape \(3,\) after row 0 of shape \(2,\), expected"):
        multiebm.read_data(FRAME.assign(emb=cells), parts={"one": "x", "two": "emb"})


def test_indices_that_share_names_at_other_places_are_refused_or_said(caplog):
    one, two = FRAME[["x", "y"]], FRAME[["u", "v"]]
    apart = {"one": one.iloc[1:26], "two": two.iloc[5:]}
    with pytest.raises(
        DataError,
        match=r"got 21 rows of two have the names of rows of one .*, row 0 another one, .*two.reindex\(",
    ):
        multiebm.read_data(apart)
    shifted = multiebm.read_data({"one": one.iloc[:25], "two": two.iloc[5:]})  # 0 to 24 may be no names
    assert "20 rows of two have the names of rows of one (by their index), row 0 another one; rows are" in caplog.text
    assert np.array_equal(values_of(shifted, "two"), B[5:])
    caplog.clear()
    other = two.set_index(pd.Index([f"r{i}" for i in range(N)]))
    assert np.array_equal(values_of(multiebm.read_data({"one": one, "two": other}), "two"), B)
    assert not caplog.text


@pytest.mark.parametrize("name", [" x", "x ", "xu\u0308"])
def test_a_column_is_found_but_for_spaces_and_the_form_of_its_accents(name):
    plain = "x" if "u" not in name else "x\u00fc"
    for table, asked in ((name, plain), (plain, name)):
        data = multiebm.read_data(FRAME.rename(columns={"x": table}), parts={"one": [asked, "y"]})
        assert np.array_equal(values_of(data, "one"), A)
        model = multiebm.build("arrays-mopoe", data)
        again = FRAME[["y", "x"]].rename(columns={"x": asked})
        for given in (again, {"one": again}):
            assert torch.equal(model.encode(given), model.encode({"one": A}))
    with pytest.raises(ConfigError, match="got no column 'x ', expected some of   x,  x, u, v"):
        multiebm.read_data(FRAME.set_axis(["  x", " x", "u", "v"], axis=1), parts={"a": ["x "]})


def test_columns_of_several_levels_are_named_by_all_of_them():
    levels = FRAME.set_axis(pd.MultiIndex.from_tuples([("m", "x"), ("m", "y"), ("n", "u"), ("n", "")]), axis=1)
    data = multiebm.read_data(levels, parts={"one": ["m_*"], "two": ["n_u", ("n",)]})
    assert data.modalities["one"].columns == ("m_x", "m_y")
    assert data.modalities["two"].columns == ("n_u", "n")
    model = multiebm.build("arrays-mopoe", data)
    assert torch.equal(model.encode(levels), model.encode({"one": A, "two": B}))


@pytest.mark.parametrize("blank", ["", "  ", b""])
def test_blank_cells_among_numbers_are_missing_where_nan_is(blank):
    cells = np.array([blank, 1.5, 2.5] * 10, object)
    data = multiebm.read_data({"one": A, "two": cells}, missing="nan")
    assert np.array_equal(values_of(data, "two")[:3, 0], [np.nan, 1.5, 2.5], equal_nan=True)
    with pytest.raises(DataError, match="in row 0, expected real numbers; say that it is missing, missing: nan"):
        multiebm.read_data({"one": A, "two": cells})


def test_pictures_of_pillow_have_their_colours_whatever_their_mode():
    colours = DRAWS.integers(0, 5, (N, 4, 3, 3)).astype(np.uint8) * 60
    plain = [Image.fromarray(of) for of in colours]
    palettes = [of.quantize(256, dither=Image.Dither.NONE) for of in plain]
    for given in (plain, palettes, [of.convert("CMYK") for of in plain]):
        read = values_of(multiebm.read_data({"p": given, "one": A}), "p")
        assert np.abs(read - colours.transpose(0, 3, 1, 2)).max() <= 1
    with pytest.raises(DataError, match=r"row 1 of shape \(4, 3\) after row 0 of shape .*picture.convert\('RGB'\)"):
        multiebm.read_data({"p": [plain[0], plain[1].convert("L")], "one": A[:2]})


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((8, 8, 16), None),
        ((6, 16, 12), None),
        ((2, 8, 16), "2-channel"),
        ((17, 8, 8), "8-channel"),
    ],
)
def test_a_layout_that_may_be_either_is_asked_for(shape, read):
    pictures = np.zeros((N, *shape), np.uint8)
    if read:
        assert read in multiebm.read_data({"p": pictures}).describe()
        return
    with pytest.raises(DataError, match=r"declare it: of pictures {kind: picture, layout: hwc, range: .*layout: chw"):
        multiebm.read_data({"p": pictures})
    kinds = {"p": {"kind": "picture", "layout": "hwc"}}
    assert multiebm.read_data({"p": pictures}, kinds=kinds).modalities["p"].shape == (shape[2], *shape[:2])


def test_floats_to_255_are_told_the_range_to_declare():
    pictures = DRAWS.integers(0, 256, (N, 4, 5, 3)).astype(float)
    with pytest.raises(DataError, match=r"they lie in \[0, 255\].*{kind: picture, layout: hwc, range: \[0, 255\]}"):
        multiebm.read_data({"p": pictures})
    data = multiebm.read_data({"p": pictures}, kinds={"p": {"kind": "picture", "range": [0, 255], "layout": "hwc"}})
    assert np.array_equal(values_of(data, "p"), pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"two": {"u": B[:, 0]}}, r"'two': got dict, .*of columns by name make a table, pandas.DataFrame\(columns\)"),
        ({"two": np.float64(3)}, "'two': got a single value, 3.0, expected one a row; leave it out, or repeat it"),
        (
            {"two": [Path("a.dat")] * N},
            r"got PosixPath in row 0.*PIL.Image.open\(path\) for path in",
        ),
        ([{"x": 1.0}, {"x": 2.0}], r"got rows by name, expected a table; pass pandas.DataFrame\(rows\), with parts="),
    ],
)
def test_what_is_no_array_is_told_what_to_make_of_it(given, said):
    with pytest.raises(DataError, match=said):
        multiebm.read_data(given)


def test_labels_are_one_of_the_arrays(tmp_path):
    classes = np.array(["a", "b", "c"])[np.arange(N) % 3]
    np.savez(tmp_path / "t.npz", one=A, y=classes, test_one=A[:4], test_y=classes[:4])
    for source in ({"one": A, "y": classes}, tmp_path / "t.npz"):
        data = multiebm.read_data(source, labels="y")
        assert list(data.modalities) == ["one"]
        assert data.classes == ("a", "b", "c")
    assert data.test.labels.tolist() == [0, 1, 2, 0]
    with pytest.raises(ConfigError, match="labels: got 'z', expected one of one, y"):
        multiebm.read_data({"one": A, "y": classes}, labels="z")


def test_one_picture_of_pillow_is_asked_for_in_a_list():
    data = multiebm.read_data({"p": DRAWS.integers(0, 255, (N, 4, 3, 3)).astype(np.uint8), "one": A})
    model = multiebm.build("arrays-mopoe", data)
    with pytest.raises(DataError, match=r"'p': got one picture, expected one an item; pass a list, \[picture\]"):
        model.encode({"p": Image.new("RGB", (3, 4)), "one": A[:1]})


def test_names_with_commas_stand_in_quotes_on_the_command_line():
    told = ['one="x, m", y*', "two=u,v"]
    (parts, *_) = data_settings("t.csv", True, told, None, None, None, "own")
    assert json.loads(parts.partition("=")[2]) == {"one": ["x, m", "y*"], "two": ["u", "v"]}


TEXT = FRAME.to_csv(index=False)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "t.csv",
            gzip.compress(TEXT.encode()),
            r"got a packed file \(gzip\), expected a text; unpack it, or",
        ),
        ("t.csv", TEXT.encode("utf-16"), "another encoding than UTF-8 .*; save it as UTF-8"),
        (
            "t.csv",
            b"# of May\n# mine\n" + TEXT.encode(),
            "2 lines of one cell above the names of columns, first '# of",
        ),
        (
            "t.csv",
            b"Sensors\n" + TEXT.encode(),
            "1 lines of one cell above the names of columns, first 'Sen",
        ),
        ("t.jsonl", b"\n", r"cannot be read \(no rows\)"),
        ("t.jsonl", b'{"x": 1}\n{"x": \n', "t.jsonl, line 2: got no JSON"),
        ("t.csv.gz", b"", "got a file '.gz', expected .npz, .csv, .*; unpack it"),
        ("t.xlsx", b"", "got a file '.xlsx', .*; save it as CSV"),
        ("t.pkl", b"", "got a file '.pkl', .*which may run any code and is not read; write its arrays by numpy.savez"),
        ("t.json", b"[]", r"got a file '.json', .*; write a line a row.*lines=True\), and call it .jsonl"),
        ("t.h5ad", b"", r"got a file '.h5ad', .*; read it in Python, anndata.read_h5ad\(path\)"),
    ],
)
def test_files_that_are_no_table_here_are_told_what_to_do(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        multiebm.read_data(tmp_path / name, parts=PARTS)
    with pytest.raises(DataError, match=said.rpartition("; ")[2]):
        read_parts(tmp_path / name, multiebm.read_data({"one": A, "two": B}).modalities)


def test_a_jsonl_is_the_table_that_a_csv_is(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in FRAME.to_dict("records")))
    one, other = (multiebm.read_data(tmp_path / name, parts=PARTS) for name in ("t.csv", "t.jsonl"))
    assert one.fingerprint == other.fingerprint
    (tmp_path / "t.jsonl").write_text('{"x": 1, "y": 2}\n{"y": 3}\n{"x": 4, "y": 5}\n')
    gaps = multiebm.read_data(tmp_path / "t.jsonl", parts={"one": "x", "two": "y"}, missing="nan")
    assert np.array_equal(values_of(gaps, "one")[:, 0], [1, np.nan, 4], equal_nan=True)


class Named:
    """As a DataArray of xarray: dimensions by name."""

    def __init__(self, values, dims):
        self.values, self.dims = values, dims

    def to_numpy(self):
        return self.values

    def transpose(self, first, rest):
        assert rest is ...
        order = [self.dims.index(first), *(i for i, name in enumerate(self.dims) if name != first)]
        return Named(self.values.transpose(order), tuple(self.dims[i] for i in order))


def test_arrays_with_names_of_dimensions_have_items_first():
    square = B[:2] @ B.T[:, :2]
    whole = type("Dataset", (), {})()
    whole.data_vars = {"one": Named(A, ("item", "k")), "two": Named(B.T, ("j", "item"))}
    for source in (whole, dict(whole.data_vars)):
        data = multiebm.read_data(source)
        assert np.array_equal(values_of(data, "one"), A)
        assert np.array_equal(values_of(data, "two"), B)
    whole.data_vars = {"one": Named(A[:2], ("item", "k")), "two": Named(square, ("j", "l"))}  # by position
    assert np.array_equal(values_of(multiebm.read_data(whole), "two"), square)
    whole.data_vars = {"one": Named(square, ("x", "y")), "two": Named(square, ("y", "x"))}
    with pytest.raises(DataError, match=r"in other orders \(one: x, y; two: y, x\), expected that of items first"):
        multiebm.read_data(whole)


class Matrix:
    """As AnnData: a matrix with names of rows and columns."""

    def __init__(self, values, rows):
        self.X, self.obs_names, self.var_names = values, [f"c{i}" for i in rows], ["g", "h"]


def test_annotated_matrices_by_part_are_matched_by_names_of_rows_and_are_no_arrays():
    data = multiebm.read_data({"one": Matrix(A, range(N)), "two": Matrix(B[5:], range(5, N))})
    assert np.array_equal(values_of(data, "one"), A)
    assert np.array_equal(values_of(data, "two"), np.where(np.arange(N)[:, None] < 5, np.nan, B), equal_nan=True)
    with pytest.raises(DataError, match="'one': got Matrix, expected an array; pass its .X, or one of its .layers or"):
        multiebm.read_data({"one": Matrix(A, range(N)), "two": B})


class Texts:
    """As an array of pyarrow, whose texts are copied by numpy alone."""

    def to_numpy(self):
        raise ValueError("Needed to copy 1 chunks with 0 nulls, but zero_copy_only was True")

    def __array__(self, dtype=None, copy=None):
        return np.array(["p", "q"] * (N // 2), object)


def test_texts_of_pyarrow_are_classes_and_a_lazy_table_is_told_to_be_collected():
    assert multiebm.read_data({"one": A, "two": Texts()}).modalities["two"].classes == (("p", "q"),)
    lazy = type("LazyFrame", (), {"collect": None})()
    with pytest.raises(DataError, match=r"got LazyFrame, expected a dict of arrays.*; collect it, data.collect\(\)"):
        multiebm.read_data(lazy)
