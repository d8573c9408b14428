"""Every row of the table in docs/data.md, by what it says is handed over."""

import re
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.names import module_key, name_of_key
from multiebm.data import Rows, from_arrays, read_data
from multiebm.modalities import from_json, to_json
from small_models import make_batch, small_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
N = 12
GOOD = np.random.default_rng(0).normal(3.0, 2.0, (N, 3))
PIXELS = np.random.default_rng(1).integers(0, 256, (N, 1, 4, 4), dtype=np.uint8)
VECTOR, PICTURE = {"kind": "vector"}, {"kind": "picture", "layout": "chw"}
CASES = {}


def row(title):
    def keep(test):
        CASES[title] = test
        return test

    return keep


def vector(values, **how):
    """The states of `values` as training makes them and as use makes them, which are the same."""
    data = from_arrays({"v": GOOD}, {"v": VECTOR}, test=Rows({"v": values}), **how)
    trained = data.batch("test", torch.arange(len(data.test)))
    used = make_batch(data.modalities, {"v": values})
    assert torch.equal(trained.views["v"], used.views["v"])
    assert torch.equal(trained.present, used.present)
    return trained


def pictures(values, declared=PICTURE, **how):
    data = from_arrays({"p": values}, {"p": declared}, test=Rows({"p": values}), **how)
    trained = data.batch("test", torch.arange(N)).views["p"]
    assert torch.equal(trained, make_batch(data.modalities, {"p": values}).views["p"])
    return data, trained


def same(values, like=GOOD, **near):
    expected = vector(like).views["v"]
    torch.testing.assert_close(vector(values).views["v"], expected, **(near or {"rtol": 0, "atol": 0}))


def refused(values, message, use=None):
    """In training, and in use."""
    with pytest.raises(DataError, match=message):
        from_arrays({"v": values}, {"v": VECTOR})
    with pytest.raises(DataError, match=use or message):
        make_batch({"v": from_arrays({"v": GOOD}, {"v": VECTOR}).modalities["v"]}, {"v": values})


@row("float64")
def _():
    seconds = 1.7e9 + 20 * GOOD
    data = from_arrays({"v": seconds}, {"v": VECTOR}, test=Rows({"v": seconds}))
    state = data.batch("train", torch.arange(N)).views["v"]
    assert state.dtype == torch.float32
    assert data.train.views["v"].dtype == torch.float64
    expected = torch.from_numpy((seconds - seconds.mean(0)) / seconds.std(0)).float()
    torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-6)


@row("negative strides, foreign byte order, longdouble, read-only")
def _():
    same(GOOD[::-1].copy()[::-1])
    same(GOOD.astype(">f8"))
    same(GOOD.astype(np.longdouble))
    fixed = GOOD.copy()
    fixed.flags.writeable = False
    same(fixed)


@row("bool, uint16, uint64")
def _():
    for dtype in (bool, np.uint16, np.uint64):
        values = (GOOD > 3).astype(dtype)
        same(values, values.astype(np.float64))


@row("nested lists")
def _():
    same(GOOD.tolist())
    refused([[1.0, 2.0, 3.0]] * 4 + [[1.0]], "row 4 of 1 values after row 0 of 3 values")


@row("torch tensor (gradients, bfloat16, sparse)")
def _():
    tensor = torch.from_numpy(GOOD)
    same(tensor.clone().requires_grad_())
    same(tensor.to_sparse())
    same(list(tensor))
    same(tensor.bfloat16(), tensor.bfloat16().double().numpy())


@row("scipy sparse matrix")
def _():
    same(scipy.sparse.csr_matrix(GOOD))
    refused(scipy.sparse.csr_matrix((2**20, 2**10)), r"sparse array of 1048576 x 1024 .*pass .toarray\(\)")


