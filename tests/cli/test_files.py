"""Files that commands read and write: whole or not at all, in any place that can be written, by any allowed name."""

import csv
import json
import os
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from PIL import Image

from multiebm.cli.main import main
from multiebm.cli.outputs import check_form, check_target, view_ending, write_columns, write_views
from multiebm.core.errors import ConfigError, OutputError
from multiebm.modalities import Picture, Vector
from small_models import small_model

PICTURE, VECTOR = Picture("file", (3, 8, 8)), Vector("allow_pickle", (2,))
PARTS = {"file": PICTURE, "allow_pickle": VECTOR}
VIEWS = {"file": torch.rand(2, 3, 8, 8), "allow_pickle": torch.randn(2, 2)}


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    return int(raised.value.code or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, untrained, of a grey picture and a vector."""
    folder = tmp_path_factory.mktemp("model") / "model"
    parts = {"grey": Picture("grey", (1, 8, 8)), "v": Vector("v", (2,))}
    small_model(parts).save_pretrained(folder)
    return folder


def full(*arguments, **named):
    raise OSError(28, "No space left on device")


def test_views_are_written_under_any_name_and_read_back(tmp_path: Path):
    for name in ("x.npz", "new/folder/X.NPZ"):
        write_views(tmp_path / name, VIEWS, PARTS)
        with np.load(tmp_path / name) as found:
            assert found.files == list(VIEWS)
            assert all(np.array_equal(found[key], VIEWS[key].numpy()) for key in VIEWS)
    write_views(tmp_path / "new" / "x.PNG", {"file": VIEWS["file"].requires_grad_()}, PARTS)
    with Image.open(tmp_path / "new" / "x.PNG") as sheet:
        assert sheet.size == (2 * 66, 66 + 2)
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == ["X.NPZ", "folder", "x.PNG"]


def test_scores_are_written_into_folders_that_are_made(tmp_path: Path):
    write_columns(tmp_path / "new" / "x.csv", {"score": [1.5, -2.0]})
    write_columns(tmp_path / "new" / "x.jsonl", {"match": [1.5, -2.0]})
    rows = list(csv.reader((tmp_path / "new" / "x.csv").read_text().splitlines()))
    assert rows == [["row", "score"], ["0", "1.5"], ["1", "-2.0"]]
    lines = [json.loads(line) for line in (tmp_path / "new" / "x.jsonl").read_text().splitlines()]
    assert lines == [{"row": 0, "match": 1.5}, {"row": 1, "match": -2.0}]


@pytest.mark.parametrize("name", ["x.npz", "x.png", "x.csv", "x.jsonl"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write():
        if name[2] in "cj":
            return write_columns(tmp_path / name, {"score": [1.0]})
        return write_views(tmp_path / name, VIEWS, PARTS)

    write()
    before = (tmp_path / name).read_bytes()
    monkeypatch.setattr("multiebm.core.files.os.fsync", full)
    with pytest.raises(OutputError, match=rf"{name}: the disk is full; choose another place"):
        write()
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "plain").write_text("")
    check_target(None)
    check_target(tmp_path / "new" / "deep" / "X.PNG")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"expected a name that ends in .png or .npz"):
        check_target(tmp_path / "x.gif")
    with pytest.raises(OutputError, match=r"folder.npz, a folder, expected the name of a file"):
        check_target(tmp_path / "folder.npz")
    with pytest.raises(OutputError, match=r"under .*plain, which is no folder; choose another place"):
        check_target(tmp_path / "plain" / "deep" / "x.npz")
    monkeypatch.setattr("multiebm.cli.outputs.os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"x.npz, under .*, which is read-only; choose another place"):
        check_target(tmp_path / "new" / "x.npz")


def test_vectors_are_not_asked_for_as_a_picture_before_they_are_drawn():
    check_form(Path("x.png"), PARTS)
    check_form(Path("x.npz"), {"v": VECTOR})
    said = (
        r"got x.PNG for v, expected pictures for a .png, of which there are none; use --out x.csv, a table, or an .npz"
    )
    with pytest.raises(ConfigError, match=said):
        check_form(Path("x.PNG"), {"v": VECTOR})


def test_what_people_can_look_at_is_pictures_else_a_table():
    assert (view_ending(PARTS), view_ending({"v": VECTOR})) == (".png", ".csv")


def test_commands_refuse_hostile_and_mistaken_files_by_name_without_a_traceback(model: Path, tmp_path: Path, capsys):
    """Every command that takes --parts goes the same way."""
    values = np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "mask.npz", v=values, present_V=np.zeros(3, bool))
    np.savez(tmp_path / "words.npz", v=values, present_v=np.array(["False"] * 3))
    np.savez(tmp_path / "object.npz", v=np.array([{}, None], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "pictures" / "grey").mkdir(parents=True)
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "pictures" / "grey" / "a.JPG")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "new" / "x.npz"
    for command, name, said in (
        (("impute",), "mask.npz", "unknown modality 'V', expected some of grey, v. Did you mean 'v'?"),
        (("encode",), "words.npz", "present: got dtype <U5, expected bool"),
        (("impute",), "object.npz", "values of type object"),
        (("encode",), "text.npz", "text.npz: got a file that cannot be read"),
        (("impute",), "pictures", "a.JPG: got 8x9 pixels, expected 8x8 (width x height) as modality 'grey' has"),
        (("impute",), "empty", "got no pictures, expected <name>.png or <name>/*.png for some of grey, v"),
    ):
        began = perf_counter()
        assert run(*command, model, "--parts", tmp_path / name, "--out", out) == 1
        said_err = " ".join(capsys.readouterr().err.split())
        assert said in said_err
        assert "Traceback" not in said_err
        assert perf_counter() - began < 10
    assert not out.parent.exists()


def test_a_grey_picture_of_sixteen_bits_is_the_same_part_as_its_numbers(model: Path, tmp_path: Path):
    deep = np.random.default_rng(0).integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    (tmp_path / "parts" / "grey").mkdir(parents=True)
    for i, ending in enumerate(("png", "PNG", "tif")):
        Image.fromarray(deep[i]).save(tmp_path / "parts" / "grey" / f"{i}.{ending}")
    np.savez(tmp_path / "parts.npz", grey=(deep[:, None] / 65535).astype(np.float32))
    codes = []
    for name in ("parts", "parts.npz"):
        assert run("encode", model, "--parts", tmp_path / name, "--out", tmp_path / f"{name}-codes.npz") == 0
        with np.load(tmp_path / f"{name}-codes.npz") as found:
            codes.append(found["codes"])
    np.testing.assert_allclose(codes[0], codes[1], atol=1e-5)
    assert np.abs(codes[0] - codes[0][:1]).max() > 1e-3  # the three differ
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
