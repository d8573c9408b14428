"""Paths in place of arrays: a model reads files in Python as the command line does."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import DataError

N = 12
DRAWS = np.random.default_rng(0)
TABLE = pd.DataFrame({"a": DRAWS.normal(size=N), "colour": ["red", "blue"] * (N // 2), "b": DRAWS.normal(size=N)})
DATA = multiebm.read_data(TABLE, parts={"x": ["a", "b"], "look": "colour"})
MODEL = multiebm.build("arrays", DATA)


@pytest.fixture(params=["t.csv", "T.CSV", "t.tsv", "t.npz"])
def file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".npz":
        np.savez(path, x=TABLE[["a", "b"]].to_numpy(), look=TABLE["colour"].to_numpy(str), labels=np.arange(N))
    else:
        TABLE.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("form", [str, lambda path: path])
def test_a_path_gives_what_its_table_gives(file, form):
    at = form(file)
    assert torch.equal(MODEL.encode(at), MODEL.encode(TABLE))
    assert torch.equal(MODEL.match(at), MODEL.match(TABLE))
    likelihoods = [MODEL.log_likelihood(of, samples=3, log_z=0.0, progress=False) for of in (at, TABLE)]
    assert torch.equal(*likelihoods)
    found, expected = MODEL.impute(at, want=["x"]), MODEL.impute(TABLE, want=["x"])
    assert torch.equal(found["x"], expected["x"])
    assert torch.equal(MODEL.impute(at, draws=2).draws["look"], MODEL.impute(TABLE, draws=2).draws["look"])


def test_a_path_has_gaps_and_masks_hide_more(tmp_path):
    table = TABLE.copy()
    table.loc[1, ["a", "b"]] = np.nan
    table.to_csv(tmp_path / "t.csv", index=False)
    found = MODEL.impute(tmp_path / "t.csv", present={"look": np.arange(N) != 2})
    there = torch.ones(N, 2, dtype=torch.bool)
    there[1, 0] = there[2, 1] = False
    expected = MODEL.impute({"x": TABLE[["a", "b"]], "look": TABLE["colour"]}, present=there)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_archive_with_a_mask_and_a_folder_of_pictures(tmp_path):
    rows = {"x": TABLE[["a", "b"]].to_numpy(), "look": TABLE["colour"].to_numpy(str)}
    there = np.arange(N) % 3 > 0
    np.savez(tmp_path / "t.npz", **rows, present_x=there)
    assert torch.equal(MODEL.encode(tmp_path / "t.npz"), MODEL.encode(rows, present={"x": there}))
    grey = DRAWS.integers(0, 255, (N, 4, 4), np.uint8)
    model = multiebm.build("arrays", multiebm.read_data({"photo": grey[..., None], "x": rows["x"]}))
    for i, of in enumerate(grey):
        Image.fromarray(of).save(tmp_path / f"{i:02d}.PNG")
    (tmp_path / "t.npz").unlink()
    assert torch.equal(model.encode(tmp_path), model.encode({"photo": grey[:, None]}))
    assert torch.equal(model.encode(tmp_path / "03.PNG"), model.encode({"photo": grey[3:4, None]}))


def test_a_path_where_nothing_is_or_no_parts_are_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: got no such file, expected a table; correct the path"):
        MODEL.encode(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="a red one, expected an .npz file, .*; there is no such file: correct the pa"):
        MODEL.score("a red one")
    TABLE.rename(columns=str.upper).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="t.csv: got no columns of a part, expected those of training"):
        MODEL.impute(tmp_path / "t.csv")


def test_copies_of_a_model_and_loaded_ones_read_too(tmp_path, file):
    MODEL.save_pretrained(tmp_path / "model")
    loaded = multiebm.from_pretrained(tmp_path / "model")
    for model in (copy.deepcopy(MODEL), pickle.loads(pickle.dumps(MODEL)), loaded):  # noqa: S301 - our own bytes
        assert torch.equal(model.encode(file), MODEL.encode(TABLE))
