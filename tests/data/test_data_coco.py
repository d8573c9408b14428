"""COCO captions in the published JSON, and pictures of any size and mode made alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiebm.core.captions import words_of
from multiebm.core.errors import DataError
from multiebm.data import load_dataset
from multiebm.data.coco import read_captions
from multiebm.data.picture_files import centre_square, read_scaled
from small_downloads import COLOURS, real, write_coco


@pytest.fixture
def folder(tmp_path):
    return write_coco(tmp_path / "files")


def load(folder: Path | str, cache: Path, **settings):
    return load_dataset("coco", {"folder": str(folder), "cache_folder": str(cache), "size": 8, **settings})


def said(data, split: str) -> list[str]:
    return data.modalities["caption"].show(data.split(split).views["caption"])


def test_captions_follow_their_pictures_in_the_order_of_the_file(folder, tmp_path):
    data = load(folder, tmp_path / "cache", min_count=1)
    assert (len(data.train), len(data.test), data.n_classes) == (30, 30, None)
    assert said(data, "train") == [f"photo {k} of train {i}." for i in range(6) for k in range(5)]
    assert data.train.at["picture"].tolist() == [i for i in range(6) for _ in range(5)]
    assert said(data, "test")[0] == "photo 0 of <unk> 0."  # "val" stands in test captions alone
    pixel = data.train.of("picture")[0][26, :, 4, 4].double().numpy()
    assert np.abs(pixel - COLOURS[2]).max() < 10


def test_one_caption_a_picture_is_the_first_and_limit_counts_pictures(folder, tmp_path):
    data = load(folder, tmp_path / "cache", captions_per_picture=1, limit=3, min_count=1)
    assert said(data, "train") == [f"photo 0 of train {i}." for i in (0, 2, 4)]


def test_the_older_year_has_its_own_names(tmp_path):
    folder = write_coco(tmp_path / "files", year=2014)
    assert len(load(folder, tmp_path / "cache", year=2014).train) == 30
    with pytest.raises(DataError, match=r"captions_train2017.json: got no such file, .*, or set year"):
        load(folder, tmp_path / "cache")


def test_the_middle_square_is_cut_out_where_asked(folder, tmp_path):
    assert centre_square(40, 30) == (5, 0, 35, 30)
    assert centre_square(31, 41) == (0, 5, 31, 36)
    path = folder / "train2017" / "train_000000000000.jpg"
    picture = Image.new("RGB", (40, 30), (0, 0, 0))
    picture.paste((255, 255, 255), (5, 0, 35, 30))
    picture.save(path, format="PNG")  # without losses
    whole, square = (load(folder, tmp_path / "cache", crop=crop).train.views["picture"][0] for crop in (False, True))
    assert square.min() == 255
    assert whole.double().mean() == pytest.approx(255 * 0.75, abs=1)


def test_a_cache_that_is_there_gives_what_building_gives(folder, tmp_path):
    built, again = (load(folder, tmp_path / "cache") for _ in range(2))
    anew = load(folder, tmp_path / "other")
    assert built.fingerprint == again.fingerprint == anew.fingerprint
    assert torch.equal(again.test.views["picture"], anew.test.views["picture"])
    Image.new("RGB", (90, 90)).save(folder / "val2017" / "val_000000000000.jpg")
    assert load(folder, tmp_path / "cache").fingerprint != built.fingerprint


def test_grey_cmyk_16_bit_and_turned_pictures_become_rgb(tmp_path):
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    grey = Image.fromarray(ramp)
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(read_scaled(tmp_path / "grey.png", 8), np.repeat(ramp[None], 3, 0))
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    assert np.array_equal(read_scaled(tmp_path / "wide.png", 8), np.repeat(ramp[None], 3, 0))
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red, green, blue = read_scaled(tmp_path / "cmyk.jpg", 8).reshape(3, -1).mean(1)
    assert red < 40
    assert min(green, blue) > 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_scaled(tmp_path / "turned.png", 8)[0], np.rot90(ramp, -1))


def test_a_json_without_annotations_and_others_that_do_not_fit_are_named(folder, tmp_path):
    file = folder / "annotations" / "captions_val2017.json"
    content = json.loads(file.read_text())
    wrong = r"captions_val2017.json: got {}, expected JSON with images .* and annotations .*; download it again"
    for change, got in (
        ({"images": content["images"]}, "KeyError: 'annotations'"),
        ({**content, "annotations": [{"image_id": 1, "caption": "a"}]}, "KeyError: 1"),
        ({**content, "annotations": [{"image_id": 100, "caption": 3}]}, "AttributeError"),
        ([], "TypeError"),
    ):
        file.write_text(json.dumps(change))
        with pytest.raises(DataError, match=wrong.format(f"{got}.*")):
            load(folder, tmp_path / "cache")
    file.write_text(json.dumps(content)[:50])
    with pytest.raises(DataError, match=wrong.format("ValueError.*")):
        load(folder, tmp_path / "cache")
    file.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DataError, match=r"captions_val2017.json: got no caption for picture 'val_000000000000.jpg'"):
        load(folder, tmp_path / "cache")
    file.write_text(json.dumps(content).replace("val_000000000000.jpg", "../val_000000000000.jpg"))
    with pytest.raises(DataError, match=r"got a name that leaves its folder for picture '../val_000000000000.jpg'"):
        load(folder, tmp_path / "cache")


def test_a_truncated_and_an_absent_picture_are_named(folder, tmp_path):
    path = folder / "val2017" / "val_000000000003.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(
        DataError, match=r"val_000000000003.jpg: got .*, expected a readable picture; download it again"
    ):
        load(folder, tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match=r"got no picture .*val_000000000003.jpg \(1 such files\), expected every one"):
        load(folder, tmp_path / "cache")


def test_the_real_sample_is_read_as_its_json_says(tmp_path):
    root = Path(real("coco"))
    data = load_dataset("coco", {"folder": str(root), "cache_folder": str(tmp_path), "limit": 20, "crop": True})
    content = json.loads((root / "annotations" / "captions_train2017.json").read_text())
    assert len(read_captions(root / "annotations" / "captions_train2017.json")) == len(content["images"]) == 80
    for row, image in enumerate(content["images"][::4]):
        lines = [one["caption"] for one in content["annotations"] if one["image_id"] == image["id"]]
        for k, shown in enumerate(said(data, "train")[5 * row : 5 * row + 5]):
            pairs = zip(words_of(lines[k])[:31], words_of(shown), strict=True)
            assert [a for a, b in pairs if b not in (a, "<unk>")] == []
    with Image.open(root / "train2017" / content["images"][0]["file_name"]) as picture:
        box = centre_square(*picture.size)
        square = picture.convert("RGB").crop(tuple(map(int, box)))
    small = np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(data.train.views["picture"][0].numpy(), small)
