"""Blocks, encoders and decoders: shapes, and the formulas they are named after."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from multiebm.nn.blocks import EnergyBlock, ResidualBlock, mlp
from multiebm.nn.pictures import PictureDecoder, PictureEncoder


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 6), (6, 4), (4, 4)])
def test_a_residual_block_is_its_shortcut_plus_r_times_its_branch(n_in, n_out):
    x = torch.randn(2, n_in, 5, 5)
    block = ResidualBlock(n_in, n_out, 0.3)
    branch = block.c1(F.leaky_relu(block.c0(F.leaky_relu(x, 0.2)), 0.2))
    shortcut = x if n_in == n_out else F.conv2d(x, block.shortcut.weight)
    torch.testing.assert_close(block(x), shortcut + 0.3 * branch)
    assert block.c0.out_channels == min(n_in, n_out)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("size", [6, 7])
def test_an_energy_block_follows_section_2_1(head, down, size):
    """Main: [ReLU if not head], conv, ReLU, conv, [pool]; skip: 1x1 conv, then pool, which commutes with it."""
    x = torch.randn(2, 4, size, size)
    block = EnergyBlock(4, 5, down=down, head=head).eval()
    main = F.conv2d(x if head else F.relu(x), block.c0.weight, padding=1)
    main = F.conv2d(F.relu(main), block.c1.weight, padding=1)
    skip = F.conv2d(x, block.skip.weight)
    expected = F.avg_pool2d(main, 2) + F.avg_pool2d(skip, 2) if down else main + skip
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert all(p.dim() == 4 for p in block.parameters())  # no biases


def test_an_energy_block_of_one_width_skips_by_identity():
    block = EnergyBlock(4, 4).eval()
    assert isinstance(block.skip, nn.Identity)
    torch.testing.assert_close(block(-torch.ones(1, 4, 3, 3)), -torch.ones(1, 4, 3, 3))  # ReLU closes the branch


def test_an_mlp_has_its_activation_between_layers_and_not_after_the_last():
    net = mlp([3, 5, 2], nn.ReLU())
    x = torch.randn(7, 3)
    torch.testing.assert_close(net(x), net[2](F.relu(net[0](x))))
    assert len(net) == 3
    assert mlp([3, 1], nn.ReLU(), last_bias=False)[0].bias is None


def test_the_published_encoder_has_12544_features():
    """Width 64 at 28 pixels: maps 28-14-7, channels 64-128-256 (MMVAE+)."""
    encoder = PictureEncoder((3, 28, 28), 64, 1, 0.1)
    assert encoder.n_features == 256 * 7 * 7 == 12544
    assert encoder(torch.zeros(1, 3, 28, 28)).shape == (1, 12544)


@pytest.mark.parametrize(("size", "patch"), [(28, 1), (28, 2), (16, 1), (16, 2), (16, 4), (7, 1), (8, 1)])
def test_encoders_and_decoders_fit_every_size(size, patch):
    x = torch.zeros(2, 3, size, size)
    encoder = PictureEncoder((3, size, size), 4, patch, 0.5)
    assert encoder(x).shape == (2, encoder.n_features)
    decoder = PictureDecoder(6, (3, size, size), 4, patch, 0.5, bounded=True)
    assert decoder(torch.zeros(2, 6)).shape == x.shape


def test_a_bounded_decoder_ends_in_tanh_and_is_otherwise_the_same():
    bounded = PictureDecoder(6, (1, 8, 8), 4, 1, 0.5, bounded=True)
    free = PictureDecoder(6, (1, 8, 8), 4, 1, 0.5, bounded=False)
    free.load_state_dict(bounded.state_dict())
    z = 50 * torch.randn(5, 6)
    torch.testing.assert_close(bounded(z), free(z).tanh())
    assert free(z).abs().max() > 1
