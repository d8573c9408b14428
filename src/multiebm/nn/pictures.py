"""Picture encoders and decoders: the ResNets of MMVAE+ (Palumbo et al. 2023) and the plain convolutions of MoPoE.

The published ResNets are `width` 64, `patch` 1 at 28 pixels (channels 64-64-128-256, maps 28-14-7); `patch` 2 folds 2x2
pixels into channels first, which costs a quarter of the arithmetic per channel. Published, nothing stands between the
last map and the encoder's heads, nor after the decoder's first linear layer; `activated` puts an activation there.
The published plain ones (Sutter et al. 2021, arXiv 2105.02470) are `width` 32, `linear` 512 (channels 32-64-128, maps
14-7-4).

Pictures [B, C, H, W] may have any sides, from 1 up, not equal to each other. Maps are halved side by side, rounded up;
a decoder makes the same maps on its way back.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.nn.blocks import SLOPE, Fold, ResidualBlock

STAGES = 3
Size = tuple[int, int]  # height and width of a map


class Networks(NamedTuple):
    """Sizes of a part's networks: ResNets of `width` channels, or plain convolutions where `linear` names the units of
    their linear layer (0: none). Networks of vectors have `width` units and nothing else.
    """

    width: int
    patch: int = 1
    residual: float = 0.1
    activated: bool = True
    linear: int | None = None


def _plan(shape: tuple[int, ...], width: int, patch: int) -> tuple[list[int], list[Size]]:
    """Return channels and map sizes of the stages, from the picture inwards; patches at the edge may be cut short."""
    return [width * 2**i for i in range(STAGES)], _halvings((-(-shape[1] // patch), -(-shape[2] // patch)), STAGES - 1)


def _halvings(size: Size, times: int) -> list[Size]:
    """Return a map's size and what is left of it after each halving: a side of 5 becomes 3, a side of 1 stays."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _is_double(size: Size, small: Size) -> bool:
    return size == (2 * small[0], 2 * small[1])


class Crop(nn.Module):
    """The first rows and columns of a map, `size` = (H, W) of them."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, at least H, at least W] to [B, C, H, W]."""
        return x[..., : self.size[0], : self.size[1]]


class PictureEncoder(nn.Module):
    """[B, C, H, W] -> features [B, n_features] (flattened last map); heads are the caller's."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, residual: float) -> None:
        super().__init__()
        channels, sizes = _plan(shape, width, patch)
        self.n_features = channels[-1] * prod(sizes[-1])
        layers: list[nn.Module] = [Fold(patch)] if patch > 1 else []
        layers += [nn.Conv2d(shape[0] * patch**2, width, 3, padding=1), ResidualBlock(width, channels[0], residual)]
        for n_in, n_out in zip(channels, channels[1:], strict=False):
            layers += [nn.AvgPool2d(3, stride=2, padding=1), ResidualBlock(n_in, n_out, residual)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B, C, H, W] to features [B, n_features]."""
        return self.net(x).flatten(1)


class PictureDecoder(nn.Module):
    """Latent [B, n_in] -> pictures [B, C, H, W]; `bounded` ends in tanh, the range of the state."""

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, ...],
        width: int,
        patch: int,
        residual: float,
        bounded: bool,
        activated: bool = True,
    ) -> None:
        super().__init__()
        channels, sizes = _plan(shape, width, patch)
        self.bounded, self.activated = bounded, activated
        self.first = (channels[-1], *sizes[-1])
        self.linear = nn.Linear(n_in, prod(self.first))
        layers: list[nn.Module] = [ResidualBlock(channels[-1], channels[-2], residual)]
        thin = [*channels[-3::-1], width]
        for n_in, n_out, small, size in zip(channels[-2::-1], thin, sizes[::-1], sizes[-2::-1], strict=False):
            doubled = _is_double(size, small)
            layers += [] if doubled else [nn.Upsample(size=size)]
            layers += [ResidualBlock(n_in, n_out, residual, up=doubled)]
        layers += [
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, shape[0] * patch**2, 3, padding=1),
        ]
        layers += [nn.PixelShuffle(patch)] if patch > 1 else []
        layers += [Crop((shape[1], shape[2]))] if shape[1] % patch or shape[2] % patch else []
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, n_in] to pictures [B, C, H, W]."""
        x = self.linear(z).unflatten(1, self.first)
        x = F.leaky_relu(x, SLOPE) if self.activated else x
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        return x.tanh() if self.bounded else x


class ConvEncoder(nn.Module):
    """[B, C, H, W] -> features [B, n_features]: three convolutions of stride 2 and a layer of `linear` units; with 0
    there is none, and features are the last map. Heads are the caller's.
    """

    def __init__(self, shape: tuple[int, ...], width: int, linear: int) -> None:
        super().__init__()
        channels, sizes = _halved(shape, width)
        n_map = channels[-1] * prod(sizes[-1])
        self.n_features = linear or n_map
        layers: list[nn.Module] = []
        for n_in, n_out, size in zip(channels, channels[1:], sizes, strict=False):
            # torch's bf16 gradients of strided convolutions on maps one pixel wide are unset memory: zeros beside them
            layers += [nn.ZeroPad2d(1)] if size[1] == 1 else []
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=0 if size[1] == 1 else 1), nn.ReLU()]
        layers += [nn.Flatten(), *([nn.Linear(n_map, linear)] if linear else [])]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B, C, H, W] to features [B, n_features], before an activation."""
        return self.net(x)


class ConvDecoder(nn.Module):
    """Latent [B, n_in] -> pictures [B, C, H, W]: a linear layer, three transposed convolutions."""

    def __init__(self, n_in: int, shape: tuple[int, ...], width: int, bounded: bool) -> None:
        super().__init__()
        channels, sizes = _halved(shape, width)
        self.first, self.bounded = (channels[-1], *sizes[-1]), bounded
        self.linear = nn.Linear(n_in, prod(self.first))
        layers: list[nn.Module] = []
        for i in reversed(range(STAGES)):
            up = nn.ConvTranspose2d(channels[i + 1], channels[i], 3, stride=2, padding=1, output_padding=1)
            layers += [nn.ReLU(), up]
            # odd maps made directly take twice the time in bf16
            layers += [] if _is_double(sizes[i], sizes[i + 1]) else [Crop(sizes[i])]
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, n_in] to pictures [B, C, H, W]."""
        x = self.linear(z).unflatten(1, self.first)
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        return x.tanh() if self.bounded else x


def _halved(shape: tuple[int, ...], width: int) -> tuple[list[int], list[Size]]:
    """Return channels and map sizes of the plain networks, from the picture inwards."""
    return [shape[0], *(width * 2**i for i in range(STAGES))], _halvings((shape[1], shape[2]), STAGES)
