"""Pictures with captions as people have them: a table beside pictures, or name.txt beside name.jpg."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import multiebm
from multiebm.core.errors import ConfigError, DataError
from multiebm.data import load_dataset, read_parts
from multiebm.data.sources import read_source

SAID = [f"a {size} {colour} {shape}" for size in ("big", "small") for colour in ("red", "blue") for shape in "xyz"]


def picture(file, value=0, mode="RGB", size=(6, 4), **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(file, **more)


def table(folder, rows, name="captions.csv", head="file,caption"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join([head, *rows, ""]))


@pytest.fixture
def folder(tmp_path):
    """Pictures 0.png .. 11.png in a sub-folder, of grey level 20 i, and their captions."""
    for i in range(len(SAID)):
        picture(tmp_path / "images" / f"{i}.png", (20 * i, 0, 0))
    table(tmp_path, [f"images/{i}.png,{said}" for i, said in enumerate(SAID)])
    return tmp_path


def test_a_table_beside_a_folder_of_pictures(folder):
    found = read_source(folder)
    assert list(found) == ["picture", "caption"]
    assert found["picture"].shape == (12, 4, 6, 3)
    assert found["picture"][:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert found["caption"].tolist() == SAID
    data = multiebm.read_data(folder)
    assert {name: m.kind for name, m in data.modalities.items()} == {"picture": "picture", "caption": "text"}
    assert (len(data.train), len(data.test)) == (10, 2)
    assert data.train.present.all()
    again = load_dataset("arrays", {"path": str(folder)})
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("head", ["file_name,text", "Image;Caption", "number,caption,file", "\ufefffile,caption"])
def test_columns_have_several_names_and_any_order(tmp_path, head, caplog):
    mark = ";" if ";" in head else ","
    of = {"number": "7", "caption": '"one, two and three"', "file": "0.png"}
    names = [
        {"file_name": "file", "image": "file", "text": "caption"}.get(n.strip("\ufeff").lower(), n)
        for n in head.split(mark)
    ]
    names = [name.strip("\ufeff").lower() for name in names]
    picture(tmp_path / "0.png")
    table(tmp_path, [mark.join(of[name] for name in names)], head=head)
    assert read_source(tmp_path)["caption"].tolist() == ["one, two and three"]
    assert ("1 columns are in no part and are left aside: number" in caplog.text) == ("number" in head)


def test_json_lines_with_lists_of_captions(tmp_path):
    picture(tmp_path / "a.png", (1, 2, 3))
    picture(tmp_path / "b.png", (4, 5, 6))
    lines = [{"image": "a.png", "text": ["one", "two"]}, {"image": "b.png", "text": "three"}]
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = read_source(tmp_path)
    assert found["caption"].tolist() == ["one", "two", "three"]
    assert found["picture"][:, 0, 0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
    (tmp_path / "metadata.jsonl").write_text('{"image": "a.png", "text": "one"}\n{"image": \n')
    with pytest.raises(DataError, match=r"metadata.jsonl, line 2: got no JSON .* expected an object; repair it"):
        read_source(tmp_path)


def test_texts_beside_pictures(tmp_path):
    for i, said in enumerate(SAID[:3]):
        picture(tmp_path / f"p{i}.jpg", 80 * i, "L")
        (tmp_path / f"p{i}.txt").write_text(f"{said}\n\n{said} again\n")
    found = read_source(tmp_path)
    assert found["caption"].tolist() == [said + end for said in SAID[:3] for end in ("", " again")]
    assert found["picture"][:, 0, 0, 0].tolist() == [0, 0, 80, 80, 160, 160]
    with pytest.raises(ConfigError, match="labels: got 'c' for files of captions, which have no columns"):
        read_source(tmp_path, labels="c")


def test_no_picture_is_in_both_splits(folder):
    table(folder, [f"images/{i}.png,{said}{end}" for i, said in enumerate(SAID) for end in ("", " here", " there")])
    data = multiebm.read_data(folder, test_fraction=0.25)
    train, test = ({float(v) for v in split.views["picture"][:, 0, 0, 0]} for split in (data.train, data.test))
    assert (len(train), len(test), len(data.train), len(data.test)) == (9, 3, 27, 9)
    assert not train & test
    others = multiebm.read_data(folder, test_fraction=0.25, seed=1).test.views["picture"]
    assert {float(v) for v in others[:, 0, 0, 0]} != test
    with pytest.raises(ConfigError, match="test_fraction: got 2, expected a share between 0 and 1"):
        multiebm.read_data(folder, test_fraction=2)


def test_a_run_keeps_such_data_as_they_were_split(folder, tmp_path_factory):
    table(folder, [f"images/{i}.png,{said}{end}" for i, said in enumerate(SAID) for end in ("", " here")])
    data = multiebm.read_data(folder)
    file = tmp_path_factory.mktemp("kept") / "data.npz"
    np.savez(file, **data.kept.arrays)
    assert load_dataset("arrays", {"path": str(file), **data.kept.settings}).fingerprint == data.fingerprint


def test_gaps_are_refused_with_file_and_row_or_become_missing_parts(folder, caplog):
    (folder / "images" / "1.png").rename(folder / "images" / "one.png")
    table(folder, [f"images/{i}.png,{said if i != 3 else ''}" for i, said in enumerate(SAID)])
    gaps = (
        r"captions.csv, line 3: no picture images/1.png \(Did you mean 'images/1\d?.png'\?\); "
        r"captions.csv, line 5: no caption of images/3.png; images/one.png: not in captions.csv"
    )
    with pytest.raises(DataError, match=rf"got {gaps}; expected a picture and a caption in each row; .* --missing nan"):
        multiebm.read_data(folder)
    found = read_source(folder, missing="nan")
    assert found["present_picture"].tolist() == [i != 1 for i in range(13)]
    assert found["present_caption"].tolist() == [i not in (3, 12) for i in range(13)]
    assert found["picture"][[0, 2, 12], 0, 0, 0].tolist() == [0, 40, 20]
    assert "3 of 13 rows lack a part: captions.csv, line 3" in caplog.text
    data = multiebm.read_data(folder, missing="nan")
    assert int((~torch.cat([data.train.present, data.test.present])).sum()) == 3
    table(folder, [f"images/{i}.png,{said}" for i, said in enumerate(SAID)])
    (folder / "images" / "one.png").unlink()
    table(folder, [*(f"images/{i}.png,{said}" for i, said in enumerate(SAID) if i != 1), "images/none.png,"])
    with pytest.raises(DataError, match=r"captions.csv, line 13: got no picture 'images/none.png' and no caption"):
        read_source(folder, missing="nan")


def test_gaps_among_texts_beside_pictures(tmp_path):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    for name in "abd":
        (tmp_path / f"{name}.txt").write_text("" if name == "b" else f"a caption of {name}")
    gaps = "b.png and no caption in b.txt; c.png and no c.txt; a caption in d.txt, line 1, and no picture d"
    with pytest.raises(DataError, match=f"got {gaps}; expected a picture and a caption"):
        read_source(tmp_path)
    found = read_source(tmp_path, missing="nan")
    assert found["present_picture"].tolist() == [True, True, True, False]
    assert found["present_caption"].tolist() == [True, False, False, True]


def test_pictures_of_all_sorts_become_one(tmp_path):
    sorts = {
        "rgb.png": ("RGB", (10, 20, 30)),
        "grey.png": ("L", 40),
        "wide.png": ("I;16", 257 * 50),
        "cmyk.jpg": ("CMYK", (0, 0, 0, 255)),
    }
    for name, (mode, value) in sorts.items():
        picture(tmp_path / name, value, mode)
    Image.new("RGB", (6, 4), (200, 100, 0)).quantize(4).save(tmp_path / "palette.png")
    turned = Image.new("RGB", (4, 6), (0, 0, 0))
    turned.putpixel((0, 5), (255, 255, 255))  # lower left; turned by 90 degrees clockwise: upper left
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    names = [*sorts, "palette.png", "turned.png"]
    table(tmp_path, [f"{name},a picture of {name}" for name in names])
    values = read_source(tmp_path)["picture"]
    assert values.shape == (6, 4, 6, 3)
    first = np.round(values[:, 0, 0] * (1 if values.dtype == np.uint8 else 255)).astype(int).tolist()
    assert first == [[10, 20, 30], [40] * 3, [50] * 3, [0] * 3, [200, 100, 0], [255] * 3]


def test_pictures_that_do_not_fit_are_refused_by_name(folder):
    picture(folder / "images" / "4.png", size=(7, 4))
    with pytest.raises(DataError, match=r"images/4.png: got 7x4 pixels, expected 6x4 .* as 11 of 12 .*; resize 1"):
        read_source(folder)
    picture(folder / "images" / "4.png")
    whole = (folder / "images" / "5.png").read_bytes()
    (folder / "images" / "5.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(DataError, match=r"images/5.png: got .*, expected a readable picture; save it again"):
        read_source(folder)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0.png,a cat, and a dog", "line 3: got 3 cells, expected 2 as in its first line; put a caption that has comm"),
        ("../x.png,a cat", "line 3: got ../x.png, outside .*, expected a picture in it; copy it there"),
        ("/etc/x.png,a cat", "line 3: got /etc/x.png, outside"),
        ("0.gif,a cat", "line 3: got 0.gif, expected the name of a picture"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(tmp_path, row, said):
    picture(tmp_path / "0.png")
    table(tmp_path, ["0.png,a bird", row])
    with pytest.raises(DataError, match=said):
        read_source(tmp_path)


def test_folders_of_parts_go_on_working_beside_other_tables(tmp_path, caplog):
    for part in ("left", "right"):
        picture(tmp_path / part / "a.png")
    table(tmp_path, ["a.png,3"], head="file,class")
    (tmp_path / "a.txt").write_text("a note")
    assert list(read_source(tmp_path)) == ["left", "right"]
    assert "captions.csv: not read as a table of captions, it has no column caption or text" in caplog.text
    (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
    assert list(read_source(tmp_path)) == ["left", "right"]
    table(tmp_path, ["left/a.png,a b c"], "one.csv")
    table(tmp_path, ["left/a.png,a b c"], "two.csv")
    with pytest.raises(
        DataError, match=r"got 2 tables of pictures \(one.csv, two.csv\), expected one; move the others"
    ):
        read_source(tmp_path)


def test_labels_are_a_column_and_kinds_may_be_declared(folder):
    table(folder, [f"images/{i}.png,{said},{said[-1]}" for i, said in enumerate(SAID)], head="file,caption,letter")
    data = multiebm.read_data(folder, labels="letter", kinds={"caption": {"kind": "text", "length": 9}})
    assert data.classes == ("x", "y", "z")
    assert data.modalities["caption"].length == 9
    with pytest.raises(ConfigError, match="got no column 'leter', expected one of file, caption, letter. Did you mean"):
        multiebm.read_data(folder, labels="leter")


def test_such_folders_and_loose_pictures_are_parts_to_use_a_model_on(folder):
    modalities = multiebm.read_data(folder).modalities
    views, present = read_parts(folder, modalities)
    assert views["picture"][:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert views["caption"].tolist() == SAID
    assert present.all()
    views, present = read_parts(folder / "images", modalities)
    assert (list(views), present) == (["picture"], None)
    assert views["picture"][:, 0, 0, 0].tolist() == [20 * i for i in (0, 1, 10, 11, *range(2, 10))]  # by name
    views, _ = read_parts(folder / "images" / "7.png", modalities)
    assert views["picture"][:, 0, 0, 0].tolist() == [140]
