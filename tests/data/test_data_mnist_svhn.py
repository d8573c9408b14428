"""MNIST-SVHN: pairs of one class by the published recipe, from the official files, and what is said when these lack."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multiebm.core.errors import ConfigError, DataError
from multiebm.data import load_dataset
from multiebm.data.mnist_svhn import divided, pairs, read_svhn
from multiebm.data.polymnist import mnist_files, read_mnist
from small_downloads import real, write_mnist_svhn, write_svhn

DIGITS = [d for d in range(10) for _ in range(4)]
NUMBERS = [10, 10, 1, 1, 1, *range(2, 10)] * 2


@pytest.fixture
def folder(tmp_path):
    return write_mnist_svhn(tmp_path / "files", DIGITS, NUMBERS)


def load(folder: Path | str, cache: Path, **settings):
    return load_dataset("mnist_svhn", {"folder": str(folder), "cache_folder": str(cache), **settings})


def test_every_pair_shares_its_class_and_their_number_is_that_of_the_formula(folder, tmp_path):
    """N = d sum_c min(MNIST_c, SVHN_c): of MNIST 4 each, of SVHN 4 zeros, 6 ones and 2 of each other."""
    data = load(folder, tmp_path / "cache", pairings=5)
    for rows in (data.train, data.test):
        assert len(rows) == 5 * (4 + 4 + 8 * 2)
        assert torch.bincount(rows.labels).tolist() == [20, 20, *[10] * 8]
        digit, number = (rows.of(name)[0][:, 0, 0, 0].tolist() for name in ("mnist", "svhn"))
        assert [DIGITS[i] for i in digit] == rows.labels.tolist()
        assert [NUMBERS[i] % 10 for i in number] == rows.labels.tolist()  # 10 stands for 0


def test_only_the_first_pictures_of_a_class_are_matched_each_once_a_matching():
    rng = np.random.default_rng(0)
    found = pairs(np.zeros(5, np.int64), np.zeros(3, np.int64), 4, rng)
    for rows in found.values():
        matchings = rows.reshape(4, 3)
        assert np.sort(matchings, 1).tolist() == [[0, 1, 2]] * 4
    other = pairs(np.zeros(5, np.int64), np.zeros(3, np.int64), 4, np.random.default_rng(1))
    assert not np.array_equal(found["svhn"], other["svhn"])  # at random


def test_the_sizes_of_the_whole_sets_are_the_published_ones():
    """By their known class counts: 56,068 to train, times 30."""
    mnist = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    svhn = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]
    labels = [np.repeat(np.arange(10), counts) for counts in (mnist, svhn)]
    assert len(pairs(*labels, 30, np.random.default_rng(0))["mnist"]) == 1_682_040


def test_pictures_are_stored_once_and_channels_are_in_order(folder, tmp_path):
    data = load(folder, tmp_path / "cache")
    assert data.train.views["svhn"].shape == (len(NUMBERS), 3, 32, 32)
    assert data.train.views["mnist"].shape == (len(DIGITS), 1, 28, 28)
    assert data.train.views["svhn"][3, :, 5, 7].tolist() == [10, 20, 30]
    batch = data.batch("train", torch.tensor([7, 0]))
    expected = data.train.of("svhn")[0][[7, 0]] / 127.5 - 1
    torch.testing.assert_close(batch.views["svhn"], expected)


def test_limit_keeps_the_first_pairs_which_are_balanced(folder, tmp_path):
    every, few = load(folder, tmp_path / "cache"), load(folder, tmp_path / "cache", limit=20)
    assert torch.bincount(few.train.labels).tolist() == [2] * 10
    assert all(torch.equal(few.train.at[name], every.train.at[name][:20]) for name in few.train.at)


def test_a_cache_that_is_there_gives_what_building_gives(folder, tmp_path):
    built, again = (load(folder, tmp_path / "cache") for _ in range(2))
    anew = load(folder, tmp_path / "other")
    assert built.fingerprint == again.fingerprint == anew.fingerprint
    assert torch.equal(again.test.of("svhn")[0], anew.test.of("svhn")[0])


def test_without_a_test_file_pictures_are_held_out_only_where_asked_and_disjoint(tmp_path):
    folder = write_mnist_svhn(tmp_path / "files", DIGITS, NUMBERS, test=False)
    with pytest.raises(DataError, match=r"got no file .*test_32x32.mat, expected .* or set held_out=0.2 to hold out"):
        load(folder, tmp_path / "cache")
    data = load(folder, tmp_path / "cache", held_out=0.5)
    seen, held = ({*rows.of("svhn")[0][:, 0, 0, 0].tolist()} for rows in (data.train, data.test))
    assert seen | held <= {*range(len(NUMBERS))}
    assert not seen & held
    assert torch.bincount(data.test.labels).tolist() == [60, 90, *[30] * 8]


def test_held_out_pictures_are_the_last_of_each_class_at_least_one_and_not_all():
    found = divided(np.arange(7), np.array([0, 0, 0, 0, 1, 1, 2]), 0.4)
    assert {name: rows.tolist() for name, (rows, _) in found.items()} == {"train": [0, 1, 4, 6], "test": [2, 3, 5]}


def test_a_share_is_refused_where_there_is_a_test_file_and_outside_its_range(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"held_out: got 0.5, expected none where there is .*test_32x32.mat; leave"):
        load(folder, tmp_path / "cache", held_out=0.5)
    with pytest.raises(ConfigError) as caught:
        load(folder, tmp_path / "cache", held_out=1.0, pairings=0, limit=0)
    assert len(caught.value.problems) == 3


def test_missing_and_damaged_files_are_named(folder, tmp_path):
    path = folder / "svhn" / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"train_32x32.mat: got .*, expected MATLAB's X and y; download it again"):
        load(folder, tmp_path / "cache")
    path.write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(DataError, match=r"train_32x32.mat: got .*, expected MATLAB's X and y; download it again"):
        load(folder, tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match=r"SVHN: got no file .*train_32x32.mat, expected .* or set folder"):
        load(folder, tmp_path / "cache")
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"got no file .*t10k-labels.*; put them there, or set folder to the folder"):
        load(folder, tmp_path / "cache")


def test_labels_that_are_no_digits_are_refused(tmp_path):
    write_svhn(tmp_path / "odd.mat", [0, 1, 2])
    with pytest.raises(DataError, match=r"odd.mat: got X uint8 .* 3 labels y, expected .* labels 1 to 10; download"):
        read_svhn(tmp_path / "odd.mat")


def test_the_real_sample_has_its_known_classes_and_pairs(tmp_path):
    folder = real("svhn")
    pictures, labels = read_svhn(Path(folder) / "train_32x32.mat")
    assert np.bincount(labels).tolist() == [13, 57, 41, 44, 34, 27, 18, 17, 20, 17]
    assert pictures.std((0, 2, 3)).min() > 30  # real photographs, whose channels are alike
    assert np.corrcoef(pictures[:, 0].ravel(), pictures[:, 2].ravel())[0, 1] > 0.8
    data = load(Path(real("mnist")).parent, tmp_path, held_out=0.2, pairings=2)
    assert len(data.train) == 2 * (288 - len(data.test) // 2)
    digits = read_mnist(mnist_files(Path(real("mnist"))), "train")[1]
    assert digits[data.train.at["mnist"].numpy()].tolist() == data.train.labels.tolist()
