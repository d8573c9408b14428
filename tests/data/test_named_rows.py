"""Rows of parts that name pictures: masks, labels, lengths and splits beside them; pictures that are scaled, of any
type and layout.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import read_parts
from multiebm.data.picture_files import fitted

N = 12
P = np.random.default_rng(0).integers(0, 255, (N, 8, 8, 3), dtype=np.uint8)
X = np.arange(float(N))
NAMES = [f"pics/{i}.png" for i in range(N)]
INDEX = list("abcdefghijkl")
ONE_STEP = ["training.phases.bound.steps=1"]


@pytest.fixture(autouse=True)
def pics(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    for i in range(N):
        Image.fromarray(P[i]).save(tmp_path / NAMES[i])
    monkeypatch.chdir(tmp_path)


def there(data, name="photo"):
    """Which rows have a part, bool [N], in the order in which they were handed over."""
    found = np.zeros(N, bool)
    for split in (data.train, data.test):
        found[split.rows] = split.there(name)
    return found.tolist()


def trained(data, **how):
    return multiebm.train(data, overrides=ONE_STEP, progress=False, **how)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mask", ["own", "whole"])
def test_gaps_among_names_are_laid_over_the_masks_that_are_given(mask, turned):
    hidden = np.arange(N) != 5
    masks = {"present_photo": hidden} if mask == "own" else {"present": np.stack([hidden, hidden | True], 1)}
    data = {"photo": [None, "", *NAMES[2:]], "x": X}
    found = multiebm.read_data(masks | data if turned else data | masks, missing="nan")
    assert there(found) == [i not in (0, 1, 5) for i in range(N)]


def test_what_a_mask_hides_needs_no_file_and_a_wrong_mask_is_refused():
    names, shown = [None, "nowhere.png", *NAMES[2:]], np.arange(N) > 1
    for masks in ({"present_photo": shown}, {"present": np.stack([shown, shown | True], 1)}):
        assert there(multiebm.read_data({"photo": names, "x": X, **masks})) == shown.tolist()
    with pytest.raises(DataError, match="present"):
        multiebm.read_data({"photo": NAMES, "x": X, "present_photo": ["no"] * N})


def test_gaps_are_allowed_where_the_part_is_declared_to_have_them():
    declared = {"photo": {"kind": "picture", "missing": "nan"}}
    assert there(multiebm.read_data({"photo": [None, *NAMES[1:]], "x": X}, kinds=declared)) == [False] + [True] * 11


def test_the_column_that_named_pictures_is_known_in_use():
    frame = pd.DataFrame({"shot": NAMES, "t": X})
    frame.to_csv("t.csv", index=False)
    model = trained("t.csv", parts={"photo": "shot", "s": "t"})
    whole = model.encode({"photo": P, "s": X})
    for given in ("t.csv", frame, frame.rename(columns={"shot": "photo"})):
        assert torch.equal(model.encode(given), whole)
    assert torch.equal(model.encode(frame[["shot"]]), model.encode({"photo": P}))
    model.save_pretrained("saved")
    assert torch.equal(multiebm.from_pretrained("saved").encode("t.csv"), whole)


@pytest.mark.parametrize("labels", [[f"{i % 2}" for i in range(14)], None])
def test_lengths_and_indices_are_checked_before_rows_of_one_picture_are_split(labels):
    x = X if labels else np.arange(14.0)
    with pytest.raises(DataError, match="got different lengths"):
        multiebm.read_data({"photo": NAMES[:6] * 2, "x": x}, labels=labels)
    with pytest.raises(DataError, match="got different lengths"):
        multiebm.read_data({"photo": NAMES[:6] * 2, "x": X[:10]})
    turned = pd.Series([f"{i % 2}" for i in range(N)], index=INDEX).iloc[::-1]
    with pytest.raises(DataError, match="rows of labels in another order"):
        multiebm.read_data({"photo": NAMES[:6] * 2, "x": pd.Series(X, index=INDEX)}, labels=turned)
    with pytest.raises(DataError, match="rows of labels in another order"):
        multiebm.read_data({"photo": pd.Series(NAMES, index=INDEX), "x": X}, labels=turned)
    sparse = multiebm.read_data({"photo": NAMES[:6] * 2, "x": scipy.sparse.coo_matrix(np.eye(N))})
    assert len(sparse.train) + len(sparse.test) == N


@pytest.mark.parametrize("form", ["second", "spelled", "across"])
def test_no_test_picture_is_trained_on_whatever_part_names_it(form):
    halves = [NAMES[i // 2] for i in range(N)]
    spelled = [("pics/" if i % 2 else "./pics/") + f"{i // 2}.png" for i in range(N)]
    parts = {
        "second": {"front": NAMES, "back": halves},
        "spelled": {"front": spelled},
        "across": {"front": NAMES[::2] + NAMES[::2], "back": NAMES[1::2] + NAMES[::2]},
    }[form]
    for seed in range(3):
        data = multiebm.read_data({**parts, "x": X}, seed=seed)
        files = {k: [Path(name).resolve() for name in names] for k, names in parts.items()}
        rows = [split.views["x"][:, 0].int().tolist() for split in (data.train, data.test)]
        for of in files.values():
            assert not {of[row] for row in rows[0]} & {of[row] for row in rows[1]}


def test_a_declared_range_is_of_the_numbers_in_the_file_in_training_and_in_use():
    for i in range(N):
        Image.fromarray(P[i, ..., 0].astype(np.uint16) * 250).save(f"pics/s{i}.png")
    names = [f"pics/s{i}.png" for i in range(N)]
    data = multiebm.read_data({"p": names}, kinds={"p": {"kind": "picture", "range": [0, 65535]}})
    stored = P[..., 0].astype(np.float32) * 250
    for split in (data.train, data.test):
        assert np.array_equal(split.views["p"][:, 0], stored[split.rows])
    assert np.array_equal(read_parts({"p": names}, data.modalities)[0]["p"][:, 0], stored)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([p[..., 0] > 100 for p in P], np.bool_),
        ([p[..., 0].astype(np.uint16) * 257 for p in P], np.uint16),
        ([p / np.float32(255) for p in P], np.float32),
        (list(P), np.uint8),
    ],
)
def test_scaled_pictures_keep_the_type_and_range_of_their_numbers(rows, kind):
    whole = multiebm.read_data({"p": np.stack(rows)})
    data = multiebm.read_data({"p": rows}, kinds={"p": {"size": 8}})
    assert data.modalities["p"].range == whole.modalities["p"].range
    assert torch.equal(data.train.views["p"], whole.train.views["p"])
    small = multiebm.read_data({"p": rows}, kinds={"p": {"size": 4}})
    assert small.train.views["p"].dtype == whole.train.views["p"].dtype
    assert small.modalities["p"].raw_shape[1:] == (4, 4)


def test_scaled_pictures_may_have_channels_first_and_masks():
    first = [p.transpose(2, 0, 1) for p in P]
    last = multiebm.read_data({"p": list(P)}, kinds={"p": {"size": 6}})
    for rows in (first, [torch.from_numpy(p) for p in first]):
        data = multiebm.read_data({"p": rows}, kinds={"p": {"kind": "picture", "layout": "chw", "size": 6}})
        assert torch.equal(data.train.views["p"], last.train.views["p"])
    masked = [np.ma.array(p, mask=np.full(p.shape, i == 3)) for i, p in enumerate(P)]
    data = multiebm.read_data({"photo": masked, "x": X}, kinds={"photo": {"size": 6}}, missing="nan")
    assert there(data) == [i != 3 for i in range(N)]
    model = trained({"p": list(P), "x": X}, kinds={"p": {"size": 6}})
    assert torch.equal(model.encode({"p": first}), model.encode({"p": list(P)}))
    drawn = model.sample(3, seed=0)["p"]
    assert torch.equal(model.encode({"p": list(drawn)}), model.encode({"p": drawn}))


def test_any_size_can_be_scaled_to_any_other():
    for h in (1, 7, 60, 109, 333):
        for w in (2, 41, 150, 499):
            for size in ((28, 28), (50, 50), (60, 80), (100, 100), (224, 224)):
                whole = fitted(np.full((1, h, w), 9, np.uint8), size)
                assert whole.shape == (1, *size)
                assert (whole == 9).all()


def test_a_picture_to_fill_in_may_be_empty_in_all_rows():
    model = trained({"front": P, "x": X}, missing="nan")
    alone = model.encode({"x": X[:2]})
    pd.DataFrame({"front": ["", ""], "x": X[:2]}).to_csv("q.csv", index=False)
    for gap in ([None, None], ["", ""], [np.nan, np.nan]):
        assert torch.equal(model.encode({"front": gap, "x": X[:2]}), alone)
        assert torch.equal(model.encode(pd.DataFrame({"front": gap, "x": X[:2]})), alone)
    assert torch.equal(model.encode("q.csv"), alone)
    with pytest.raises(DataError, match=r"no picture 'pics/zz.png' in row 1.*correct the name, or leave it empty"):
        model.encode({"front": [NAMES[0], "pics/zz.png", None]})


def test_what_cannot_be_is_said(tmp_path):
    model = trained({"front": P, "back": P})
    with pytest.raises(DataError, match="got different lengths"):
        model.encode({"front": [NAMES[0], None, NAMES[1]], "back": [NAMES[0], None]})
    with pytest.raises(DataError, match="got the key 1, expected a dict of arrays by the names"):
        multiebm.read_data({1: P, "x": X})
    for wrong in ("~tmp.png", "a" * 300 + ".png"):
        with pytest.raises(DataError, match=f"no picture '{wrong}' in row 0"):
            multiebm.read_data({"photo": [wrong, *NAMES[1:]], "x": X})
    for i in range(N):
        Image.fromarray(np.tile(P[i], (20, 20, 1))).save(f"pics/{i}.jpg")
        whole = (tmp_path / f"pics/{i}.jpg").read_bytes()
        (tmp_path / f"pics/{i}.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"0.jpg: got .*; so are all 12 pictures of part 'photo'"):
        multiebm.read_data({"photo": [f"pics/{i}.jpg" for i in range(N)], "x": X}, missing="nan")


def test_what_names_no_picture_is_said_with_its_row_and_what_else_it_may_be():
    with pytest.raises(DataError, match=r"'photo': got 'pics/a.heic' in row 11, expected pictures, or names .* .png"):
        multiebm.read_data({"photo": [*NAMES[:11], "pics/a.heic"], "x": X}, kinds={"photo": "picture"})
    weather = ["sun.png", "rain.png"] * 6
    with pytest.raises(DataError, match=r"no picture 'sun.png' in row 0.*if these are classes declare kind: category"):
        multiebm.read_data({"weather": weather})
    data = multiebm.read_data({"weather": weather, "photo": NAMES}, kinds={"weather": "category"})
    assert data.modalities["weather"].classes == (("rain.png", "sun.png"),)
    plain = multiebm.read_data({"weather": ["sun", "rain"] * 6}, kinds={"weather": {"missing": "nan"}})
    assert plain.modalities["weather"].classes == (("rain", "sun"),)
    numbers = multiebm.read_data({"photo": NAMES, "caption": np.stack([X, X], 1)})
    assert numbers.modalities["caption"].describe() == "2 numbers"


def test_grey_test_pictures_have_the_channels_of_those_trained_on():
    Image.fromarray(P[0, ..., 0]).save("pics/grey.png")
    test = {"test_x": X[:2], "test_photo": ["pics/grey.png"] * 2}
    data = multiebm.read_data(test | {"photo": NAMES, "x": X})
    assert np.array_equal(data.test.views["photo"][1], np.stack([P[0, ..., 0]] * 3))


def test_a_folder_whose_table_names_pictures_takes_no_part_of_these_names():
    pd.DataFrame({"file": [name.removeprefix("pics/") for name in NAMES], "t": X}).to_csv("pics/t.csv", index=False)
    told = r"column of files 'file' for a part, expected columns beside it; .* pass the table itself, pics/t.csv"
    with pytest.raises(ConfigError, match=told):
        multiebm.read_data("pics", parts={"photo": "file", "s": "t"})
    data = multiebm.read_data("pics/t.csv", parts={"photo": "file", "s": "t"})
    assert np.array_equal(data.train.views["photo"].permute(0, 2, 3, 1), P[data.train.rows])


def test_a_mask_of_all_parts_is_checked_by_its_index_beside_names():
    present = pd.DataFrame({"photo": [i < 4 for i in range(N)], "x": True}, index=INDEX)[::-1]
    photo = pd.Series(NAMES, index=INDEX)
    with pytest.raises(DataError, match="data: got rows of present in another order"):
        multiebm.read_data({"photo": photo, "x": X, "present": present})
    model = trained({"photo": P, "x": X})
    with pytest.raises(DataError, match="parts: got rows of present in another order"):
        model.encode({"photo": photo, "x": X}, present=present)


def test_pictures_of_pillow_are_turned_as_files_are():
    noted = Image.Exif()
    noted[274] = 6
    names = [f"pics/t{i}.png" for i in range(N)]
    for i, name in enumerate(names):
        Image.fromarray(P[i, :, :5]).save(name, exif=noted)
    files, handed = (multiebm.read_data({"p": of}) for of in (names, [Image.open(name) for name in names]))
    assert torch.equal(files.train.views["p"], handed.train.views["p"])
    assert np.array_equal(
        files.train.views["p"].permute(0, 2, 3, 1), np.rot90(P[files.train.rows][:, :, :5], -1, (1, 2))
    )


def test_a_name_that_was_a_column_of_another_part_stays_its():
    model = trained(pd.DataFrame({"t1": X, "x": X[::-1]}), parts={"temp": "t1", "t1": "x"})
    assert torch.equal(model.encode(pd.DataFrame({"t1": X[:2]})), model.encode({"temp": X[:2]}))
