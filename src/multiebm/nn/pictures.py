"""Picture encoders and decoders: the ResNets of MMVAE+ (Palumbo et al. 2023) and the plain convolutions of MoPoE.

The published ResNets are `width` 64 at 28 pixels (channels 64-64-128-256, maps 28-14-7), with a factor of 0.1 on the
residual branch and nothing between the last map and the encoder's heads, nor after the decoder's first linear layer;
ours have a larger factor, and an activation there. The published plain ones (Sutter et al. 2021, arXiv 2105.02470) are
`width` 32 (channels 32-64-128, maps 14-7-4).

Pictures [B, C, H, W] may have any sides, from 1 up, not equal to each other. Maps are halved side by side, rounded up;
a decoder makes the same maps on its way back.
"""

from collections import OrderedDict
from math import prod

import torch
from torch import Tensor, nn

from multiebm.nn.blocks import SLOPE, ResidualBlock

STAGES = 3
LINEAR = 512  # units of the linear layer of plain encoders
RESIDUAL, PUBLISHED = 0.7, 0.1  # factors on the residual branch, ours and MMVAE+'s
Shape = tuple[int, int, int]
Size = tuple[int, int]  # height and width of a map


def _halvings(shape: Shape, times: int) -> list[Size]:
    """Return a picture's sides and what each halving leaves of them: a side of 5 becomes 3, a side of 1 stays."""
    sizes = [shape[1:]]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _is_double(size: Size, small: Size) -> bool:
    return size == (2 * small[0], 2 * small[1])


def _encoder(layers: list[nn.Module], between: nn.Module, head: nn.Linear) -> nn.Sequential:
    features = nn.Sequential(OrderedDict(net=nn.Sequential(*layers), flat=nn.Flatten()))
    return nn.Sequential(features, between, head)


def resnet_encoder(shape: Shape, n_out: int, width: int, published: bool = False) -> nn.Sequential:
    """Return a ResNet and a linear layer: pictures [B, C, H, W] -> [B, n_out]."""
    channels, sizes = [width * 2**i for i in range(STAGES)], _halvings(shape, STAGES - 1)
    residual = PUBLISHED if published else RESIDUAL
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1), ResidualBlock(width, channels[0], residual)]
    for n_in, n_out_ in zip(channels, channels[1:], strict=False):
        layers += [nn.AvgPool2d(3, stride=2, padding=1), ResidualBlock(n_in, n_out_, residual)]
    between = nn.Identity() if published else nn.LeakyReLU(SLOPE)
    return _encoder(layers, between, nn.Linear(channels[-1] * prod(sizes[-1]), n_out))


def conv_encoder(shape: Shape, n_out: int, width: int) -> nn.Sequential:
    """Return three convolutions of stride 2 and two linear layers: pictures [B, C, H, W] -> [B, n_out]."""
    channels, sizes = [shape[0], *(width * 2**i for i in range(STAGES))], _halvings(shape, STAGES)
    layers: list[nn.Module] = []
    for before, after, size in zip(channels, channels[1:], sizes, strict=False):
        # torch's bf16 gradients of strided convolutions on maps one pixel wide are unset memory: zeros beside them
        layers += [nn.ZeroPad2d(1)] if size[1] == 1 else []
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=0 if size[1] == 1 else 1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(channels[-1] * prod(sizes[-1]), LINEAR)]
    return _encoder(layers, nn.ReLU(), nn.Linear(LINEAR, n_out))


class Crop(nn.Module):
    """The first rows and columns of a map, `size` = (H, W) of them."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, at least H, at least W] to [B, C, H, W]."""
        return x[..., : self.size[0], : self.size[1]]


class PictureDecoder(nn.Module):
    """Latent [B, n_in] -> pictures [B, C, H, W]: `linear` to a map of shape `first`, `activation`, `net`; `bounded`
    ends in tanh, the range of the state.
    """

    def __init__(
        self, linear: nn.Linear, first: Shape, activation: nn.Module, layers: list[nn.Module], bounded: bool
    ) -> None:
        super().__init__()
        self.linear, self.first, self.activation, self.bounded = linear, first, activation, bounded
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, n_in] to pictures [B, C, H, W]."""
        x = self.activation(self.linear(z).unflatten(1, self.first))
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        return x.tanh() if self.bounded else x


def resnet_decoder(n_in: int, shape: Shape, width: int, bounded: bool, published: bool = False) -> PictureDecoder:
    """Return a linear layer and a ResNet: latents [B, n_in] -> pictures [B, C, H, W]."""
    channels, sizes = [width * 2**i for i in range(STAGES)], _halvings(shape, STAGES - 1)
    residual = PUBLISHED if published else RESIDUAL
    first = (channels[-1], *sizes[-1])
    linear = nn.Linear(n_in, prod(first))
    layers: list[nn.Module] = [ResidualBlock(channels[-1], channels[-2], residual)]
    thin = [*channels[-3::-1], width]
    for before, after, small, size in zip(channels[-2::-1], thin, sizes[::-1], sizes[-2::-1], strict=False):
        doubled = _is_double(size, small)
        layers += [] if doubled else [nn.Upsample(size=size)]
        layers += [ResidualBlock(before, after, residual, up=doubled)]
    layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, shape[0], 3, padding=1)]
    return PictureDecoder(linear, first, nn.Identity() if published else nn.LeakyReLU(SLOPE), layers, bounded)


def conv_decoder(n_in: int, shape: Shape, width: int, bounded: bool) -> PictureDecoder:
    """Return a linear layer and three transposed convolutions: latents [B, n_in] -> pictures [B, C, H, W]."""
    channels, sizes = [shape[0], *(width * 2**i for i in range(STAGES))], _halvings(shape, STAGES)
    first = (channels[-1], *sizes[-1])
    linear = nn.Linear(n_in, prod(first))
    layers: list[nn.Module] = []
    for i in reversed(range(STAGES)):
        up = nn.ConvTranspose2d(channels[i + 1], channels[i], 3, stride=2, padding=1, output_padding=1)
        layers += [nn.ReLU(), up]
        # odd maps made directly take twice the time in bf16
        layers += [] if _is_double(sizes[i], sizes[i + 1]) else [Crop(sizes[i])]
    return PictureDecoder(linear, first, nn.Identity(), layers, bounded)
