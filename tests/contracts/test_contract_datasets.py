"""Every shipped data set does what a data set has to do, and one that a package adds proves itself the same way."""

import sys
from importlib import invalidate_caches

import numpy as np
import pytest
from PIL import Image

from multiebm.data import DATASETS, load_dataset
from multiebm.testing import DatasetContract
from small_downloads import write_coco, write_cub, write_mnist_svhn, write_tuxpaint

DRAWS = np.random.default_rng(0)
OUTSIDE = """
from __future__ import annotations

from multiebm.data import MultimodalDataset, from_arrays
from multiebm.data.toy import load_toy2d


def load(items: int = 12, seed: int = 0) -> MultimodalDataset:
    rows = load_toy2d(items, 4, seed).train
    return from_arrays(rows.views, {name: {"kind": "vector"} for name in rows.views}, rows.labels, name="outside")
"""


class TestToy2d(DatasetContract):
    name, settings = "toy2d", {"train_items": 12, "test_items": 8}


class TestShapes(DatasetContract):
    name, settings = "shapes", {"train_items": 30, "test_items": 10}


class TestPolydigits(DatasetContract):
    name, settings = "polydigits", {"train_tuples": 20, "test_tuples": 10}


class TestArrays(DatasetContract):
    name, settings = (
        "arrays",
        {
            "modalities": {"photo": {"kind": "picture", "layout": "hwc"}, "sound": {"kind": "vector"}},
            "arrays": {
                "photo": DRAWS.integers(0, 256, (20, 4, 5, 3), dtype=np.uint8),
                "sound": np.where(np.arange(20)[:, None] % 4 == 0, np.nan, DRAWS.normal(3, 9, (20, 2))),
                "labels": np.array(["cat", "dog"] * 9 + [None, None], dtype=object),
                "present_sound": np.arange(20) % 4 != 0,
            },
        },
    )


class TestPolymnist(DatasetContract):
    name = "polymnist"

    @pytest.fixture(autouse=True)
    def small_folder(self, tmp_path):
        for split in ("train", "test"):
            for name in ("m0", "m1", "m2", "m3", "m4"):
                (tmp_path / split / name).mkdir(parents=True)
                for i in range(12):
                    pixels = DRAWS.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.{i % 10}.png")
        self.settings = {"folder": str(tmp_path), "cache_folder": str(tmp_path / "cache"), "size": 16}


class TestMnistSvhn(DatasetContract):
    name = "mnist_svhn"

    @pytest.fixture(autouse=True)
    def small_folder(self, tmp_path):
        write_mnist_svhn(tmp_path, list(range(10)), [10, *range(1, 10)])
        self.settings = {"folder": str(tmp_path), "cache_folder": str(tmp_path / "cache"), "pairings": 3}


class TestCub(DatasetContract):
    name = "cub"

    @pytest.fixture(autouse=True)
    def small_folder(self, tmp_path):
        write_cub(tmp_path)
        self.settings = {"folder": str(tmp_path), "cache_folder": str(tmp_path / "cache"), "size": 16}


class TestCoco(DatasetContract):
    name = "coco"

    @pytest.fixture(autouse=True)
    def small_folder(self, tmp_path):
        write_coco(tmp_path)
        self.settings = {"folder": str(tmp_path), "cache_folder": str(tmp_path / "cache"), "size": 16}


class TestTuxpaint(DatasetContract):
    name = "tuxpaint"

    @pytest.fixture(autouse=True)
    def small_folder(self, tmp_path):
        write_tuxpaint(tmp_path)
        self.settings = {"folder": str(tmp_path), "cache_folder": str(tmp_path / "cache"), "size": 16}


def test_a_package_adds_a_data_set_that_loads_by_name_and_proves_itself(tmp_path, monkeypatch):
    (tmp_path / "outside_set.py").write_text(OUTSIDE)
    info = tmp_path / "outside_set-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-set\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[multiebm.datasets]\noutside = outside_set:load\n")
    assert "outside" not in DATASETS
    monkeypatch.delitem(vars(DATASETS), "_entries")  # looked up once a process
    monkeypatch.syspath_prepend(str(tmp_path))
    invalidate_caches()
    assert len(load_dataset("outside", {"items": 20}).train) == 16
    outside = type("TestOutside", (DatasetContract,), {"name": "outside"})()
    for method in dir(outside):
        if method.startswith("test_"):
            getattr(outside, method)()
    sys.modules.pop("outside_set")
