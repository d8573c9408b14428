"""PolyMNIST: the official recipe re-computed tuple by tuple, the official folders, and what is said when files lack."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiebm.core.errors import ConfigError, DataError
from multiebm.data import load_dataset
from multiebm.data.polymnist import SEED, area_weights, mnist_files, read_idx, read_picture, resize, round_order
from multiebm.data.recipe import NAMES

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
STEMS = {"train": "train", "test": "t10k"}


def write_idx(path, values):
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_mnist(folder, pictures, suffix=".gz"):
    folder.mkdir()
    for split, (images, labels) in pictures.items():
        write_idx(folder / f"{STEMS[split]}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{STEMS[split]}-labels-idx1-ubyte{suffix}", labels)
    return folder


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 50), ("test", 20)):
        labels = rng.permutation(np.r_[np.arange(n) % 10, [3, 3, 7]])  # classes of different sizes
        made[split] = (rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels.astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def sources(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    (root / "backgrounds").mkdir()
    rng = np.random.default_rng(1)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (33, 40, 3), dtype=np.uint8)).save(root / "backgrounds" / f"{name}.jpg")
    mnist = write_mnist(root / "mnist", pictures)
    cache = root / "cache"
    return {"mnist_folder": str(mnist), "backgrounds_folder": str(root / "backgrounds"), "cache_folder": str(cache)}


@pytest.fixture(scope="module")
def built(sources):
    return load_dataset("polymnist", sources)


@pytest.mark.parametrize("split", ["train", "test"])
def test_tuples_are_the_official_recipe_pixel_by_pixel(built, sources, pictures, split):
    images, labels = pictures[split]
    rows = built.split(split)
    for m, name in enumerate(NAMES):
        background = read_picture(Path(sources["backgrounds_folder"]) / f"{name}.jpg")
        rng = np.random.default_rng([SEED, ("train", "test").index(split), m])
        order = {d: rng.permutation(np.flatnonzero(labels == d)) for d in range(10)}
        keys = sorted((i, d) for d in range(10) for i in range(len(order[d])))
        top, left = rng.integers(0, 33 - 28, len(keys)), rng.integers(0, 40 - 28, len(keys))
        for row, (i, d) in enumerate(keys):
            crop = background[:, top[row] : top[row] + 28, left[row] : left[row] + 28]
            inside = images[order[d][i]] > 128  # on the 0..255 scale
            assert rows.labels[row] == d
            assert np.array_equal(rows.views[name][row].numpy(), np.where(inside, 255 - crop, crop))


def test_the_threshold_is_128_on_the_scale_of_255(tmp_path, sources):
    """A picture of 128 everywhere is all background, one of 129 is inverted everywhere."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), 2)
    images = np.repeat(np.array([128, 129] * 10, dtype=np.uint8)[:, None, None], 28, 1).repeat(28, 2)
    mnist = write_mnist(tmp_path / "mnist", {"train": (images, labels), "test": (images, labels)})
    for name in NAMES:
        Image.new("RGB", (30, 30), (200, 200, 200)).save(tmp_path / f"{name}.jpg")
    settings = {"mnist_folder": str(mnist), "backgrounds_folder": str(tmp_path), "cache_folder": str(tmp_path / "c")}
    dataset = load_dataset("polymnist", settings)
    for view in dataset.train.views.values():
        values = view.flatten(1)
        assert bool((values == values[:, :1]).all())
        assert sorted(values[:, 0].tolist()) == [55] * 10 + [200] * 10


def test_labels_are_equal_over_modalities_and_class_counts_are_those_of_mnist(built, pictures):
    for split in ("train", "test"):
        rows, labels = built.split(split), pictures[split][1]
        assert torch.bincount(rows.labels).tolist() == np.bincount(labels).tolist()
        assert rows.present.shape == (len(labels), 5)
        assert bool(rows.present.all())


def test_handwriting_differs_over_modalities(pictures):
    """Permutations are independent per modality: tuples in which all five agree are as rare as chance has it."""
    labels = np.repeat(np.arange(10, dtype=np.uint8), 100)
    orders = np.stack([round_order(labels, np.random.default_rng([SEED, 0, m])) for m in range(5)])
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert np.array_equal(labels[orders], np.tile(np.arange(10), (5, 100)))
    equal_pairs = np.mean([(orders[a] == orders[b]).mean() for a in range(5) for b in range(a)])
    assert equal_pairs < 0.02  # expected 1 / 100


