"""PolyDigits: the recipe pixel by pixel, handwriting split, balance, determinism."""

import numpy as np
import pytest
import torch

from multiebm.core.errors import ConfigError
from multiebm.data import load_dataset
from multiebm.data.polydigits import _scikit_digits, digit_masks, draw_tuples, make_backgrounds, split_handwriting
from multiebm.data.recipe import NAMES, invert_inside, random_crops

SMALL = {"train_tuples": 60, "test_tuples": 30}


@pytest.fixture(scope="module")
def digits():
    return _scikit_digits()


def test_inside_the_digit_every_colour_is_255_minus_itself_and_outside_it_is_untouched():
    patches = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 5), dtype=np.uint8)
    masks = np.random.default_rng(1).random((7, 5, 5)) < 0.5
    out = invert_inside(patches, masks)
    expected = np.where(masks[:, None], 255 - patches.astype(int), patches)
    assert out.dtype == np.uint8
    assert np.array_equal(out, expected)


def test_crops_are_windows_of_the_background_with_corners_drawn_uniformly_from_the_official_range():
    background = np.random.default_rng(0).integers(0, 256, (3, 9, 12), dtype=np.uint8)
    crops = random_crops(background, 500, 4, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    top, left = rng.integers(0, 9 - 4, 500), rng.integers(0, 12 - 4, 500)
    assert set(top) == set(range(5))
    assert set(left) == set(range(8))
    for crop, y, x in zip(crops, top, left, strict=True):
        assert np.array_equal(crop, background[:, y : y + 4, x : x + 4])


@pytest.mark.parametrize("size", [16, 28])
def test_tuples_are_the_recipe_pixel_by_pixel(digits, size):
    images, labels = digits
    dataset = load_dataset("polydigits", {"size": size, "seed": 3, **SMALL})
    train_pool, _ = split_handwriting(labels, np.random.default_rng([3, 0]))
    classes, chosen = draw_tuples(labels, train_pool, 60, np.random.default_rng([3, 1, 0]))
    masks, backgrounds = digit_masks(images, size), make_backgrounds(size, 3)
    assert dataset.train.labels.tolist() == classes.tolist()
    for m, name in enumerate(NAMES):
        crops = random_crops(backgrounds[name], 60, size, np.random.default_rng([3, 2, 0, m]))
        inside = masks[chosen[:, m]][:, None]
        expected = np.where(inside, 255 - crops, crops)
        assert np.array_equal(dataset.train.views[name].numpy(), expected)


def test_no_test_digit_is_ever_a_training_digit_and_every_class_is_cut_at_two_thirds(digits):
    _, labels = digits
    train, test = split_handwriting(labels, np.random.default_rng([0, 0]))
    assert (len(train), len(test)) == (1198, 599)
    assert sorted([*train, *test]) == list(range(1797))
    counts = np.bincount(labels)
    assert np.bincount(labels[train]).tolist() == [round(n * 2 / 3) for n in counts]


def test_a_tuple_has_one_class_and_five_different_handwritings_from_the_pool(digits):
    _, labels = digits
    _, pool = split_handwriting(labels, np.random.default_rng(0))
    classes, chosen = draw_tuples(labels, pool, 1000, np.random.default_rng(1))
    assert np.array_equal(labels[chosen], np.repeat(classes[:, None], 5, axis=1))
    assert all(len(set(row)) == 5 for row in chosen.tolist())
    assert set(chosen.ravel().tolist()) == set(pool.tolist())
    assert np.bincount(classes).tolist() == [100] * 10
    assert classes[:20].tolist() != sorted(classes[:20].tolist())


def test_digits_keep_their_shape_when_enlarged(digits):
    """The mean over the enlarged mask is close to the mean ink of the original, and the margin is empty."""
    images, _ = digits
    for size, margin in ((16, 1), (28, 2)):
        masks = digit_masks(images, size)
        assert masks.shape == (1797, size, size)
        inner = masks[:, margin:-margin, margin:-margin]
        assert masks.sum() == inner.sum()
        assert abs(inner.mean() - float(images.mean()) / 16) < 0.02


def test_inversion_leaves_digits_visible_on_every_background():
    """Mean over pixels of the largest channel change |255 - 2 v|: mid-grey would give 0."""
    for name, background in make_backgrounds(16, seed=0).items():
        change = np.abs(255 - 2 * background.astype(int)).max(axis=0)
        assert background.shape[0] == 3
        assert change.mean() > 130, name
        assert (change > 60).mean() > 0.93, name


def test_the_default_data_set_has_the_stated_sizes():
    dataset = load_dataset("polydigits")
    assert (len(dataset.train), len(dataset.test)) == (8000, 2000)
    assert list(dataset.modalities) == list(NAMES)
    assert dataset.n_classes == 10
    for split in (dataset.train, dataset.test):
        assert torch.bincount(split.labels).tolist() == [len(split) // 10] * 10
        assert bool(split.present.all())
        assert all(view.dtype == torch.uint8 and view.shape[1:] == (3, 16, 16) for view in split.views.values())


def test_equal_settings_give_equal_data_and_another_seed_gives_other_data():
    first = load_dataset("polydigits", {"seed": 1, **SMALL})
    again = load_dataset("polydigits", {"seed": 1, **SMALL, "modalities": list(NAMES)})
    assert again is first  # kept in memory
    other = load_dataset("polydigits", {"seed": 2, **SMALL})
    assert other.fingerprint != first.fingerprint
    assert all(not torch.equal(first.train.views[name], other.train.views[name]) for name in NAMES)


def test_a_build_repeats_bit_for_bit():
    from multiebm.data.polydigits import _build

    first = load_dataset("polydigits", {"seed": 1, **SMALL})
    rebuilt = _build.__wrapped__(16, 1, 60, 30, NAMES)
    assert rebuilt.fingerprint == first.fingerprint
    assert all(torch.equal(first.test.views[name], rebuilt.test.views[name]) for name in NAMES)


def test_fewer_modalities_are_the_same_pictures_as_in_the_full_set():
    full = load_dataset("polydigits", {"seed": 1, **SMALL})
    pair = load_dataset("polydigits", {"seed": 1, **SMALL, "modalities": ["m3", "m1"]})
    assert list(pair.modalities) == ["m3", "m1"]
    assert all(torch.equal(pair.train.views[name], full.train.views[name]) for name in ("m3", "m1"))
    assert pair.train.present.shape == (60, 2)


def test_every_bad_setting_is_named_at_once_with_the_fix():
    with pytest.raises(ConfigError) as caught:
        load_dataset("polydigits", {"size": 32, "train_tuples": 0, "modalities": ["m0", "m7"]})
    size, tuples, names = caught.value.problems
    assert size == "polydigits.size: got 32, expected 16 or 28 pixels; use one of them"
    assert tuples == "polydigits.train_tuples: got 0, expected at least 1; raise it"
    assert "got ['m0', 'm7'], expected one to five different names of m0, m1, m2, m3, m4" in names
