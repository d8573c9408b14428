"""CUB with captions: lists, splits, boxes and captions as published, and what is said when files lack."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiebm.core.captions import words_of
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.tokens import UNKNOWN
from multiebm.data import load_dataset
from multiebm.data.cub import class_split, read_lists
from multiebm.data.picture_files import box_inside, read_scaled
from small_downloads import BIRDS, COLOURS, real, write_cub


@pytest.fixture
def folder(tmp_path):
    return write_cub(tmp_path / "files")


def load(folder: Path | str, cache: Path, **settings):
    shared = {"folder": str(folder), "cache_folder": str(cache), "size": 16, "min_count": 1}
    return load_dataset("cub", {**shared, **settings})


def said(data, split: str) -> list[str]:
    return data.modalities["caption"].show(data.split(split).views["caption"])


def test_pair_k_is_picture_k_over_10_with_caption_k_modulo_10(folder, tmp_path):
    data = load(folder, tmp_path / "cache")
    assert (len(data.train), len(data.test)) == (60, 30)
    for k, caption in enumerate(said(data, "train")):
        picture = k // 10
        name = BIRDS[picture // 3]
        lines = (folder / "text" / name / f"bird_{picture % 3}.txt").read_text().splitlines()
        assert caption == lines[k % 10]
        assert int(data.train.at["picture"][k]) == picture
        assert int(data.train.labels[k]) == picture // 3
    assert data.classes == BIRDS
    assert data.train.views["picture"].shape == (6, 3, 16, 16)  # each once


def test_colours_belong_to_the_captions_that_name_them(folder, tmp_path):
    data = load(folder, tmp_path / "cache")
    for split in ("train", "test"):
        rows = data.split(split)
        for row, label in enumerate(rows.labels.tolist()):
            pixel = rows.of("picture")[0][row, :, 8, 8].double().numpy()
            assert np.abs(pixel - COLOURS[label]).max() < 10


def test_the_split_of_classes_is_disjoint_and_the_official_one_goes_by_pictures(folder, tmp_path):
    by_class, official = load(folder, tmp_path / "cache"), load(folder, tmp_path / "cache", split="official")
    assert not {*by_class.train.labels.tolist()} & {*by_class.test.labels.tolist()}
    assert (len(official.train), len(official.test)) == (60, 30)  # two of three pictures of each class
    assert torch.bincount(official.test.labels).tolist() == [10, 10, 10]


def test_lists_of_classes_do_in_place_of_the_json(folder, tmp_path):
    expected = load(folder, tmp_path / "cache").fingerprint
    (folder / "reed_class_split.json").unlink()
    with pytest.raises(DataError, match=r"got no reed_class_split.json and no .*; put it there, or set split=official"):
        load(folder, tmp_path / "cache")
    (folder / "trainvalclasses.txt").write_text("\n".join(BIRDS[:2]))
    (folder / "testclasses.txt").write_text(BIRDS[2] + "\n")
    assert load(folder, tmp_path / "cache").fingerprint == expected


def test_words_are_those_of_training_captions_alone(folder, tmp_path):
    """Pictures have words of their own, p1 to p9; those of the test class, and green, are unknown."""
    data = load(folder, tmp_path / "cache")
    words = data.modalities["caption"].vocabulary
    assert {"red", "blue", "p6"} <= {*words}
    assert "green" not in words
    assert said(data, "test")[0] == "a <unk> bird seen 0 times by <unk>"
    often = load(folder, tmp_path / "cache", min_count=31).modalities["caption"].vocabulary
    assert often == ("a", "bird", "by", "seen", "times")  # each in 60 captions; colours in 30
    assert len(load(folder, tmp_path / "cache", vocabulary=5).modalities["caption"].vocabulary) == 5


def test_fewer_captions_are_the_first_and_limit_takes_pictures_of_every_class(folder, tmp_path):
    data = load(folder, tmp_path / "cache", captions_per_picture=2, limit=2)
    assert [caption.split()[4] for caption in said(data, "train")] == ["0", "1"] * 2
    assert data.train.labels.tolist() == [0, 0, 1, 1]


def test_long_captions_are_cut_behind_31_words_and_end(folder, tmp_path):
    path = folder / "text" / BIRDS[0] / "bird_0.txt"
    path.write_text("\n".join([" ".join(["bird"] * 40)] * 10))
    tokens = load(folder, tmp_path / "cache").train.views["caption"]
    assert tokens.shape[1] == 32
    assert (tokens[0] > UNKNOWN).tolist() == [True] * 31 + [False]


def test_a_crop_is_the_box_of_the_original_picture(folder, tmp_path):
    name = folder / "CUB_200_2011" / "images" / BIRDS[0] / "bird_0.jpg"
    picture = Image.new("RGB", (40, 30), (0, 0, 0))
    picture.paste((255, 255, 255), (10, 5, 30, 25))  # its box
    picture.save(name, quality=100)
    whole, crop = (load(folder, tmp_path / "cache", crop=crop).train.views["picture"][0] for crop in (False, True))
    assert crop.double().mean() > 250
    assert whole.double().mean() == pytest.approx(255 * 400 / 1200, abs=3)
    boxes = folder / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 10.0 5.0 20.0 20.0", "1 0.0 0.0 10.0 30.0", 1))
    assert load(folder, tmp_path / "cache", crop=True).train.views["picture"][0].double().mean() < 5  # read again


def test_boxes_of_other_pictures_are_refused():
    assert box_inside((1, 2, 11, 9), Path("a.jpg"), 10, 10) == (1, 2, 10, 9)  # a pixel over the edge
    with pytest.raises(DataError, match=r"a.jpg: got a picture of 64x64 .*: the picture is cut or scaled already; set"):
        box_inside((60, 27, 385, 331), Path("a.jpg"), 64, 64)


def test_a_cache_that_is_there_gives_what_building_gives(folder, tmp_path):
    built, again = (load(folder, tmp_path / "cache") for _ in range(2))
    anew = load(folder, tmp_path / "other")
    assert built.fingerprint == again.fingerprint == anew.fingerprint
    assert torch.equal(again.train.views["picture"], anew.train.views["picture"])
    assert load(folder, tmp_path / "cache", size=8).fingerprint != built.fingerprint


def test_missing_and_damaged_files_are_named_with_what_to_do(folder, tmp_path):
    picture = folder / "CUB_200_2011" / "images" / BIRDS[1] / "bird_1.jpg"
    text = folder / "text" / BIRDS[2] / "bird_0.txt"
    whole, captions = picture.read_bytes(), text.read_text()
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"bird_1.jpg: got .*[Tt]runcated.*, expected a readable picture; download it"):
        load(folder, tmp_path / "cache")
    picture.unlink()
    with pytest.raises(DataError, match=r"got no picture .*bird_1.jpg \(1 such files\).*; unpack .*multiebm data cub"):
        load(folder, tmp_path / "cache")
    picture.write_bytes(whole)
    text.write_text("\n".join(captions.splitlines()[:3]))
    with pytest.raises(DataError, match=r"bird_0.txt: got 3 captions, expected at least 10; .*captions_per_picture=3"):
        load(folder, tmp_path / "cache")
    text.unlink()
    with pytest.raises(DataError, match=r"003.Green_Bird/bird_0.txt: got no such file, expected the captions of a pic"):
        load(folder, tmp_path / "cache")


def test_lists_that_do_not_fit_are_named_with_their_lines(folder, tmp_path):
    lists = folder / "CUB_200_2011"
    labels = (lists / "image_class_labels.txt").read_text()
    (lists / "image_class_labels.txt").write_text(labels.replace("4 2\n", ""))
    with pytest.raises(DataError, match=r"image_class_labels.txt: got no line that begins with 4 \(1 such lines\)"):
        load(folder, tmp_path / "cache")
    (lists / "image_class_labels.txt").write_text(labels.replace("4 2\n", "4 9\n"))
    with pytest.raises(DataError, match=r"classes.txt: got no line that begins with 9"):
        load(folder, tmp_path / "cache")
    (lists / "image_class_labels.txt").write_text(labels.replace("4 2\n", "4\n"))
    with pytest.raises(DataError, match=r"image_class_labels.txt, line 4: got '4', expected 2 cells; unpack"):
        load(folder, tmp_path / "cache")
    (lists / "images.txt").unlink()
    with pytest.raises(DataError, match=r"images.txt: got no such file, expected the lists of CUB_200_2011"):
        load(folder, tmp_path / "cache")


def test_splits_of_classes_that_overlap_or_lack_one_are_refused(folder, tmp_path):
    file = folder / "reed_class_split.json"
    for content, message in (
        ({"train": BIRDS, "test": BIRDS[2:]}, "got class '003.Green_Bird' in train and in test, expected it in one"),
        ({"train": BIRDS[:1], "test": BIRDS[2:]}, "got no class '002.Blue_Bird', expected it in train or in test"),
        ({"train": BIRDS}, "got KeyError: 'test', expected JSON with names of classes"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            load(folder, tmp_path / "cache")


def test_bad_settings_are_told_at_once():
    bad = {"size": 0, "captions_per_picture": 11, "length": 1, "vocabulary": 10**6, "min_count": 0, "limit": 0}
    with pytest.raises(ConfigError) as caught:
        load_dataset("cub", {"folder": "nowhere", **bad})
    assert [problem.partition(":")[0] for problem in caught.value.problems[:6]] == [
        "cub.size", "cub.captions_per_picture", "cub.length", "cub.vocabulary", "cub.min_count", "cub.limit",
    ]  # fmt: skip


def test_the_real_sample_is_read_as_its_files_say(tmp_path):
    root = Path(real("cub"))
    data = load_dataset("cub", {"folder": str(root), "cache_folder": str(tmp_path), "limit": 40})
    lists, (classes, _) = read_lists(root / "CUB_200_2011", boxes=False), class_split(root)
    assert [len(classes[part]) for part in ("train", "test")] == [150, 50]
    names = [data.classes[i] for i in data.train.labels.tolist()]
    assert {*names} <= {*classes["train"]}
    assert {data.classes[i] for i in data.test.labels.tolist()} <= {*classes["test"]}
    of = {key: row[0].partition("/")[0] for key, row in lists["images.txt"].items()}
    training = [key for key, name in of.items() if name in classes["train"]]
    kept = [training[i * len(training) // 40] for i in range(40)]
    counts: Counter[str] = Counter()
    for k in range(0, 400, 7):
        name = lists["images.txt"][kept[k // 10]][0]
        line = (root / "text" / name).with_suffix(".txt").read_text().splitlines()[k % 10]
        words, shown = words_of(line), words_of(said(data, "train")[k])
        assert [a for a, b in zip(words[:31], shown, strict=True) if b not in (a, "<unk>")] == []
        assert names[k] == name.partition("/")[0]
        counts.update(words)
    first = root / "CUB_200_2011" / "images" / lists["images.txt"][kept[0]][0]
    original = np.asarray(Image.open(first).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(data.train.views["picture"][0].numpy(), original)  # 64 x 64 already
    assert np.array_equal(read_scaled(first, 64), original)
    with pytest.raises(DataError, match="cut or scaled already; set crop=false"):
        load_dataset("cub", {"folder": str(root), "cache_folder": str(tmp_path), "limit": 5, "crop": True})


@pytest.mark.parametrize(
    ("name", "old", "new", "expected", "crop"),
    [
        ("train_test_split.txt", "1 0\n", "1 yes\n", "got 'yes' for picture 1, expected 1 .training. or 0", False),
        ("images.txt", "1 ", "1 ../", r"got \.\./.*, expected a picture below images", False),
        ("images.txt", "2 ", "1 ", "line 2: got the number 1 again, expected each once", False),
        (
            "bounding_boxes.txt",
            "1 ",
            "1 nan 0.0 5.0 5.0\n99 ",
            "got nan 0.0 5.0 5.0, expected a corner and a size",
            True,
        ),
    ],
)
def test_lists_that_say_what_cannot_be_are_refused(folder, tmp_path, name, old, new, expected, crop):
    file = next(folder.rglob(name))
    text = file.read_text()
    assert text.startswith(old) or f"\n{old}" in text
    file.write_text(new + text[len(old) :] if text.startswith(old) else text.replace(f"\n{old}", f"\n{new}", 1))
    with pytest.raises(DataError, match=expected):
        load(folder, tmp_path / "cache", split="official", crop=crop)


def test_a_picture_that_is_put_in_the_place_of_another_is_read(folder, tmp_path):
    load(folder, tmp_path / "cache")
    file = sorted((folder / "CUB_200_2011" / "images").rglob("*.jpg"))[0]
    size = file.stat().st_size
    Image.new("RGB", (20, 20), (0, 0, 0)).save(file)
    file.write_bytes(file.read_bytes().ljust(size, b"\0")[:size])
    now = file.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(now, now))
    pictures = load(folder, tmp_path / "cache").train.views["picture"]
    assert pictures.double().mean((1, 2, 3)).min() < 5