def test_the_first_tuples_are_balanced_and_limit_keeps_them(built, sources):
    few = load_dataset("polymnist", {**sources, "limit": 20})
    assert (len(few.train), len(few.test)) == (20, 20)
    assert few.train.labels.tolist() == list(range(10)) * 2
    assert all(torch.equal(few.train.views[name], built.train.views[name][:20]) for name in NAMES)
    assert few.fingerprint != built.fingerprint


def test_a_subset_of_modalities_is_the_same_pictures(built, sources):
    pair = load_dataset("polymnist", {**sources, "modalities": ["m4", "m0"]})
    assert list(pair.modalities) == list(pair.train.views) == ["m4", "m0"]
    assert torch.equal(pair.test.views["m4"], built.test.views["m4"])


def test_the_small_version_is_the_centre_of_the_finished_picture_averaged_over_areas(built, sources):
    small = load_dataset("polymnist", {**sources, "size": 16})
    assert small.modalities["m0"].shape == (3, 16, 16)
    for row in range(5):
        centre = built.train.views["m1"][row, :, 2:26, 2:26].double().numpy()
        # 1.5 source pixels a target pixel: enlarge 2 times by repetition, then average blocks of 3 x 3.
        blocks = centre.repeat(2, 1).repeat(2, 2).reshape(3, 16, 3, 16, 3).mean((2, 4))
        assert np.abs(small.train.views["m1"][row].numpy() - blocks).max() <= 0.5 + 1e-4


def test_area_weights_are_shares_of_source_pixels():
    expected = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(area_weights(3, 2), expected, atol=1e-12)
    np.testing.assert_allclose(area_weights(24, 16).sum(1), 1, atol=1e-12)
    flat = np.full((2, 3, 28, 28), 173, dtype=np.uint8)
    assert np.array_equal(resize(flat, 16), np.full((2, 3, 16, 16), 173, dtype=np.uint8))


def test_plain_and_gzipped_idx_files_give_the_same_data(tmp_path, built, sources, pictures):
    plain = write_mnist(tmp_path / "plain", pictures, suffix="")
    dataset = load_dataset("polymnist", {**sources, "mnist_folder": str(plain), "cache_folder": str(tmp_path / "c")})
    assert dataset.fingerprint == built.fingerprint
    assert torch.equal(dataset.train.views["m2"], built.train.views["m2"])


def test_a_damaged_cache_is_rebuilt_to_the_same_data(built, sources, tmp_path, caplog):
    settings = {**sources, "cache_folder": str(tmp_path)}
    load_dataset("polymnist", settings)
    (path,) = tmp_path.glob("polymnist-*/train-m3.npy")
    content = bytearray(path.read_bytes())
    content[500] ^= 255
    path.write_bytes(bytes(content))
    again = load_dataset("polymnist", settings)
    assert "train-m3.npy: damaged: got sha256" in caplog.text
    assert again.fingerprint == built.fingerprint
    assert all(torch.equal(again.train.views[name], built.train.views[name]) for name in NAMES)


# The official folders


def write_official(folder, dataset):
    for split in ("train", "test"):
        rows, seen = dataset.split(split), {}
        for row, label in enumerate(rows.labels.tolist()):
            i = seen[label] = seen.get(label, -1) + 1
            for name in NAMES:
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                picture = rows.views[name][row].numpy().transpose(1, 2, 0)
                Image.fromarray(picture).save(folder / split / name / f"{i}.{label}.png")


@pytest.fixture
def official(tmp_path, built):
    write_official(tmp_path / "PolyMNIST", built)
    return {"folder": str(tmp_path / "PolyMNIST"), "cache_folder": str(tmp_path / "cache")}


def test_the_official_folders_are_read_back_exactly(official, built):
    dataset = load_dataset("polymnist", official)
    for split in ("train", "test"):
        rows, expected = dataset.split(split), built.split(split)
        assert torch.equal(rows.labels, expected.labels)
        assert all(torch.equal(rows.views[name], expected.views[name]) for name in NAMES)
    small = load_dataset("polymnist", {**official, "size": 16})
    assert np.array_equal(small.test.views["m0"].numpy(), resize(built.test.views["m0"].numpy(), 16))


