"""Folders of pictures by part beside one table of numbers, classes and captions: matched by name, with gaps."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.data import read_parts

N = 24
PARTS = {"sensor": ["temp", "hum"], "state": "state"}
NAMES = [f"{i:03d}" for i in range(N)]


@pytest.fixture(autouse=True)
def without_pyarrow(monkeypatch):
    monkeypatch.setattr(pd, "read_parquet", pd.read_pickle)


def frame_of(names=NAMES, **more):
    n = np.arange(len(names))
    state = np.array(["on", "off"])[n % 2]
    return pd.DataFrame({"File": names, "temp": n + 0.5, "hum": n * n, "state": state, **more})


def write_table(frame, file):
    if file.suffix == ".jsonl":
        file.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    elif file.suffix == ".parquet":
        frame.to_pickle(file)  # where pyarrow is not here; `without_pyarrow` reads it
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")


def folder_of(at, frame, table="labels.csv", photos=NAMES, sketches=NAMES):
    """Write photos, all of 10 i, and sketches, all of 5 i, for names that are the number i."""
    for part, names, size, scale in (("photo", photos, (4, 6), 10), ("sketch", sketches, (5, 3), 5)):
        (at / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            mode, grey = ("RGB", (scale * int(name),) * 3) if part == "photo" else ("L", scale * int(name))
            Image.new(mode, size, grey).save(at / part / f"{name}{'.PNG' if part == 'photo' else '.png'}")
    write_table(frame, at / table)
    return at


def rows_of(data):
    """Return by row what it has: grey of photo and of sketch, temp, None where a part is absent."""
    found = {}
    for split in (data.train, data.test):
        for i, row in enumerate(split.rows.tolist()):
            take = {name: split.take(name, torch.tensor([i]))[0].flatten()[0].item() for name in split.views}
            found[row] = [take[n] if split.there(n)[i] else None for n in ("photo", "sketch", "sensor")]
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize("table", ["labels.csv", "labels.tsv", "labels.jsonl", "labels.parquet"])
@pytest.mark.parametrize("form", ["{}", "{}.png", "photo/{}.PNG", "sketch\\{}.png"])
def test_a_row_has_the_pictures_of_its_name_in_each_folder(tmp_path, table, form):
    folder = folder_of(tmp_path, frame_of([form.format(name) for name in NAMES[::-1]]), table)
    data = multiebm.read_data(folder, parts=PARTS)
    assert data.describe().startswith("photo: 6x4 RGB pictures; sketch: 3x5 grey pictures; sensor: 2 numbers; state: 2")
    assert rows_of(data) == [[10 * i, 5 * i, N - 1 - i + 0.5] for i in range(N)][::-1]


def test_names_that_are_numbers_are_names(tmp_path):
    folder = folder_of(tmp_path, frame_of(range(N)), "labels.parquet", *[[str(i) for i in range(N)]] * 2)
    assert rows_of(multiebm.read_data(folder, parts=PARTS)) == [[10 * i, 5 * i, i + 0.5] for i in range(N)]


def test_a_part_is_absent_where_it_has_no_picture_of_a_name(tmp_path, caplog):
    folder = folder_of(tmp_path, frame_of(NAMES[:-2]), photos=NAMES[3:], sketches=NAMES[:-4])
    found = rows_of(multiebm.read_data(folder, parts=PARTS))
    assert found == [[10 * i if i > 2 else None, 5 * i if i < N - 4 else None, i + 0.5] for i in range(N - 2)]
    assert "labels.csv: 3 of 22 rows have no picture in photo, such as '000' in row 0" in caplog.text
    assert "labels.csv: 2 of 22 rows have no picture in sketch, such as '020' in row 20" in caplog.text
    assert "labels.csv: 2 pictures are in no row and are not read, such as 022.PNG" in caplog.text


def test_a_row_of_which_no_picture_is_there_is_refused_or_has_columns_alone(tmp_path):
    frame = frame_of(["", *NAMES[1:5], "o05", *NAMES[6:]])
    frame["File"] = frame["File"].replace("", None)
    folder = folder_of(tmp_path, frame)
    with pytest.raises(
        DataError,
        match=r"labels.csv: got none in row 0; no picture 'o05' in row 5 \(Did you mean '0\d\d'\?\), expected the "
        r"picture of each row in .*; supply it, or train with --missing nan",
    ):
        multiebm.read_data(folder, parts=PARTS)
    found = rows_of(multiebm.read_data(folder, parts=PARTS, missing="nan"))
    assert found == [[None if i in (0, 5) else 10 * i, None if i in (0, 5) else 5 * i, i + 0.5] for i in range(N)]


def test_captions_and_labels_need_no_word_about_parts(tmp_path):
    said = [f"a grey of {i} parts" for i in range(N)]
    folder = folder_of(tmp_path, frame_of(Caption=said))
    data = multiebm.read_data(folder, labels="state")
    assert {name: m.kind for name, m in data.modalities.items()} == dict.fromkeys(("photo", "sketch"), "picture") | {
        "caption": "text"
    }
    assert data.classes == ("off", "on")
    write_table(frame_of(), folder / "labels.csv")
    data = multiebm.read_data(folder, labels="state")
    assert list(data.modalities) == ["photo", "sketch"]
    assert data.train.labels.tolist() == [int(row % 2 == 0) for row in data.train.rows]


def test_a_table_of_which_nothing_is_wanted_is_left_aside_with_the_way_to_have_it(tmp_path, caplog):
    assert list(multiebm.read_data(folder_of(tmp_path, frame_of())).modalities) == ["photo", "sketch"]
    assert "it has no column caption or text; columns of it become parts by --part NAME=COLUMN,COLUMN" in caplog.text
    (tmp_path / "sketch" / "000.png").unlink()
    for file in (tmp_path / "sketch").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match=r"\(its pictures are the part 'photo'\): got a table of 3 columns"):
        multiebm.read_data(tmp_path)
    write_table(frame_of()[["File"]][:20], tmp_path / "labels.csv")
    data = multiebm.read_data(tmp_path)
    assert (list(data.modalities), len(data.train) + len(data.test)) == (["photo"], 20)


def test_several_captions_of_an_item_are_rows_of_one_split(tmp_path):
    frame = frame_of(text=[[f"a grey of {i} parts", f"parts of grey, {i}"] for i in range(N)])
    data = multiebm.read_data(folder_of(tmp_path, frame, "labels.jsonl"), parts=PARTS)
    greys = [{row[0] for row in split.views["photo"][:, 0, 0].tolist()} for split in (data.train, data.test)]
    assert len(data.train) + len(data.test) == 2 * N
    assert not greys[0] & greys[1]


@pytest.mark.parametrize(
    ("table", "parts", "said"),
    [
        ("labels.csv", {"photo": "temp"}, "got columns of part 'photo', which the pictures are; give another name"),
        ("labels.csv", {"sensor": "tem"}, "part 'sensor': got no column 'tem', .* Did you mean 'temp'"),
        ("numbers.csv", PARTS, "2 tables of pictures .labels.csv, numbers.csv., expected one"),
    ],
)
def test_what_is_said_of_columns_wrongly_is_told(tmp_path, table, parts, said):
    folder = folder_of(tmp_path, frame_of())
    write_table(frame_of(), folder / table)
    with pytest.raises((ConfigError, DataError), match=said):
        multiebm.read_data(folder, parts=parts)


def test_a_table_without_a_column_of_files_is_told_what_to_call_it(tmp_path):
    folder = folder_of(tmp_path, frame_of().rename(columns={"File": "id"}))
    for asked in ({"parts": PARTS}, {"labels": "state"}):
        with pytest.raises(ConfigError, match="expected one in it with a column file, file_name or image; give the"):
            multiebm.read_data(folder, **asked)
    with pytest.raises(ConfigError, match=r"labels.csv has id, temp, hum, state"):
        multiebm.read_data(folder, parts=PARTS)
    (folder / "labels.csv").unlink()
    with pytest.raises(ConfigError, match="got labels 'state' and no table .*; supply it, or leave them out"):
        multiebm.read_data(folder, labels="state")


def test_a_folder_of_other_names_is_no_part_of_these_rows(tmp_path):
    folder = folder_of(tmp_path, frame_of(), sketches=[f"{i}" for i in range(100, 110)])
    with pytest.raises(
        DataError, match=r"sketch: got 10 pictures, first '100.png', of which no row of labels.csv names one, .* '000'"
    ):
        multiebm.read_data(folder, parts=PARTS)


def test_names_of_which_none_is_there_are_shown_beside_those_of_pictures(tmp_path):
    folder = folder_of(tmp_path, frame_of([str(i) for i in range(N)]), photos=NAMES[1:], sketches=[])
    (folder / "photo" / "024.PNG").write_bytes((folder / "photo" / "001.PNG").read_bytes())
    write_table(frame_of([f"n{i}" for i in range(N)]), folder / "labels.csv")
    for missing in (None, "nan"):
        with pytest.raises(
            DataError,
            match=r"got no picture 'n0' in row 0, and so in all rows, expected names of pictures in .* or its folders "
            r"\(photo/001, ...\); correct its column of files",
        ):
            multiebm.read_data(folder, parts=PARTS, missing=missing)


def test_a_picture_beside_the_table_is_named_with_or_without_its_ending(tmp_path):
    folder = folder_of(tmp_path, frame_of(), sketches=[])
    for file in (folder / "photo").iterdir():
        file.rename(folder / file.name)
    data = multiebm.read_data(folder, parts=PARTS)
    greys = {}
    for split in (data.train, data.test):
        for temp, picture in zip(split.views["sensor"][:, 0], split.views["picture"], strict=True):
            greys[float(temp)] = int(picture[0, 0, 0])
    assert greys == {i + 0.5: 10 * i for i in range(N)}


def test_folders_of_classes_are_no_parts_where_the_table_names_files_in_them(tmp_path):
    frame = frame_of([f"{('photo', 'sketch')[i % 2]}/{name}.{('PNG', 'png')[i % 2]}" for i, name in enumerate(NAMES)])
    folder = folder_of(tmp_path, frame)
    for file in (folder / "sketch").iterdir():
        Image.open(file).resize((4, 6)).save(file)
    data = multiebm.read_data(folder, parts=PARTS)
    assert list(data.modalities) == ["picture", "sensor", "state"]
    greys = {}
    for split in (data.train, data.test):
        for temp, picture in zip(split.views["sensor"][:, 0], split.views["picture"], strict=True):
            greys[int(temp)] = int(picture[0, 0, 0])
    assert greys == {i: (10, 5)[i % 2] * i for i in range(N)}


def test_a_model_reads_such_folders_as_training_did(tmp_path, caplog):
    folder = folder_of(tmp_path / "all", frame_of())
    data = multiebm.read_data(folder, parts=PARTS)
    model = multiebm.build("arrays-mopoe", data)
    views, present = read_parts(folder, data.modalities)
    assert present.all()
    assert [int(of[0, 0, 0]) for of in views["photo"]] == [10 * i for i in range(N)]
    assert [int(of[0, 0, 0]) for of in views["sketch"]] == [5 * i for i in range(N)]
    assert torch.equal(model.encode(folder), model.encode(views))
    alone = {name: views[name] for name in ("sensor", "state")}
    assert torch.equal(model.encode(folder / "labels.csv"), model.encode(alone))
    some = folder_of(tmp_path / "some", frame_of(), photos=NAMES[3:], sketches=NAMES[:-4])
    there = torch.ones(N, 4, dtype=torch.bool)
    there[:3, 0] = there[-4:, 1] = False
    assert torch.equal(model.encode(some), model.encode(views, present=there))
    (some / "labels.csv").unlink()
    pictures = {name: views[name] for name in ("photo", "sketch")}
    assert torch.equal(model.encode(some), model.encode(pictures, present=there))
    assert "3 of 24 names have no picture in photo, such as 000" in caplog.text


def test_pictures_of_what_is_no_part_of_a_model_are_named(tmp_path):
    data = multiebm.read_data(folder_of(tmp_path / "all", frame_of()), parts=PARTS)
    other = folder_of(tmp_path / "other", frame_of())
    (other / "sketch").rename(other / "scetch")
    with pytest.raises(ModalityError, match="got pictures of 'scetch', expected some of photo, sketch.* mean 'sketch'"):
        read_parts(other, data.modalities)
