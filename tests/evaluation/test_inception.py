import sys

import pytest
import torch
from torch import nn

from multiebm.core.errors import ConfigError
from multiebm.evaluation.frechet import InceptionFeatures, eight_bits, load_inception


def test_absent_weights_are_named_and_fcd_is_said_to_be_another_number(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.pth.*expected an existing file.*not comparable with FID"):
        load_inception(tmp_path / "nowhere.pth")


def test_without_torchmetrics_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ConfigError, match=r'pip install "multiebm\[metrics\]"'):
        load_inception(tmp_path / "weights.pth")


def test_states_become_eight_bit_pictures_and_real_pictures_are_unchanged():
    assert eight_bits(torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(eight_bits(levels.float() * (2 / 255) - 1), levels)


def test_only_rgb_pictures_have_inception_features():
    class Mean(nn.Module):
        def forward(self, x):
            assert x.dtype == torch.uint8
            return x.float().mean((2, 3))

    views = {"rgb": torch.ones(2, 3, 8, 8), "grey": torch.ones(2, 1, 8, 8), "vector": torch.ones(2, 3)}
    features = InceptionFeatures(Mean()).features(views)
    assert list(features) == ["rgb"]
    assert torch.equal(features["rgb"], torch.full((2, 3), 255.0))