@row("data frame")
def _():
    frame = pd.DataFrame(GOOD, columns=["x", "y", "z"])
    data = from_arrays({"v": frame}, {"v": VECTOR}, test=Rows({"v": frame[["z", "x", "y"]]}))
    assert data.modalities["v"].columns == ("x", "y", "z")
    assert np.array_equal(data.test.views["v"].numpy(), GOOD)
    again = {"v": from_json(to_json(data.modalities["v"]))}
    swapped, plain = (make_batch(again, {"v": v}).views["v"] for v in (frame[["y", "z", "x"]], GOOD))
    assert torch.equal(swapped, plain)
    with pytest.raises(DataError, match="got column 'w', expected the 3 of training: x, y, z"):
        make_batch(again, {"v": frame.rename(columns={"x": "w"})})


@row("lists of numbers in cells")
def _():
    for cells in (list(GOOD), GOOD.tolist(), [tuple(of) for of in GOOD]):
        same(pd.Series(cells))
        same(pd.Series(cells).to_numpy())
    uneven = pd.Series([*GOOD[:4], GOOD[4, :2], *GOOD[5:]])
    refused(uneven, r"got row 4 of shape \(2,\) after row 0 of shape \(3,\), expected rows of one length")


@row("missing values of nullable types")
def _():
    frame = pd.DataFrame(GOOD).astype("Float64")
    same(frame)
    frame.iloc[2, 1] = pd.NA
    refused(frame, r"got NaN or infinite values in 1 rows, first \[2\]")
    present = np.arange(N) != 2
    data = from_arrays({"v": frame}, {"v": VECTOR}, present={"v": present})
    np.testing.assert_allclose(make_batch(data.modalities, {"v": frame}, {"v": present}).views["v"][2], 0)


@row("masked array")
def _():
    filled = GOOD.copy()
    filled[5] = -9999
    mask = np.zeros(GOOD.shape, bool)
    mask[5] = True
    batch = vector(np.ma.MaskedArray(filled, mask))
    assert (~batch.present[:, 0]).nonzero()[:, 0].tolist() == [5]
    assert batch.views["v"][5].tolist() == [0, 0, 0]
    mask[5, 0] = False
    partly = np.ma.MaskedArray(filled, mask)
    with pytest.raises(DataError, match=r"1 rows that are masked in some of their cells, first \[5\]"):
        vector(partly)  # training had whole rows alone
    rows = from_arrays({"v": partly}, {"v": VECTOR}, test=Rows({"v": partly})).test
    assert rows.present.all()
    assert rows.views["v"][5].isnan().tolist() == [False, True, True]


@row("object array")
def _():
    same(GOOD.astype(object))
    wrong = GOOD.astype(object)
    wrong[3, 1] = None
    refused(wrong, "got None in row 3, expected real numbers")
    refused([[10**400] * 3] * N, "got a whole number beyond float64")


@row("None, text, dates, complex")
def _():
    refused(None, "got None, expected an array of numbers")
    for values in (np.full((N, 3), "a"), np.zeros((N, 3), "M8[s]"), GOOD.astype(complex)):
        refused(values, f"got dtype {re.escape(str(values.dtype))}, .*expected real numbers")


@row("a text among numbers")
def _():
    wrong = GOOD.astype(object)
    wrong[3, 1] = "?"
    refused(
        wrong, "column 1: got the text '\\?' in row 3, expected a number, as 11 of the 12 cells are; if '\\?' means"
    )
    with pytest.raises(DataError, match="column 1: got the text '\\?' in row 3.*declare kind: category"):
        from_arrays({"v": wrong})


