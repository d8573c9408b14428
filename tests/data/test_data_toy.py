"""toy2d: corners, noise and class reading are exact."""

import math

import pytest
import torch

from multiebm.core.errors import ConfigError
from multiebm.data import load_dataset
from multiebm.data.toy import TOY2D_CENTROIDS, toy2d_classes, toy2d_distances


def test_centroids_are_the_corners_of_a_square_permuted_in_the_second_modality():
    corners = {(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)}
    a, b = (list(map(tuple, TOY2D_CENTROIDS[name].tolist())) for name in ("a", "b"))
    assert set(a) == set(b) == corners
    assert all(x != y for x, y in zip(a, b, strict=True))


def test_classes_are_read_off_exactly_and_balanced():
    dataset = load_dataset("toy2d")
    for split in (dataset.train, dataset.test):
        read = toy2d_classes(split.views)
        assert torch.equal(read["a"], split.labels)
        assert torch.equal(read["b"], split.labels)
        assert read["a"].dtype == torch.int64
        assert torch.bincount(split.labels).tolist() == [len(split) // 4] * 4


def test_the_mean_distance_to_the_centroid_is_that_of_the_noise():
    """Rayleigh mean 0.05 sqrt(pi / 2) = 0.0627; tolerance 4 standard errors of 10,000 draws (false alarm < 1e-4)."""
    distances = toy2d_distances(load_dataset("toy2d").train.views)
    error = 4 * 0.05 * math.sqrt((2 - math.pi / 2) / 10_000)
    for values in distances.values():
        assert abs(values.mean().item() - 0.05 * math.sqrt(math.pi / 2)) < error


def test_the_state_is_the_raw_value():
    dataset = load_dataset("toy2d", {"train_items": 40, "test_items": 8})
    batch = dataset.batch("train", torch.arange(40))
    assert all(torch.equal(batch.views[name], dataset.train.views[name]) for name in ("a", "b"))
    assert dataset.modalities["a"].loc == ()


def test_the_seed_decides_everything():
    small = {"train_items": 40, "test_items": 8}
    first, again, other = (load_dataset("toy2d", {**small, "seed": seed}) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(first.train.views["a"], again.train.views["a"])


def test_counts_below_one_are_named_together():
    with pytest.raises(ConfigError) as caught:
        load_dataset("toy2d", {"train_items": 0, "test_items": -1})
    assert caught.value.problems == [
        "toy2d.train_items: got 0, expected at least 1; raise it",
        "toy2d.test_items: got -1, expected at least 1; raise it",
    ]
