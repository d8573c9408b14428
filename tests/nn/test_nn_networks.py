"""Blocks, encoders and decoders: shapes, and the formulas they are named after."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from multiebm.modalities import Picture, PictureNetworks
from multiebm.nn.blocks import EnergyBlock, ResidualBlock, mlp
from multiebm.nn.pictures import conv_decoder, conv_encoder, resnet_decoder, resnet_encoder


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


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 6), (6, 4), (4, 4)])
def test_a_residual_block_that_doubles_is_the_same_block_on_a_doubled_map(n_in, n_out):
    x = torch.randn(2, n_in, 3, 5)
    block, plain = ResidualBlock(n_in, n_out, 0.3, up=True), ResidualBlock(n_in, n_out, 0.3)
    plain.load_state_dict(block.state_dict())
    torch.testing.assert_close(block(x), plain(x.repeat_interleave(2, 2).repeat_interleave(2, 3)))


@pytest.mark.parametrize("size", [28, 14, 8, 13])
def test_a_decoder_doubles_its_maps_up_to_the_size_of_the_picture(size):
    """14 pixels pass a map of 7, which is no double of 4: the same network on upsampled maps."""
    decoder = resnet_decoder(5, (3, size, size), 4, bounded=False)
    x = decoder.linear(z := torch.randn(2, 5)).unflatten(1, decoder.first)
    x, maps = F.leaky_relu(x, 0.2), [size, (size + 1) // 2]
    blocks = [layer for layer in decoder.net if isinstance(layer, ResidualBlock)]
    for block, to in zip(blocks, [None, maps[1], maps[0]], strict=True):
        plain = ResidualBlock(block.c0.in_channels, block.c1.out_channels, 0.7)
        plain.load_state_dict(block.state_dict())
        x = plain(x if to is None else F.interpolate(x, size=(to, to)))
    torch.testing.assert_close(decoder(z), decoder.net[-2:](x))


@pytest.mark.parametrize("size", [28, 27, 16])
def test_plain_decoders_make_odd_maps_as_transposed_convolutions_do(size):
    decoder = conv_decoder(5, (3, size, size), 4, bounded=False)
    x = decoder.linear(z := torch.randn(2, 5)).unflatten(1, decoder.first)
    ups = [layer for layer in decoder.net if isinstance(layer, nn.ConvTranspose2d)]
    for up, to in zip(ups, [(size + 3) // 4, (size + 1) // 2, size], strict=True):
        more = to - (2 * x.shape[-1] - 1)
        x = F.conv_transpose2d(F.relu(x), up.weight, up.bias, 2, 1, more)
    assert x.shape == (2, 3, size, size)
    torch.testing.assert_close(decoder(z), x)


def test_published_resnets_have_no_activation_beside_their_linear_layers():
    """Section 2.3 of the specification of baselines: a trunk, two heads; Linear, blocks, activation, convolution."""
    part = Picture("m", (3, 8, 8))
    x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    bare, own = (part.encoder(6, PictureNetworks(kind, 4)) for kind in ("mmvaeplus", "resnet"))
    assert (bare[0].net[1].residual, own[0].net[1].residual) == (0.1, 0.7)
    own.load_state_dict(bare.state_dict())
    own[0] = bare[0]
    torch.testing.assert_close(bare(x), bare[2](bare[0](x)))
    torch.testing.assert_close(own(x), bare[2](F.leaky_relu(bare[0](x), 0.2)))
    bare, own = (part.decoder(5, PictureNetworks(kind, 4, bounded=False)) for kind in ("mmvaeplus", "resnet"))
    assert (bare.net[0].residual, own.net[0].residual) == (0.1, 0.7)
    own.load_state_dict(bare.state_dict())
    own.net = bare.net
    first = bare.linear(z).unflatten(1, bare.first)
    torch.testing.assert_close(bare(z), bare.net(first))
    torch.testing.assert_close(own(z), bare.net(F.leaky_relu(first, 0.2)))


def test_plain_encoders_are_three_convolutions_and_a_linear_layer():
    """28-14-7-4 pixels, w-2w-4w channels, stride 2, ReLU after each layer."""
    trunk = conv_encoder((3, 28, 28), 5, 4)
    features, _, head = trunk
    x = h = torch.randn(2, 3, 28, 28)
    for conv in (layer for layer in features.net if isinstance(layer, nn.Conv2d)):
        h = F.relu(F.conv2d(h, conv.weight, conv.bias, stride=2, padding=1))
    assert h.shape == (2, 16, 4, 4)
    h = F.relu(features.net[-1](h.flatten(1)))
    assert h.shape == (2, 512)
    torch.testing.assert_close(trunk(x), head(h))


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
    encoder = resnet_encoder((3, 28, 28), 5, 64, published=True)
    assert encoder[2].in_features == 256 * 7 * 7 == 12544
    assert encoder[0](torch.zeros(1, 3, 28, 28)).shape == (1, 12544)


@pytest.mark.parametrize("size", [28, 16, 7, 8])
def test_encoders_and_decoders_fit_every_size(size):
    x = torch.zeros(2, 3, size, size)
    assert resnet_encoder((3, size, size), 5, 4)(x).shape == (2, 5)
    assert resnet_decoder(6, (3, size, size), 4, bounded=True)(torch.zeros(2, 6)).shape == x.shape


def test_a_bounded_decoder_ends_in_tanh_and_is_otherwise_the_same():
    bounded = resnet_decoder(6, (1, 8, 8), 4, bounded=True)
    free = resnet_decoder(6, (1, 8, 8), 4, bounded=False)
    free.load_state_dict(bounded.state_dict())
    z = 50 * torch.randn(5, 6)
    torch.testing.assert_close(bounded(z), free(z).tanh())
    assert free(z).abs().max() > 1