def test_files_are_ordered_by_number_not_by_name(tmp_path, official):
    """10.0.png comes after 2.0.png."""
    folder = Path(official["folder"])
    for split in ("train", "test"):
        for name in NAMES:
            for i in (2, 10):
                Image.new("RGB", (28, 28), (i, i, i)).save(folder / split / name / f"{i}.0.png")
    zeros = load_dataset("polymnist", official).train
    firsts = zeros.views["m0"][zeros.labels == 0][:, 0, 0, 0].tolist()
    assert firsts[2] == 2
    assert firsts[-1] == 10


def test_a_tuple_with_a_picture_missing_in_one_modality_is_named(official):
    (Path(official["folder"]) / "train" / "m2" / "1.4.png").unlink()
    with pytest.raises(DataError, match=r"got no file 1\.4\.png in m2, expected one as in m0 \(1 such files\); unpack"):
        load_dataset("polymnist", official)


def test_an_extra_picture_in_one_modality_is_named(official):
    Image.new("RGB", (28, 28)).save(Path(official["folder"]) / "test" / "m3" / "99.1.png")
    with pytest.raises(DataError, match=r"got no file 99\.1\.png in m0, expected one as in m3"):
        load_dataset("polymnist", official)


def test_a_picture_of_another_size_is_named_with_its_shape(official):
    Image.new("RGB", (32, 32)).save(Path(official["folder"]) / "train" / "m1" / "0.0.png")
    with pytest.raises(DataError, match=r"m1/0\.0\.png: got 32x32 pixels of mode RGB, expected .* 28x28 pixels; point"):
        load_dataset("polymnist", official)


def test_a_damaged_picture_is_named(official):
    path = Path(official["folder"]) / "train" / "m1" / "0.0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"m1/0\.0\.png: got .*, expected a PNG picture; unpack"):
        load_dataset("polymnist", official)


def test_a_picture_with_a_strange_name_is_named(official):
    Image.new("RGB", (28, 28)).save(Path(official["folder"]) / "train" / "m1" / "copy.png")
    with pytest.raises(DataError, match=r"got file copy\.png, expected names \{i\}\.\{digit\}\.png only; remove it"):
        load_dataset("polymnist", official)


def test_a_missing_folder_is_named_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"got no folder .*nowhere/train/m0, expected .* unpack the official archive"):
        load_dataset("polymnist", {"folder": str(tmp_path / "nowhere")})


# Sources of the recipe that lack or are damaged


def test_a_missing_idx_file_is_named_with_what_to_do(tmp_path, sources):
    with pytest.raises(DataError, match="got no file .*train-images-idx3-ubyte.gz .*set mnist_folder"):
        load_dataset("polymnist", {**sources, "mnist_folder": str(tmp_path)})


def test_a_missing_background_is_named_with_what_to_do(tmp_path, sources):
    with pytest.raises(DataError, match="background of m0: got no file .*m0.jpg, expected .*; put five pictures"):
        load_dataset("polymnist", {**sources, "backgrounds_folder": str(tmp_path)})


def test_a_background_that_is_too_small_is_refused(tmp_path, sources):
    for name in NAMES:
        Image.new("RGB", (28, 60)).save(tmp_path / f"{name}.jpg")
    settings = {**sources, "backgrounds_folder": str(tmp_path), "cache_folder": str(tmp_path / "c")}
    with pytest.raises(DataError, match="got a picture of 60x28 pixels, expected more than 28 on each side; supply"):
        load_dataset("polymnist", settings)


def test_a_background_that_is_no_picture_is_named(tmp_path, sources):
    for name in NAMES:
        (tmp_path / f"{name}.jpg").write_text("not a picture")
    settings = {**sources, "backgrounds_folder": str(tmp_path), "cache_folder": str(tmp_path / "c")}
    with pytest.raises(DataError, match="m0.jpg: got .*, expected a picture file; replace it"):
        load_dataset("polymnist", settings)


def test_pictures_that_are_made_to_do_damage_are_refused_by_their_headers(official, tmp_path):
    huge = tmp_path / "huge.png"
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(DataError, match="huge.png: got .*decompression bomb.*, expected a picture file; replace it"):
        read_picture(huge)
    (Path(official["folder"]) / "train" / "m1" / "0.0.png").write_bytes(huge.read_bytes())
    with pytest.raises(DataError, match="0.0.png: got .*decompression bomb.*unpack the archive again"):
        load_dataset("polymnist", official)


