"""A folder of pictures with a table of numbers and classes by file name, in training and in use."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import read_parts

N = 24
PARTS = {"sensor": ["temp", "hum"], "state": "state"}


def rows_of(n: int = N):
    return [[f"pics/Pic {i:02d}.PNG", i + 0.5, i * i, ("on", "off")[i % 2]] for i in range(n)]


def folder_of(at, rows, names=("File", "temp", "hum", "state"), mark=","):
    (at / "pics").mkdir(exist_ok=True)
    for i in range(N):
        mode = ("L", "RGB", "RGBA", "CMYK", "P")[i % 5]
        colour = Image.new("L" if mode == "P" else "RGB", (4, 6), 10 * i if mode == "P" else (10 * i,) * 3).convert(
            mode
        )
        colour.save(at / "pics" / f"Pic {i:02d}.PNG", format="TIFF" if mode == "CMYK" else "PNG")
    with (at / "of.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=mark).writerows([names, *rows])
    return at


def read_back(data):
    """Return (grey, temp, class of state) of every row, in the order of the table."""
    found = {}
    for split in (data.train, data.test):
        for i, row in enumerate(split.rows.tolist()):
            picture, sensor, state = (split.take(name, torch.tensor([i]))[0] for name in ("picture", "sensor", "state"))
            found[row] = (int(picture[0, 0, 0]), float(sensor[0]), int(state.argmax()))
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize("mark", [",", ";"])
def test_rows_of_the_table_have_their_picture_and_their_columns(tmp_path, mark):
    data = multiebm.read_data(folder_of(tmp_path, rows_of()[::-1], mark=mark), parts=PARTS)
    assert data.describe().startswith("picture: 6x4 RGB pictures; sensor: 2 numbers; state: 2 categories; 19 rows")
    expected = [(10 * i, i + 0.5, int(i % 2 == 0)) for i in range(N)][::-1]
    found = read_back(data)
    assert max(abs(grey - true[0]) for (grey, *_), true in zip(found, expected, strict=True)) <= 1  # CMYK rounds
    assert [row[1:] for row in found] == [row[1:] for row in expected]


def test_a_picture_of_several_rows_is_in_one_split(tmp_path):
    rows = [[name, value + k, hum, state] for name, value, hum, state in rows_of() for k in (0, 100, 200)]
    data = multiebm.read_data(folder_of(tmp_path, rows), parts=PARTS)
    splits = [{int(row) // 3 for row in split} for split in held_rows(data)]
    assert sum(map(len, splits)) == N
    assert not splits[0] & splits[1]


def held_rows(data):
    """Return the numbers of rows of each split, told by their temperatures."""
    for split in (data.train, data.test):
        temps = [int(of[0] % 100 - 0.5) * 3 + int(of[0] // 100) for of in split.views["sensor"].tolist()]
        yield temps


def test_captions_are_a_part_too_and_labels_a_column(tmp_path):
    rows = [[*row, f"a grey of {i} parts"] for i, row in enumerate(rows_of())]
    folder = folder_of(tmp_path, rows, ("image", "temp", "hum", "state", "Text"))
    data = multiebm.read_data(folder, parts={"sensor": ["temp", "hum"]}, labels="state")
    assert {name: m.kind for name, m in data.modalities.items()} == {
        "picture": "picture",
        "caption": "text",
        "sensor": "vector",
    }
    assert data.classes == ("off", "on")
    assert list(multiebm.read_data(folder).modalities) == ["picture", "caption"]  # without parts as ever


def test_rows_without_their_picture_are_refused_or_missing(tmp_path, caplog):
    rows = rows_of()
    rows[3][0], rows[5][0] = "pics/Pic 03.JPG", ""
    folder = folder_of(tmp_path, rows)
    with pytest.raises(
        DataError,
        match=r"no picture 'pics/Pic 03.JPG' in row 3 \(Did you mean 'pics/Pic 03.PNG'\?\); none in row 5, expected the"
        r" picture of each row in .*; supply it, or train with --missing nan",
    ):
        multiebm.read_data(folder, parts=PARTS)
    data = multiebm.read_data(folder, parts=PARTS, missing="nan")
    assert "of.csv: 2 pictures are in no row and are not read, such as Pic 03.PNG" in caplog.text
    there = torch.cat([data.train.there("picture"), data.test.there("picture")])
    rows_in_order = torch.cat([data.train.rows, data.test.rows])
    assert rows_in_order[~there].sort().values.tolist() == [3, 5]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (None, r"\(its pictures are the part 'picture'\): got a table of 3 columns \(temp, hum, state\) and not which"),
        ({"picture": "temp"}, "got columns of part 'picture', which the pictures are; give another name"),
        ({"sensor": "tem"}, "part 'sensor': got no column 'tem', .* Did you mean 'temp'"),
    ],
)
def test_which_columns_form_which_part_is_asked_for(tmp_path, parts, said):
    with pytest.raises(ConfigError, match=said):
        multiebm.read_data(folder_of(tmp_path, rows_of()), parts=parts)


def test_a_model_reads_the_folder_its_table_and_its_pictures(tmp_path):
    folder = folder_of(tmp_path, rows_of())
    data = multiebm.read_data(folder, parts=PARTS)
    model = multiebm.build("arrays-mopoe", data)
    views, present = read_parts(folder, data.modalities)
    assert list(views) == ["picture", "sensor", "state"]
    assert present.all()
    assert views["picture"].shape == (N, 3, 6, 4)
    whole = model.encode(folder)
    assert torch.equal(whole, model.encode(views))
    alone = {name: views[name] for name in ("sensor", "state")}
    assert torch.equal(model.encode(folder / "of.csv"), model.encode(alone))
    assert torch.equal(model.encode(folder / "pics"), model.encode({"picture": views["picture"]}))
    assert torch.equal(model.encode(folder / "pics" / "Pic 07.PNG"), model.encode({"picture": views["picture"][7:8]}))
    (folder / "pics" / "Pic 02.PNG").unlink()
    hidden = torch.ones(N, 3, dtype=torch.bool)
    hidden[2, 0] = False
    assert torch.equal(model.encode(folder), model.encode(views, present=hidden))


def test_pictures_without_a_table_and_a_table_alone_are_told_what_to_hand_over(tmp_path, capsys):
    folder = folder_of(tmp_path, rows_of())
    with pytest.raises(
        DataError, match=r"or pictures with numbers: .* --part NAME=.*24 pictures .* move them into .*pict"
    ):
        multiebm.read_data(folder / "pics")
    data = multiebm.read_data(folder / "of.csv", parts={"photo": "File", "sensor": "temp"})
    assert data.modalities["photo"].describe() == "6x4 RGB pictures"
    with pytest.raises(
        DataError, match=r"if they name pictures use read_data or train, which read .png, .jpg, .*end so"
    ):
        multiebm.read_data({"photo": [f"{i}.png" for i in range(30)] + ["30.gif"], "x": list(range(31))})
    for name in ("b.csv", "of.csv"):
        (folder / name).write_text((folder / "of.csv").read_text())
    with pytest.raises(SystemExit, match="1"):
        main(["train", str(folder), "--part", "sensor=temp", "--out", str(tmp_path / "run")])
    assert "got 2 tables of pictures (b.csv, of.csv), expected one; move the others" in capsys.readouterr().err
    assert np.array_equal(sorted(path.name for path in folder.iterdir()), ["b.csv", "of.csv", "pics"])
