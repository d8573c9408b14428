"""Parts that name files of pictures: in a dict, in a data frame and in a table, to train on and to use a model on."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import DataError
from multiebm.data import read_parts
from multiebm.experiments.build import build_dataset
from multiebm.models.model import MultimodalModel

N = 12
PICTURES = np.random.default_rng(0).integers(0, 255, (N, 6, 5, 3), dtype=np.uint8)
NUMBERS = np.arange(N, dtype=float)


@pytest.fixture
def names(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir()
    for i, values in enumerate(PICTURES):
        Image.fromarray(values).save(tmp_path / "pics" / f"{i}.PNG")
    monkeypatch.chdir(tmp_path)
    return [f"pics/{i}.PNG" for i in range(N)]


def pictures_of(data, name="photo"):
    """Return the pictures [N, H, W, C] of all rows as they were handed over, and which are there."""
    found, there = np.zeros_like(PICTURES), np.zeros(N, bool)
    for split in (data.train, data.test):
        found[split.rows] = split.views[name].permute(0, 2, 3, 1)
        there[split.rows] = split.there(name)
    return found, there


@pytest.mark.parametrize("form", ["list", "paths", "whole paths", "array", "series", "frame", "csv", "jsonl"])
def test_pictures_are_read_where_a_part_names_them(form, names, tmp_path):
    source, parts = {"photo": names, "x": NUMBERS}, None
    if form == "paths":
        source["photo"] = [tmp_path / name for name in names]
    elif form == "whole paths":
        source["photo"] = [str(tmp_path / name) for name in names]
    elif form in ("array", "series"):
        source["photo"] = {"array": np.array, "series": pd.Series}[form](names)
    elif form != "list":
        frame = pd.DataFrame({"shot": names, "x": NUMBERS})
        source, parts = frame, {"photo": "shot", "x": "x"}
    if form in ("csv", "jsonl"):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "pics").rename(tmp_path / "elsewhere" / "pics")  # names are from the folder of the table
        source = tmp_path / "elsewhere" / f"t.{form}"
        frame.to_csv(source, index=False) if form == "csv" else frame.to_json(source, orient="records", lines=True)
    data = multiebm.read_data(source, parts=parts)
    assert data.modalities["photo"].describe() == "6x5 RGB pictures"
    found, there = pictures_of(data)
    assert np.array_equal(found, PICTURES)
    assert there.all()


def test_what_names_no_pictures_stays_what_it_is(names):
    data = multiebm.read_data({"a": names, "x": NUMBERS}, kinds={"a": "category"})
    assert data.modalities["a"].kind == "category"
    data = multiebm.read_data({"a": ["x.png", "y"] * 6, "x": NUMBERS})
    assert data.modalities["a"].kind == "category"


def test_a_picture_that_is_not_there_is_named_or_missing(names, caplog):
    given = {"photo": [*names[:-3], "pics/none.png", "", None], "x": NUMBERS}
    told = "no picture 'pics/none.png' in row 9; none in row 10; none in row 11"
    with pytest.raises(DataError, match=rf"modality 'photo': got {told}, expected a file .*missing: nan"):
        multiebm.read_data(given)
    found, there = pictures_of(multiebm.read_data(given, missing="nan"))
    assert f"modality 'photo': 3 of 12 rows have no picture: {told}" in caplog.text
    assert there.tolist() == [True] * 9 + [False] * 3
    assert np.array_equal(found[:9], PICTURES[:9])
    with pytest.raises(DataError, match="12 such rows in all"):
        multiebm.read_data({"photo": ["a.png"] * N, "x": NUMBERS}, missing="nan")


def test_rows_of_one_picture_are_in_one_split(names):
    for seed in range(5):
        data = multiebm.read_data({"photo": [*names[:4]] * 3, "x": NUMBERS}, seed=seed)
        train, test = ({x % 4 for x in split.views["x"][:, 0].tolist()} for split in (data.train, data.test))
        assert not train & test
        assert len(train) == 3


def test_a_test_split_of_ones_own_names_pictures_too(names):
    halves = {"photo": names[:8], "x": NUMBERS[:8], "test_photo": names[8:], "test_x": NUMBERS[8:]}
    data = multiebm.read_data(halves)
    assert np.array_equal(data.train.views["photo"].permute(0, 2, 3, 1), PICTURES[:8])
    assert np.array_equal(data.test.views["photo"].permute(0, 2, 3, 1), PICTURES[8:])


@pytest.fixture
def model(names) -> MultimodalModel:
    arrays = {"photo": PICTURES, "x": NUMBERS}
    return multiebm.train(arrays, overrides=["training.phases.bound.steps=1"], missing="nan", progress=False)


def test_a_model_is_used_on_names_as_on_the_pictures_themselves(names, tmp_path, model):
    of = torch.tensor([True, False, True])
    whole = model.encode({"photo": PICTURES[:3], "x": NUMBERS[:3]}, {"photo": of})
    gap = [names[0], None, names[2]]
    frame = pd.DataFrame({"photo": gap, "x": NUMBERS[:3]})
    frame.to_csv("q.csv", index=False)
    for given in ({"photo": gap, "x": NUMBERS[:3]}, frame, "q.csv"):
        assert torch.equal(model.encode(given), whole)
    alone, there = read_parts({"photo": names[:2]}, model.modalities)
    assert there is None
    assert np.array_equal(alone["photo"].transpose(0, 2, 3, 1), PICTURES[:2])
    with pytest.raises(DataError, match=r"parts, modality 'photo': got no picture 'a.png' in row 1, expected a file"):
        model.encode({"photo": [names[0], "a.png"]})


@pytest.mark.parametrize("form", ["list", "pillow", "series", "masked"])
def test_rows_of_a_list_that_are_none_are_missing_pictures_and_stay_so_in_a_run(form, tmp_path):
    gone = np.isin(np.arange(N), [2, 5])
    rows = [None if out else values for values, out in zip(PICTURES, gone, strict=True)]
    if form == "pillow":
        rows = [None if row is None else Image.fromarray(row) for row in rows]
    if form == "series":
        rows = pd.Series(rows)
    if form == "masked":
        rows = np.ma.array(PICTURES, mask=np.broadcast_to(gone[:, None, None, None], PICTURES.shape))
    else:
        with pytest.raises(DataError, match=r"'photo': got None in row 2, expected an array of shape \(6, 5, 3\)"):
            multiebm.read_data({"photo": rows, "x": NUMBERS})
    data = multiebm.read_data({"photo": rows, "x": NUMBERS}, missing="nan")
    found, there = pictures_of(data)
    assert np.array_equal(there, ~gone)
    assert np.array_equal(found[there], PICTURES[there])
    run = tmp_path / "run"
    steps = ["training.phases.bound.steps=1"]
    multiebm.train({"photo": rows, "x": NUMBERS}, run, steps, missing="nan", progress=False)
    again, kept = pictures_of(build_dataset(multiebm.load_experiment(run / "config.yaml").data))  # as `evaluate` does
    assert np.array_equal(kept, there)
    assert np.array_equal(again[there], PICTURES[there])


def test_rows_of_numbers_that_are_none_are_missing():
    rows = [None if i == 3 else [i, i + 1] for i in range(N)]
    with pytest.raises(DataError, match=r"'y': got None in row 3, expected an array of shape \(2,\)"):
        multiebm.read_data({"y": rows, "x": NUMBERS})
    data = multiebm.read_data({"y": rows, "x": NUMBERS}, missing="nan")
    there = torch.cat([split.there("y") for split in (data.train, data.test)])
    assert torch.cat([data.train.rows, data.test.rows])[~there].tolist() == [3]


def test_names_are_matched_with_rows_by_place_and_refused_where_an_index_says_otherwise(names, model):
    """Pictures have no index, so that who reads the names checks it."""
    photo, x = pd.Series(names, name="photo"), pd.DataFrame({"x": NUMBERS})
    turned = photo.iloc[::-1]
    told = r"got rows of x in another order than those of photo \(by their index\).* use x.loc\[photo.index\]"
    with pytest.raises(DataError, match="data: " + told):
        multiebm.read_data({"photo": turned, "x": x})
    with pytest.raises(DataError, match="data: got rows of test_x in another order"):
        multiebm.read_data({"photo": photo, "x": x, "test_photo": turned, "test_x": x})
    with pytest.raises(DataError, match="parts: " + told):
        model.encode({"photo": turned, "x": x})
    data = multiebm.read_data({"photo": turned, "x": x.loc[turned.index]})
    assert np.array_equal(pictures_of(data)[0], PICTURES[::-1])