def test_folders_that_cannot_be_read_are_named(official, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(DataError, match="polymnist: got .*m0, which cannot be read .Permission denied.; make it"):
        load_dataset("polymnist", official)


def test_damaged_idx_files_are_named(tmp_path):
    path = tmp_path / "a-ubyte.gz"
    write_idx(path, np.zeros((4, 2, 2)))
    assert read_idx(path).shape == (4, 2, 2)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="got a damaged gzip file .*; download it again"):
        read_idx(path)
    plain = tmp_path / "b-ubyte"
    write_idx(plain, np.zeros((4, 2, 2)))
    plain.write_bytes(plain.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"got 31 bytes, expected 32 for shape \(4, 2, 2\); the file is truncated"):
        read_idx(plain)
    plain.write_bytes(b"\0\0\x08\3" + b"\xff" * 12)
    with pytest.raises(DataError, match=r"got 16 bytes, expected 79228162458924105385300197391 for shape"):
        read_idx(plain)
    plain.write_bytes(b"\0\0\x08\3\0")
    with pytest.raises(DataError, match=r"got 5 bytes, expected 16 for shape \(0, 0, 0\)"):
        read_idx(plain)
    with pytest.raises(DataError, match="cannot be read .*; make it a readable file"):
        read_idx(tmp_path)
    plain.write_bytes(b"<html>")
    with pytest.raises(DataError, match="got first bytes 3c68746d, expected 000008xx of an idx file; download"):
        read_idx(plain)


def test_pictures_and_labels_that_do_not_match_are_refused(tmp_path, sources, pictures):
    wrong = {"train": (pictures["train"][0], pictures["train"][1][:-1]), "test": pictures["test"]}
    mnist = write_mnist(tmp_path / "mnist", wrong)
    settings = {**sources, "mnist_folder": str(mnist), "cache_folder": str(tmp_path / "c")}
    with pytest.raises(DataError, match=r"got pictures of shape \(53, 28, 28\) and labels of shape \(52,\), expected"):
        load_dataset("polymnist", settings)


def test_settings_that_do_not_say_where_the_data_is_are_refused():
    with pytest.raises(ConfigError) as caught:
        load_dataset("polymnist", {"size": 20, "limit": 0})
    size, limit, where = caught.value.problems
    assert size == "polymnist.size: got 20, expected 16 or 28 pixels; use one of them"
    assert limit == "polymnist.limit: got 0, expected at least 1; raise it"
    assert "got folder=None, mnist_folder=None, backgrounds_folder=None; expected either folder" in where
    with pytest.raises(ConfigError, match="backgrounds_folder: got nothing, expected a folder; building needs both"):
        load_dataset("polymnist", {"mnist_folder": "somewhere"})


# Real MNIST


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not (REAL / "mnist").is_dir():
        pytest.skip(f"no real MNIST at {REAL / 'mnist'}")
    root = tmp_path_factory.mktemp("real")
    files = mnist_files(REAL / "mnist")
    images, labels = read_idx(files["test-images"]), read_idx(files["test-labels"])
    mnist = write_mnist(
        root / "mnist", {"train": (images[:300], labels[:300]), "test": (images[300:400], labels[300:400])}
    )
    settings = {"mnist_folder": str(mnist), "backgrounds_folder": str(REAL / "backgrounds")}
    return images, labels, load_dataset("polymnist", {**settings, "cache_folder": str(root / "cache")})


def test_real_mnist_is_complete(real):
    images, labels, _ = real
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_real_digits_are_where_their_own_ink_is_above_half(real):
    """The mean background of a tuple is inverted exactly on the ink: on m3 (night sky) ink comes out brighter."""
    images, labels, dataset = real
    order = round_order(labels[:300], np.random.default_rng([SEED, 0, 3]))
    assert dataset.train.labels.tolist() == labels[order].tolist()
    inside = torch.from_numpy(images[order] > 128)
    brightness = dataset.train.views["m3"].float().mean(1)
    assert brightness[inside].mean() > 2 * brightness[~inside].mean()
