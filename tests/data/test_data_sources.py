"""Every way in gives the same data set, to the bit; what cannot be read is refused with the way out."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.data.arrays import Rows, from_arrays, load_arrays
from multiebm.data.sources import read_source

RNG = np.random.default_rng(0)
N = 30
TABLE = pd.DataFrame(RNG.normal(size=(N, 5)), columns=["temp", "hum", "ph", "salt", "lime"])
PARTS = {"sensors": ["temp", "hum"], "lab": ["ph", "salt", "lime"]}
ARRAYS = {name: TABLE[columns].to_numpy() for name, columns in PARTS.items()}
WHOLE = from_arrays(ARRAYS, {"sensors": {"kind": "vector"}, "lab": {"kind": "vector"}})


def same(found, usual=WHOLE):
    for split in ("train", "test"):
        for name, view in usual.split(split).views.items():
            assert torch.equal(found.split(split).views[name], view)
        assert torch.equal(found.split(split).present, usual.split(split).present)
    return True


class Annotated(SimpleNamespace):
    """As AnnData is seen from outside."""


def annotated(columns, rows=slice(None)):
    part = TABLE[columns].iloc[rows]
    names = [f"cell {i}" for i in part.index]
    return Annotated(X=part.to_numpy(), var_names=columns, obs_names=names, obsm={}, obs=pd.DataFrame(index=names))


def test_kinds_are_inferred_from_arrays_frames_tensors_and_masked_arrays():
    assert same(from_arrays(ARRAYS))
    assert same(from_arrays({name: TABLE[columns] for name, columns in PARTS.items()}))
    assert same(from_arrays({name: torch.from_numpy(values.copy()) for name, values in ARRAYS.items()}))
    assert same(from_arrays({name: np.ma.MaskedArray(values) for name, values in ARRAYS.items()}))


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_in_a_file_and_a_data_frame_are_cut_into_parts(tmp_path, ending):
    file = tmp_path / f"table.{ending}"
    TABLE.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",", float_format="%.17g")
    found = load_arrays(path=file, parts=PARTS)
    assert same(found)
    assert found.modalities["lab"].columns == ("ph", "salt", "lime")
    assert same(load_arrays(path=file, parts={"sensors": ["temp", "h*"], "lab": ["ph", "[sl]*"]}))
    assert same(from_arrays(read_source(TABLE, PARTS)))


def test_an_npz_xarray_and_annotated_matrices_are_read_by_their_parts(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    assert same(load_arrays(path=tmp_path / "a.npz"))
    variables = {name: SimpleNamespace(to_numpy=lambda v=values: v) for name, values in ARRAYS.items()}
    assert same(from_arrays(read_source(SimpleNamespace(data_vars=variables))))
    both = SimpleNamespace(mod={name: annotated(columns) for name, columns in PARTS.items()})
    assert same(load_arrays(arrays=read_source(both)))
    one = annotated(PARTS["lab"])
    one.obsm["sensors"] = ARRAYS["sensors"]
    found = from_arrays(read_source(one))
    assert torch.equal(found.train.views["X"], WHOLE.train.views["lab"])


def test_sparse_whole_numbers_of_annotated_matrices_are_counts():
    counts = scipy.sparse.csr_matrix(RNG.poisson(2.0, (N, 2)))
    one = annotated(PARTS["sensors"])
    one.X = counts
    both = SimpleNamespace(mod={"rna": one, "lab": annotated(PARTS["lab"], slice(5, None))})
    for source, name in ((one, "X"), (both, "rna")):
        found = load_arrays(arrays=read_source(source)).modalities[name]
        assert (found.kind, found.columns) == ("counts", ("temp", "hum"))


def test_rows_of_annotated_matrices_are_matched_by_name_and_absent_where_there_is_none():
    both = SimpleNamespace(mod={"sensors": annotated(PARTS["sensors"]), "lab": annotated(PARTS["lab"], slice(5, None))})
    found = read_source(both)
    assert np.array_equal(found["present_lab"], np.arange(N) >= 5)
    assert np.array_equal(found["lab"].to_numpy()[5:], ARRAYS["lab"][5:])


def test_labels_are_a_column_and_columns_in_no_part_are_left_aside(caplog):
    table = TABLE.assign(kind=["a", "b"] * (N // 2))
    found = read_source(table, {"sensors": ["temp"]}, "kind")
    assert list(found) == ["sensors", "labels"]
    assert "4 columns are in no part and are left aside: hum, ph, salt, lime" in caplog.text


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (None, r"got a table of 5 columns \(temp, hum, ph, salt, lime\).*--part NAME=temp,hum"),
        ({"a": ["tmp"]}, "part 'a': got no column 'tmp', expected some of temp, hum.*Did you mean 'temp'"),
        ({"a": ["temp"], "b": ["temp", "ph"]}, "got column 'temp' in the parts 'a' and 'b', expected it in one"),
    ],
)
def test_parts_that_do_not_fit_a_table_are_refused(parts, said):
    with pytest.raises(ConfigError, match=said):
        read_source(TABLE, parts)


def test_parts_of_what_has_its_parts_already_and_kinds_of_what_is_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="parts: got columns of a, expected none"):
        read_source(ARRAYS, {"a": ["temp"]})
    np.savez(tmp_path / "a.npz", **ARRAYS)
    with pytest.raises(ModalityError, match="got a kind of 'labs', expected one of sensors, lab. Did you mean 'lab'"):
        load_arrays(path=tmp_path / "a.npz", kinds={"labs": "vector"})
    with pytest.raises(DataError, match=r"got a file '.json', expected .npz, .csv"):
        load_arrays(path=tmp_path / "a.json")
    with pytest.raises(DataError, match="got int, expected a dict of arrays by part"):
        read_source(3)


def write_pictures(folder, names, size=(11, 8), mode="RGB"):
    folder.mkdir(parents=True)
    made = {}
    for name in names:
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        made[name] = RNG.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(made[name]).save(folder / f"{name}.png")
    return made


def test_folders_of_pictures_are_parts_matched_by_file_name(tmp_path):
    left = write_pictures(tmp_path / "left", ["a", "b", "d"])
    right = write_pictures(tmp_path / "right", ["a", "b", "c", "d"], (6, 6), "L")
    found = read_source(tmp_path)
    assert found["present_left"].tolist() == [True, True, False, True]
    assert np.array_equal(found["left"][3], left["d"])
    assert np.array_equal(found["right"][2, ..., 0], right["c"])
    data = load_arrays(path=tmp_path)
    assert [m.describe() for m in data.modalities.values()] == ["8x11 RGB pictures", "6x6 grey pictures"]


def test_a_picture_of_another_size_is_named_with_the_usual_one(tmp_path):
    write_pictures(tmp_path / "left", ["a", "b", "d"])
    Image.new("RGB", (9, 8)).save(tmp_path / "left" / "c.png")
    with pytest.raises(DataError, match=r"c.png: got 9x8 pixels, expected 11x8 \(width x height\) as 3 of 4"):
        read_source(tmp_path)
    with pytest.raises(DataError, match="got no folders of pictures"):
        read_source(tmp_path / "left")


def test_folders_and_files_that_are_no_part_are_said_or_refused(tmp_path, caplog):
    write_pictures(tmp_path / "left", ["a", "b"])
    Image.new("RGB", (11, 8)).save(tmp_path / "left" / "c.JPG")
    (tmp_path / "left" / ".DS_Store").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    assert list(read_source(tmp_path)) == ["left"]
    assert len(read_source(tmp_path)["left"]) == 3
    assert "1 files are in no folder of a part and are not read: notes.txt" in caplog.text
    assert f"{tmp_path / 'empty'}: an empty folder, which is no part" in caplog.text
    (tmp_path / "empty" / "a").mkdir()
    with pytest.raises(DataError, match=r"empty: got 1 entries, first 'a', and no picture, .* or remove the folder"):
        read_source(tmp_path)
    (tmp_path / "left" / "b.png").write_bytes((tmp_path / "left" / "b.png").read_bytes()[:99])
    (tmp_path / "empty" / "a").rmdir()
    with pytest.raises(DataError, match=r"left/b.png: got .*truncated.*, expected a readable picture; save it again"):
        read_source(tmp_path)


SHAPES = {
    "12x9 RGB pictures": np.zeros((N, 12, 9, 3), np.uint8),
    "12x9 grey pictures": np.zeros((N, 12, 9), bool),
    "20x30 13-channel pictures": np.zeros((N, 13, 20, 30), np.float32),
    "17x18 2-channel pictures, 0 to 4095": np.full((N, 2, 17, 18), 4000, np.uint16),
    "4 numbers": np.zeros((N, 4), np.int64),
    "1 number": np.zeros(N),
}


@pytest.mark.parametrize("said", SHAPES)
def test_each_kind_is_told_by_shape_and_type_and_described_in_words(said):
    assert from_arrays({"part": SHAPES[said]}).modalities["part"].describe() == said


def test_what_cannot_be_told_is_refused_with_the_declaration_to_make():
    with pytest.raises(
        DataError, match="modality 'part': got shape .30, 3, 4, 5, 6. of float64, expected values whose"
    ):
        from_arrays({"part": np.zeros((N, 3, 4, 5, 6))})
    with pytest.raises(DataError, match="expected pictures whose layout can be told"):
        from_arrays({"part": np.full((N, 3, 4, 5), 7.0)}, {"part": "picture"})


def gaps():
    x = ARRAYS["lab"].copy()
    x[3, 1] = x[7, 0] = np.nan
    x[4] = np.nan
    return x


def test_cells_are_missing_where_nan_is_said_to_mean_so_and_where_a_mask_says_so():
    declared = {"lab": {"kind": "vector", "missing": "nan"}, "sensors": None}
    usual = from_arrays({"lab": gaps(), "sensors": ARRAYS["sensors"]}, declared)
    views = torch.cat([usual.train.views["lab"], usual.test.views["lab"]])
    there = torch.cat([usual.train.of("lab")[1], usual.test.of("lab")[1]])
    assert int((~there).sum()) == 1
    assert int(views[there].isnan().sum()) == 2
    m = usual.modalities["lab"]
    seen = usual.train.views["lab"][usual.train.of("lab")[1]].numpy()
    np.testing.assert_allclose(m.loc, np.nanmean(seen, 0))
    np.testing.assert_allclose(m.scale, np.nanstd(seen, 0))
    masked = from_arrays({"lab": np.ma.masked_invalid(gaps()), "sensors": ARRAYS["sensors"]})
    assert masked.modalities["lab"] == m
    by_setting = load_arrays(arrays={"lab": gaps(), "sensors": ARRAYS["sensors"]}, missing="nan")
    assert by_setting.modalities["lab"] == m


def test_without_it_nan_is_refused_and_the_way_out_is_said():
    with pytest.raises(
        DataError, match="got NaN or infinite values in 3 rows.*or say that NaN means missing .--missing nan"
    ):
        from_arrays({"lab": gaps()})
    with pytest.raises(ConfigError, match="arrays.modalities.lab.missing: got -9, expected nan"):
        from_arrays({"lab": gaps()}, {"lab": {"kind": "vector", "missing": -9}})


def test_a_picture_with_missing_pixels_is_refused_and_a_row_of_nan_is_absent():
    pictures = RNG.random((N, 1, 6, 7)).astype(np.float32)
    pictures[2] = np.nan
    data = from_arrays({"p": pictures}, {"p": {"kind": "picture", "missing": "nan"}}, test=Rows({"p": pictures[:2]}))
    assert (~data.train.present[:, 0]).nonzero().tolist() == [[2]]
    pictures[3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="got 1 rows that are masked in some of their cells"):
        from_arrays({"p": pictures}, {"p": {"kind": "picture", "missing": "nan"}})


@pytest.mark.parametrize("labels", [None, np.arange(N) % 3, [f"class {i % 2}" for i in range(N)]])
def test_what_a_run_keeps_of_data_from_python_is_the_same_data_set(tmp_path, labels):
    present = RNG.random((N, 3)) < 0.8
    views = {"lab": TABLE[PARTS["lab"]].mask(TABLE[PARTS["lab"]] > 1.5), "sensors": ARRAYS["sensors"]}
    views["photo"] = RNG.integers(0, 256, (N, 5, 6, 3)).astype(np.uint8)
    declared = {"lab": {"kind": "vector", "missing": "nan"}, "sensors": None, "photo": "picture"}
    held_out = Rows({name: of[:7] for name, of in views.items()}, None if labels is None else labels[:7], present[:7])
    for test in (None, held_out):
        data = from_arrays(views, declared, labels, present, test=test, seed=3)
        np.savez(tmp_path / "data.npz", **data.kept.arrays)
        again = load_arrays(path=tmp_path / "data.npz", **data.kept.settings)
        assert again.fingerprint == data.fingerprint
        assert again.modalities == data.modalities
        assert again.classes == data.classes


def test_the_rows_of_a_split_are_those_of_the_arrays():
    assert torch.equal(torch.tensor(ARRAYS["lab"])[WHOLE.test.rows], WHOLE.test.views["lab"])
    assert sorted([*WHOLE.train.rows.tolist(), *WHOLE.test.rows.tolist()]) == list(range(N))


def test_data_are_described_in_words():
    said = "sensors: 2 numbers; lab: 3 numbers; 24 rows to train, 6 to test"
    assert WHOLE.describe() == said
    some = from_arrays(ARRAYS, present={"lab": np.arange(N) > 2})
    assert some.describe() == f"{said}; 5.0% of parts missing"


def test_columns_are_also_named_by_their_places():
    frame = pd.DataFrame(np.arange(12.0).reshape(3, 4), columns=["a", "b*", "bb", "c"])
    read = read_source(frame, {"one": [3, "a"], "two": "b*", "three": 2})
    assert {part: list(of.columns) for part, of in read.items()} == {"one": ["c", "a"], "two": ["b*"], "three": ["bb"]}
    with pytest.raises(ConfigError, match="part 'one': got no column 4, expected some of a, b\\*, bb, c"):
        read_source(frame, {"one": [4]})