@row("numbers written as texts, fractions among them; columns of numbers beside columns of texts")
def _():
    with pytest.raises(DataError, match=f"got a number that is written as a text, '{GOOD[0, 0]}' in row 0"):
        from_arrays({"v": GOOD[:, 0].astype(str)})
    with pytest.raises(DataError, match=r"got numbers \(column 'x'\) and texts \(column 'y'\) in one part"):
        from_arrays({"v": pd.DataFrame({"x": GOOD[:, 0], "y": ["u", "v"] * (N // 2)})})
    assert from_arrays({"v": np.array(["1", "2", "2"])}).modalities["v"].classes == (("1", "2"),)


@row("dates as texts; texts that most rows have alone, from 20 rows on")
def _():
    with pytest.raises(DataError, match="got dates, '2020-01-02' in row 0.*make them numbers, such as days"):
        from_arrays({"v": np.array(["2020-01-02", "2020-01-02", "3.4.2021"])})
    names = np.array([f"p{i}" for i in range(20)])
    with pytest.raises(DataError, match="got 20 different texts in 20 cells.*leave out what names rows"):
        from_arrays({"v": names})
    assert from_arrays({"v": names}, {"v": "category"}).modalities["v"].sizes == (20,)
    assert from_arrays({"v": names[:19]}).modalities["v"].sizes == (19,)


@row("NaN, infinity, magnitudes beyond 1e37")
def _():
    for value in (np.nan, np.inf, 1e300, 3e38):
        wrong = GOOD.copy()
        wrong[4, 1] = value
        got = "NaN or infinite values" if np.isnan(value) else "too large or infinite values"
        refused(wrong, rf"modality 'v': got {got} in 1 rows, first \[4\]")


@row("more than 1e9 standard deviations")
def _():
    wrong = GOOD.copy()
    wrong[4, 1] = 1e30
    modalities = from_arrays({"v": GOOD}, {"v": VECTOR}).modalities
    with pytest.raises(DataError, match="got 1e.30 in row 4, column 1"):
        make_batch(modalities, {"v": wrong})


@row("constant column")
def _():
    for constant in (0.1, 1 / 3, 1e-30, 3e8, -0.7):
        v = np.full((1001, 1), constant)
        modality = from_arrays({"v": v}, {"v": VECTOR}).modalities["v"]
        assert (modality.loc, modality.scale) == ((constant,), (1.0,))


@row("outliers")
def _():
    v = np.r_[np.linspace(-1, 1, 999), 1e6][:, None]
    declared, test = (VECTOR, VECTOR | {"standardise": "robust"}), Rows({"v": v})
    plain, robust = (from_arrays({"v": v}, {"v": of}, test=test).modalities["v"] for of in declared)
    assert plain.scale[0] > 1e4
    assert robust.scale[0] == pytest.approx(1 / 1.349, rel=0.02)


@row("not a dict of arrays")
def _():
    with pytest.raises(DataError, match="parts: got ndarray, expected a dict of arrays by modality"):
        make_batch(from_arrays({"v": GOOD}, {"v": VECTOR}).modalities, GOOD)
    with pytest.raises(DataError, match="arrays: got DataFrame, expected a dict of arrays"):
        from_arrays(pd.DataFrame(GOOD), {"v": VECTOR})


@row("list of Pillow's pictures")
def _():
    colours = PIXELS.repeat(3, 1) // 64 * 60
    plain = [Image.fromarray(of.transpose(1, 2, 0)) for of in colours]
    for given in (plain, [of.quantize(256, dither=Image.Dither.NONE) for of in plain]):
        _, states = pictures(given, {"kind": "picture", "layout": "hwc"})
        np.testing.assert_allclose(states.numpy(), colours / 127.5 - 1, atol=1 / 127)
    with pytest.raises(DataError, match=r"got row 1 of shape \(4, 3, 3\) after row 0 of shape \(4, 4, 3\), .*resize"):
        from_arrays({"p": [plain[0], plain[1].resize((3, 4))]}, {"p": PICTURE})


@row("names of files of pictures")  # test_named_pictures.py has more
def _():
    with pytest.raises(DataError, match="modality 'p': got no picture 'none.png' in row 0; .* missing: nan"):
        read_data({"p": ["none.png"] * N, "v": GOOD})


@row("pictures of several sizes, in files, a list or a column")  # test_sizes_of_pictures.py has more
def _():
    sizes = [PIXELS[0, 0], PIXELS[0, 0].repeat(2, 1), *PIXELS[2:, 0]]
    with pytest.raises(DataError, match=r"got row 1 of shape \(4, 8\) after row 0 of shape \(4, 4\)"):
        read_data({"p": sizes})
    data = read_data({"p": sizes}, kinds={"p": {"kind": "picture", "size": "2x1"}})
    assert data.modalities["p"].shape == (1, 2, 1)


@row("None among the rows of a list")
def _():
    for values in (list(GOOD), list(PIXELS)):
        values[2] = None
        with pytest.raises(DataError, match="modality 'x': got None in row 2, .* missing: nan"):
            read_data({"x": values})
        data = read_data({"x": values}, missing="nan")
        there = torch.cat([split.there("x") for split in (data.train, data.test)])
        assert torch.cat([data.train.rows, data.test.rows])[~there].tolist() == [2]


@row("uint8")
def _():
    data, state = pictures(PIXELS)
    assert torch.equal(state, torch.from_numpy(PIXELS).float() * (2 / 255) - 1)
    assert torch.equal(data.modalities["p"].as_given(torch.from_numpy(PIXELS)), torch.from_numpy(PIXELS).float() / 255)


@row("uint8 that never passes 31")
def _():
    with pytest.raises(DataError, match=r"got uint8 in \[0, 1\].*declare range: \[0, 1\]"):
        pictures(PIXELS % 2)
    with pytest.raises(DataError, match=r"got uint8 in \[0, 16\].*range: \[0, 255\] if they are that dark"):
        pictures(PIXELS % 17)
    assert torch.equal(pictures(PIXELS % 2, PICTURE | {"range": [0, 1]})[1], torch.from_numpy(PIXELS % 2) * 2.0 - 1)
    dark = pictures(PIXELS % 17, PICTURE | {"range": [0, 255]})[1]
    torch.testing.assert_close(dark, torch.from_numpy(PIXELS % 17) * (2 / 255) - 1)


@row("floats that never pass 1 / 255")
def _():
    twice = (PIXELS / 255 / 255).astype(np.float32)
    with pytest.raises(
        DataError, match=r"got floats in \[3.07574e-05, 0.00392157\].*nearly black; if bytes were divided by 255 twice"
    ):
        pictures(twice)
    state = pictures(twice, PICTURE | {"range": [0, 1]})[1]
    torch.testing.assert_close(state, torch.from_numpy(twice) * 2 - 1, rtol=0, atol=1e-6)
    for small in (-np.abs(GOOD), 1e-30 * GOOD):  # vectors have no black
        assert from_arrays({"v": small}, {"v": VECTOR}).modalities["v"].shape == (3,)
    assert pictures(np.full_like(twice, 0.001))[1].unique().tolist() == pytest.approx([-0.998])


@row("bool")
def _():
    assert torch.equal(pictures(PIXELS > 99)[1], torch.from_numpy(PIXELS > 99) * 2.0 - 1)


@row("floats")
def _():
    values = PIXELS / 255 * 0.999
    values[0, 0, 0, :2] = -1e-9, 1 + 1e-7
    state = pictures(values)[1]
    torch.testing.assert_close(state, torch.from_numpy(values.clip(0, 1) * 2 - 1).float(), rtol=0, atol=1e-6)
    assert (float(state.min()), float(state.max())) == (-1, 1)
    with pytest.raises(DataError, match=r"got floats in \[-1e-09, 1.00002\], expected \[0, 1\]"):
        pictures(np.where(values > 1, 1 + 2e-5, values))


@row("other integers")
def _():
    data, _ = pictures(PIXELS.astype(np.uint16) * 16)
    assert data.modalities["p"].range == (0, 4095)
    for dtype in (np.int16, np.int64):
        grey = PIXELS.astype(dtype) * 16
        with pytest.raises(DataError, match=rf"got dtype {grey.dtype} in \[.*declare range"):
            pictures(grey)
        pictures(grey, PICTURE | {"range": (0, 4095)})


@row("declared range")
def _():
    grey = PIXELS.astype(np.int16) * 16 - 1000
    data, state = pictures(grey, PICTURE | {"range": [-1000, 3095]})
    again = from_json(to_json(data.modalities["p"]))
    assert again == data.modalities["p"]
    torch.testing.assert_close(again.to_raw(state), torch.from_numpy(grey).float(), rtol=0, atol=1e-3)
    with pytest.raises(DataError, match=r"got int16 in .*expected \[0, 100\]"):
        pictures(grey, PICTURE | {"range": [0, 100]})
    with pytest.raises(ConfigError, match=r"range: got \[1, 0\], expected \[low, high\]"):
        pictures(grey, PICTURE | {"range": [1, 0]})


@row("sides and channels")
def _():
    for shape in ((1, 1, 1), (16, 3, 512), (2, 512, 7)):
        data = from_arrays({"p": np.full((2, *shape), 200, np.uint8)}, {"p": PICTURE})
        assert data.modalities["p"].shape == shape
    for shape in ((17, 3, 3), (1, 513, 3)):
        with pytest.raises(
            DataError, match=r"modality 'p': got .* expected 1 to 512 pixels a side in 1 to 16 channels"
        ):
            from_arrays({"p": np.full((2, *shape), 200, np.uint8)}, {"p": PICTURE})


@row("layout")
def _():
    hwc = {"kind": "picture", "layout": "hwc"}
    for shape in ((3, 8, 3), (4, 16, 16)):
        values = np.random.default_rng(0).integers(0, 256, (N, *shape), dtype=np.uint8)
        data = from_arrays({"p": values}, {"p": hwc})
        assert data.modalities["p"].shape == (shape[2], *shape[:2])
    both = from_arrays({"p": values}, {"p": hwc}, test=Rows({"p": values}))  # in use as in training, or channels first
    state = both.batch("test", torch.arange(N)).views["p"]
    again = {"p": from_json(to_json(both.modalities["p"]))}
    for used in (values, values.transpose(0, 3, 1, 2), torch.from_numpy(values)):
        assert torch.equal(make_batch(again, {"p": used}).views["p"], state)
    cubes = np.random.default_rng(0).integers(0, 256, (N, 3, 3, 3), dtype=np.uint8)  # fit both: the declaration counts
    assert torch.equal(pictures(cubes, hwc)[1], torch.from_numpy(cubes).permute(0, 3, 1, 2) * (2 / 255) - 1)
    grey = from_arrays({"p": PIXELS.transpose(0, 2, 3, 1)}, {"p": hwc}).modalities
    with pytest.raises(DataError, match=r"expected \(rows, 4, 4, 1\); add the channel axis, x\[\.\.\., None\]"):
        make_batch(grey, {"p": PIXELS[:, 0]})
    old = {key: value for key, value in to_json(again["p"]).items() if key != "layout"}
    assert from_json(old).layout == "chw"
    with pytest.raises(ModalityError, match="layout: got 'whc', expected.*chw.*hwc"):
        from_json(old | {"layout": "whc"})
    for declared, axis in ((hwc, r"array\[..., None\]"), (PICTURE, r"array\[:, None\]")):
        with pytest.raises(DataError, match=f"add a channel axis, {axis}"):
            from_arrays({"p": PIXELS[:, 0]}, {"p": declared})
    with pytest.raises(DataError, match="looks like HWC, so declare layout: hwc"):
        from_arrays({"p": np.zeros((N, 32, 32, 3), np.uint8)}, {"p": PICTURE})


def of_kind(values, declared):
    """The states that training and use make of `values`, which are the same."""
    data = from_arrays({"v": values}, {"v": declared}, test=Rows({"v": values}))
    used = make_batch(data.modalities, {"v": values}).views["v"]
    torch.testing.assert_close(data.batch("test", torch.arange(N)).views["v"], used, rtol=0, atol=0, equal_nan=True)
    return data.modalities["v"], used


COLOURS = np.array(["red", "blue", "green"])[np.arange(N) % 3]
LOOKS = pd.DataFrame({"colour": COLOURS, "large": np.arange(N) % 2 == 0})
NUMBERS = np.random.default_rng(2).poisson([1, 5, 20], (N, 3))


@row("texts, bool, pandas categories, whole numbers")
def _():
    code = np.arange(N) % 3
    for values, classes in (
        (COLOURS, ("blue", "green", "red")),
        (code == 1, ("False", "True")),
        (pd.Series(COLOURS, dtype="category"), ("blue", "green", "red")),
        (9 + code, ("9", "10", "11")),
        (code % 2, ("0", "1")),
    ):
        assert of_kind(values, {"kind": "category"})[0].classes == (classes,)
        kind = "vector" if classes[0] == "9" else "category"
        assert from_arrays({"v": values}).modalities["v"].kind == kind


@row("several columns of categories")
def _():
    m, state = of_kind(LOOKS, {"kind": "category"})
    assert m.columns == ("colour=blue", "colour=green", "colour=red", "large=False", "large=True")
    assert state[0].tolist() == [0, 0, 1, 0, 1]
    made = small_model({"v": m}).sample(4)["v"]
    torch.testing.assert_close(made[:, :3].sum(1), torch.ones(4))
    torch.testing.assert_close(make_batch({"v": m}, {"v": made}).views["v"], made)


@row("None, NaN, NA, empty texts")
def _():
    for missing in (None, np.nan, pd.NA, ""):
        looks = LOOKS.astype(object)
        looks.loc[4, "large"] = missing
        state = of_kind(looks, {"kind": "category", "missing": "nan"})[1]
        assert state[4].isnan().tolist() == [False, False, False, True, True]
        if not isinstance(missing, str):
            with pytest.raises(DataError, match="row 4 of column 'large': got .*, expected a class"):
                of_kind(looks, {"kind": "category"})


@row("classes that training had not; more than 1000")
def _():
    modalities = {"v": of_kind(LOOKS, {"kind": "category"})[0]}
    with pytest.raises(DataError, match="got 'blu' in row 0 of column 'colour'.*Did you mean 'blue'"):
        make_batch(modalities, {"v": LOOKS.replace({"colour": {"red": "blu"}})})
    with pytest.raises(DataError, match="got 1,001 classes, expected 1 to 1,000; put rare ones together"):
        from_arrays({"v": np.arange(1001).astype(str)}, {"v": {"kind": "category"}})


TALES = [f"a {size} {colour} thing" for size in ("big", "small", "tiny") for colour in ("red", "green", "grey")]


def told(values, **declared):
    """The captions of `values` as training makes them and as use makes them, which are the same."""
    text = {"kind": "text", "min_count": 1} | declared
    data = from_arrays({"v": TALES}, {"v": text}, test=Rows({"v": values}))
    used = make_batch(data.modalities, {"v": values})
    assert torch.equal(data.batch("test", torch.arange(len(values))).views["v"], used.views["v"])
    return [
        text if has else None
        for text, has in zip(data.modalities["v"].show(data.test.views["v"]), used.present[:, 0].tolist(), strict=True)
    ]


@row("strings of several words")
def _():
    for values in (TALES, np.array(TALES), pd.Series(TALES), pd.DataFrame({"x": TALES}), [t.encode() for t in TALES]):
        assert from_arrays({"v": values}, test=Rows({"v": values})).modalities["v"].kind == "text"
        assert told(TALES if isinstance(values, pd.DataFrame) else values) == TALES
    assert told(["A RED thing"]) == ["a red thing"]
    for values in (["red", "green"] * 9, ["New York City", "Salt Lake City"] * 9):
        assert from_arrays({"v": values}).modalities["v"].kind == "category"


@row("None, NaN, empty strings")
def _():
    assert told(["a red thing", None, "", np.nan, " "], missing="nan") == ["a red thing", None, None, None, ""]
    assert told(["a red thing", ""]) == ["a red thing", ""]
    with pytest.raises(DataError, match="modality 'v': got None in row 1, expected a caption.*missing: nan"):
        told(["a red thing", None])


@row("words that training had not; captions that are too long")
def _():
    assert told(["a gren thing", "a red thing a big thing"]) == [
        "a <unk> thing",
        "a red thing a",
    ]  # said: test_core_captions


@row("numbers, several columns")
def _():
    with pytest.raises(DataError, match="got 3 in row 1, expected a caption, a text"):
        told(["a red thing", 3])
    with pytest.raises(DataError, match=r"got shape \(9, 2\), expected a caption a row"):
        told(np.array([TALES, TALES]).T)


@row("whole numbers from 0 on, dense or sparse")
def _():
    m, state = of_kind(NUMBERS, {"kind": "counts"})
    expected = (np.log1p(NUMBERS) - np.log1p(NUMBERS).mean(0)) / np.log1p(NUMBERS).std(0)
    np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-6)
    sparse = scipy.sparse.csr_matrix(NUMBERS)
    assert torch.equal(of_kind(sparse, {"kind": "counts"})[1], state)
    assert from_arrays({"v": sparse}).modalities["v"].kind == "counts"
    assert (small_model({"v": m}).sample(4)["v"] >= 0).all()
    with pytest.raises(DataError, match="got 1e.09 in row 0, column 0"):
        of_kind(NUMBERS + 10**9, {"kind": "counts"})


@row("`library: true`")
def _():
    m, _state = of_kind(NUMBERS, {"kind": "counts", "library": True})
    assert m.total == np.median(NUMBERS.sum(1))
    drawn = small_model({"v": m}).sample(4)["v"]
    np.testing.assert_allclose(drawn.sum(1), m.total, rtol=1e-3)


@row("negative numbers, fractions")
def _():
    modalities = {"v": of_kind(NUMBERS, {"kind": "counts"})[0]}
    for value in (-2, 0.5):
        wrong = NUMBERS.astype(float)
        wrong[3, 2] = value
        with pytest.raises(DataError, match=f"got {value} in row 3, column 2"):
            of_kind(wrong, {"kind": "counts"})
        with pytest.raises(DataError, match=f"got {value} in row 3, column 2"):
            make_batch(modalities, {"v": wrong})


@row("NaN")
def _():
    gaps = NUMBERS.astype(float)
    gaps[3, 2] = np.nan
    with pytest.raises(DataError, match="got nan in row 3, column 2.*declare missing: nan"):
        of_kind(gaps, {"kind": "counts"})
    assert of_kind(gaps, {"kind": "counts", "missing": "nan"})[1][3].isnan().tolist() == [False, False, True]
    whole = {"kind": "counts", "missing": "nan", "library": True}
    with pytest.raises(DataError, match="a part is there whole or not at all"):
        of_kind(gaps, whole)
    gaps[3] = np.nan
    assert of_kind(gaps, whole)[1][3].tolist() == [0, 0, 0]


@row("rows of data frames and series")
def _():
    frame = pd.DataFrame(GOOD, columns=["a", "b", "c"])
    back = frame.index[::-1]
    kinds, mask = {"v": VECTOR, "w": VECTOR}, pd.DataFrame({"v": [True] * 6 + [False] * 6, "w": [True] * N})
    labels = pd.Series(list("ab") * 6)
    whole = {"v": frame, "w": frame}
    data = from_arrays(whole, kinds, labels, mask)
    for wrong, name in (
        (lambda: from_arrays(whole, kinds, labels.loc[back]), "labels"),
        (lambda: from_arrays(whole, kinds, labels, mask.loc[back]), "present"),
        (lambda: from_arrays(whole, kinds, labels, {"v": mask["v"].loc[back]}), "present v"),
        (lambda: from_arrays({"v": frame, "w": frame.loc[back]}, kinds), "w"),
        (lambda: make_batch(data.modalities, whole, mask.loc[back]), "present"),
    ):
        with pytest.raises(DataError, match=f"got rows of {name} in another order than those of v"):
            wrong()
    assert (
        make_batch(data.modalities, whole, mask.loc[back].to_numpy()).present[:, 0].tolist() == [False] * 6 + [True] * 6
    )


def hidden(present):
    both = {"a": VECTOR, "b": VECTOR}
    data = from_arrays({"a": GOOD, "b": GOOD}, both, present=present)
    used = make_batch(data.modalities, {"a": GOOD, "b": GOOD}, present).present
    assert int(used.sum()) == int(data.train.present.sum() + data.test.present.sum())
    return used.float().mean(0).tolist()


@row("presence array")
def _():
    mask = np.tile([True, False], (N, 1))
    assert hidden(mask) == hidden(mask.astype(int)) == hidden(torch.from_numpy(mask)) == [1, 0]
    for wrong in (mask.astype(float), np.where(mask, "True", "False"), np.full((N, 2), np.nan), mask + 1):
        with pytest.raises(DataError, match="present: got dtype .*expected bool"):
            hidden(wrong)


@row("presence by name")
def _():
    off, on = np.zeros(N, bool), np.ones(N, bool)
    for mask in ({"b": off}, pd.DataFrame({"b": off, "a": on}), pd.DataFrame({"b": off, "a": on}).astype("boolean")):
        assert hidden(mask) == [1, 0]
    with pytest.raises(ModalityError, match="present: got unknown modality 'B'"):
        hidden({"B": off})


def labelled(labels):
    data = from_arrays({"v": GOOD}, {"v": VECTOR}, labels, test=Rows({"v": GOOD}, labels))
    assert data.n_classes == len(data.classes)
    return data.train.labels.tolist(), data.classes


@row("whole numbers, whole floats, bool, text")
def _():
    code = np.arange(N) % 3
    for labels, classes in (
        (code + 1990, (1990, 1991, 1992)),
        (code * 10_000_000 + 100_100_037, (100100037, 110100037, 120100037)),
        (code.astype(float), (0, 1, 2)),
        (np.array(["cat", "dog", "eel"])[code], ("cat", "dog", "eel")),
        (torch.from_numpy(code), (0, 1, 2)),
        (pd.Series(["x", "y", "z"] * 4, dtype="category"), ("x", "y", "z")),
    ):
        assert labelled(labels) == (code.tolist(), classes)
    assert labelled(code == 1) == ((code == 1).astype(int).tolist(), (0, 1))


@row("-1, NaN, None, masked")
def _():
    code = np.arange(N) % 3
    expected = [c if c < 2 else -1 for c in code.tolist()]
    for labels in (
        np.where(code < 2, code + 4, -1),
        np.where(code < 2, code + 4.0, np.nan),
        [c + 4 if c < 2 else None for c in code.tolist()],
        np.ma.MaskedArray(code + 4, code == 2),
    ):
        assert labelled(labels) == (expected, (4, 5))
    assert labelled([("p", "q", None)[c] for c in code]) == (expected, ("p", "q"))


@row("one column [N, 1]; one-hot rows")
def _():
    code = np.arange(N) % 3
    assert labelled(code[:, None])[0] == code.tolist()
    with pytest.raises(DataError, match=r"of one-hot rows pass labels.argmax\(1\)"):
        labelled(np.eye(3, dtype=int)[code])


@row("caller's arrays, `test=` included")
def _():
    mine, held_out, pixels = GOOD.copy(), GOOD.copy(), PIXELS.copy()
    parts = {"v": VECTOR, "p": PICTURE}
    data = from_arrays({"v": mine, "p": pixels}, parts, test=Rows({"v": held_out, "p": pixels}))
    mine[:], held_out[:], pixels[:] = 0, 0, 0
    for split in (data.train, data.test):
        assert np.array_equal(split.views["v"].numpy(), GOOD)
        assert np.array_equal(split.views["p"].numpy(), PIXELS)


@row("observed part")
def _():
    seconds = 1.7e9 + 20 * GOOD
    data = from_arrays({"v": seconds, "p": np.tile(PIXELS, (2, 2))}, {"v": VECTOR, "p": PICTURE})
    model = small_model(data.modalities)
    back = model.impute({"v": seconds, "p": np.tile(PIXELS, (2, 2))})
    assert np.array_equal(back["v"].numpy(), seconds)
    assert np.array_equal(back["p"].numpy(), np.tile(PIXELS, (2, 2)).astype(np.float32) / 255)


@row("names")
def _():
    names = ["training", "type", "values", "file", "allow_pickle", "heart rate", "größe", "2nd", "pop"]
    data = from_arrays(dict.fromkeys(names, GOOD), dict.fromkeys(names, VECTOR))
    assert [name_of_key(module_key(name)) for name in names] == names
    assert module_key("heart rate") == "heart rate"
    model = small_model(data.modalities)
    assert list(model.impute({"training": GOOD})) == names
    for name in ("", "/etc/x", "a.b", "[x[/nope]", "a\\b", "_a", " a", "a" * 65, "labels", "shared", "test_a", 3):
        with pytest.raises(ConfigError, match="expected"):
            from_arrays({name: GOOD}, {name: VECTOR})


def titles():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines]


def test_every_row_of_the_table_has_a_test_and_every_test_a_row():
    assert titles() == list(CASES)
    assert all(isinstance(case, types.FunctionType) for case in CASES.values())


@pytest.mark.parametrize("title", CASES)
def test_the_row(title):
    CASES[title]()
