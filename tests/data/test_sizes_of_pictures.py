"""Pictures of any size that become of one, and pictures that cannot be read: refused, or missing as the user says."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.data.picture_files import fitted
from multiebm.experiments.build import build_dataset

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "white": (250, 250, 250)}
SIZES = [(6, 6), (12, 6), (6, 18), (30, 40), (7, 5)]  # width and height
N = 20
SIZED = {"picture": {"kind": "picture", "size": "6x8"}}
ONE_STEP = ["training.phases.bound.steps=1"]


def picture_of(row):
    return Image.new("RGB", SIZES[row % len(SIZES)], list(COLOURS.values())[row % len(COLOURS)])


@pytest.fixture
def folder(tmp_path):
    """Photographs of several sizes, each of one colour, and what colour that is."""
    rows = [[f"{row:02d}.png", f"a {list(COLOURS)[row % len(COLOURS)]} photo of row {row}"] for row in range(N)]
    (tmp_path / "photos").mkdir()
    for row, (name, _) in enumerate(rows):
        picture_of(row).save(tmp_path / "photos" / name)
    with (tmp_path / "photos" / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption"], *rows])
    return tmp_path / "photos"


def test_the_middle_of_a_picture_is_scaled_without_a_change_of_its_proportions():
    wide = np.arange(12, dtype=np.float32).reshape(1, 1, 12).repeat(4, 1)  # a column a value
    np.testing.assert_array_equal(fitted(wide, (4, 4))[0, 0], [4, 5, 6, 7])
    np.testing.assert_array_equal(fitted(wide.transpose(0, 2, 1), (4, 4))[0, :, 0], [4, 5, 6, 7])
    np.testing.assert_array_equal(fitted(wide[:, :, :4], (4, 4)), wide[:, :, :4])
    half = fitted(np.array([[[0, 200], [100, 100]]], np.uint8), (1, 1))
    assert half.dtype == np.uint8
    assert half.item() == 100
    assert fitted(np.zeros((3, 4, 4), np.uint8), (8, 16)).shape == (3, 8, 16)


def test_pictures_of_several_sizes_are_refused_with_what_scales_them_and_scaled_where_it_is_declared(folder):
    said = r"01.png: got 12x6 pixels, expected .* or have all of them cut .* --kind picture=picture,size=.* 'size'"
    with pytest.raises(DataError, match=said):
        multiebm.read_data(folder)
    data = multiebm.read_data(folder, kinds=SIZED)
    assert data.modalities["picture"].shape == (3, 6, 8)
    for split in (data.train, data.test):
        shown = split.views["picture"]
        assert torch.equal(shown, shown[:, :, :1, :1].expand_as(shown))  # of one colour each
        told = [list(COLOURS.values()).index(tuple(rgb)) for rgb in shown[:, :, 0, 0].tolist()]
        captions = data.modalities["caption"].show(split.views["caption"])
        assert [list(COLOURS)[of] for of in told] == [str(caption).split()[1] for caption in captions]


def test_folders_of_parts_names_and_lists_are_scaled_too(folder, tmp_path):
    (tmp_path / "parts").mkdir()
    folder.rename(tmp_path / "parts" / "photo")
    (tmp_path / "parts" / "photo" / "captions.csv").unlink()
    kinds = {"photo": {"kind": "picture", "size": 5}}
    of_parts = multiebm.read_data(tmp_path / "parts", kinds=kinds)
    files = sorted((tmp_path / "parts" / "photo").iterdir())
    named = multiebm.read_data({"photo": files}, kinds=kinds)
    rows = [picture_of(row) for row in range(N)]
    arrays = [np.asarray(picture) for picture in rows]
    objects = np.empty(N, object)
    objects[:] = arrays
    tensors = [torch.tensor(array).permute(2, 0, 1) for array in arrays]
    handed = (rows, arrays, pd.Series(rows), pd.DataFrame({"any": rows}), objects, tensors)
    for data in (of_parts, named, *(multiebm.read_data({"photo": of}, kinds=kinds) for of in handed)):
        assert data.modalities["photo"].shape == (3, 5, 5)
        for split in ("train", "test"):
            assert torch.equal(getattr(data, split).views["photo"], getattr(of_parts, split).views["photo"])


def test_a_column_of_pictures_that_are_scaled_is_checked_by_its_index():
    data = {"photo": pd.Series([picture_of(row) for row in range(N)]), "x": pd.Series(np.arange(float(N)))[::-1]}
    with pytest.raises(DataError, match=r"data: got rows of x in another order than those of photo"):
        multiebm.read_data(data, kinds={"photo": {"kind": "picture", "size": 5}})


@pytest.mark.parametrize("wrong", [0, 513, "a", "3x", [3, 4, 5], None, -2])
def test_a_size_that_cannot_be_is_refused(wrong, folder):
    with pytest.raises(
        ConfigError, match=r"'picture', size: got .*, expected pixels of both sides, 1 to 512, or height"
    ):
        multiebm.read_data(folder, kinds={"picture": {"kind": "picture", "size": wrong}})
    with pytest.raises(ConfigError, match=r"p.size: got .*, expected pixels of both sides, 1 to 512, or height"):
        multiebm.from_arrays({"p": np.zeros((N, 4, 4, 3))}, {"p": {"kind": "picture", "size": wrong}})


def test_arrays_are_not_scaled():
    with pytest.raises(DataError, match=r"got pictures of 4x4 pixels .*, expected 3x3, the declared size; .*pass list"):
        multiebm.read_data({"p": np.zeros((N, 4, 4, 3), np.uint8)}, kinds={"p": {"kind": "picture", "size": 3}})


def test_a_model_of_scaled_pictures_takes_others_of_any_size_and_a_run_reads_the_same_again(folder, tmp_path):
    run = tmp_path / "run"
    options = ["--kind", "picture=picture,size=6x8", "--out", str(run), *ONE_STEP]
    with pytest.raises(SystemExit, match="0"):
        main(["train", str(folder), *options])
    again = build_dataset(multiebm.load_experiment(run / "config.yaml").data)
    data = multiebm.read_data(folder, kinds=SIZED)
    assert torch.equal(again.test.views["picture"], data.test.views["picture"])
    model = multiebm.from_pretrained(run)
    assert model.modalities["picture"].scaled
    codes = model.encode(folder)
    assert codes.shape[0] == N
    one = folder / "03.png"
    large = {"picture": [np.asarray(picture_of(3).resize((60, 80)))]}
    for given in (one, {"picture": [str(one)]}, {"picture": [picture_of(3)]}, large):
        torch.testing.assert_close(model.encode(given), model.encode({"picture": [picture_of(3).resize((8, 6))]}))
    kept = multiebm.train(data, tmp_path / "kept", ONE_STEP, progress=False)
    assert kept.modalities["picture"].scaled


@pytest.mark.parametrize("how", ["truncated", "no picture"])
@pytest.mark.parametrize("form", ["captions", "folders", "names"])
def test_a_picture_that_cannot_be_read_is_refused_or_missing(how, form, folder, tmp_path, caplog):
    broken = folder / "04.png"
    whole = Image.effect_noise((64, 64), 50).convert("RGB")  # of which a part is left
    whole.save(broken)
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if how == "truncated" else b"<html>not found</html>")
    source, part = folder, "picture"
    if form == "folders":
        (folder / "captions.csv").unlink()
        (tmp_path / "parts").mkdir()
        folder.rename(tmp_path / "parts" / "picture")
        source = tmp_path / "parts"
    elif form == "names":
        source = {part: sorted(str(file) for file in folder.glob("*.png")), "x": np.arange(N)}
    with pytest.raises(DataError, match=r"04.png: got .*, expected a readable picture; .* --missing nan"):
        multiebm.read_data(source, kinds=SIZED)
    data = multiebm.read_data(source, kinds=SIZED, missing="nan")
    assert "1 pictures cannot be read and are missing" in caplog.text
    assert "04.png: got" in caplog.text
    there = torch.cat([split.there(part) for split in (data.train, data.test)])
    assert torch.cat([data.train.rows, data.test.rows])[~there].tolist() == [4]


def test_where_no_picture_can_be_read_it_says_why(tmp_path):
    (tmp_path / "photo").mkdir()
    for row in range(3):
        (tmp_path / "photo" / f"{row}.png").write_text("nothing")
    with pytest.raises((DataError, ModalityError), match=r"\d.png: got cannot identify image file"):
        multiebm.read_data(tmp_path, missing="nan")
