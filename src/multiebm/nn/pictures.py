"""Picture encoders and decoders: the ResNets of MMVAE+ (Palumbo et al. 2023) and the plain convolutions of MoPoE.

The published ResNets are `width` 64, `patch` 1 at 28 pixels (channels 64-64-128-256, maps 28-14-7); `patch` 2 folds 2x2
pixels into channels first, which costs a quarter of the arithmetic per channel. Published, nothing stands between the
last map and the encoder's heads, nor after the decoder's first linear layer; `activated` puts an activation there.
The published plain ones (Sutter et al. 2021, arXiv 2105.02470) are `width` 32, `linear` 512 (channels 32-64-128, maps
14-7-4).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.nn.blocks import SLOPE, ResidualBlock

STAGES = 3


class Networks(NamedTuple):
    """Sizes of a part's networks: ResNets of `width` channels, or plain convolutions where `linear` names the units of
    their linear layer (0: none). Networks of vectors have `width` units and nothing else.
    """

    width: int
    patch: int = 1
    residual: float = 0.1
    activated: bool = True
    linear: int | None = None


def _plan(size: int, width: int, patch: int) -> tuple[list[int], list[int]]:
    """Return channels and map sizes of the stages, from the picture inwards."""
    sizes = [size // patch]
    for _ in range(STAGES - 1):
        sizes.append((sizes[-1] + 1) // 2)
    return [width * 2**i for i in range(STAGES)], sizes


class PictureEncoder(nn.Module):
    """[B, C, S, S] -> features [B, n_features] (flattened last map); heads are the caller's."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, residual: float) -> None:
        super().__init__()
        channels, sizes = _plan(shape[1], width, patch)
        self.n_features = channels[-1] * sizes[-1] ** 2
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch)] if patch > 1 else []
        layers += [nn.Conv2d(shape[0] * patch**2, width, 3, padding=1), ResidualBlock(width, channels[0], residual)]
        for n_in, n_out in zip(channels, channels[1:], strict=False):
            layers += [nn.AvgPool2d(3, stride=2, padding=1), ResidualBlock(n_in, n_out, residual)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B, C, S, S] to features [B, n_features]."""
        return self.net(x).flatten(1)


class PictureDecoder(nn.Module):
    """Latent [B, n_in] -> pictures [B, C, S, S]; `bounded` ends in tanh, the range of the state."""

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
        channels, sizes = _plan(shape[1], width, patch)
        self.bounded, self.activated = bounded, activated
        self.first = (channels[-1], sizes[-1], sizes[-1])
        self.linear = nn.Linear(n_in, channels[-1] * sizes[-1] ** 2)
        layers: list[nn.Module] = [ResidualBlock(channels[-1], channels[-2], residual)]
        thin = [*channels[-3::-1], width]
        for n_in, n_out, small, size in zip(channels[-2::-1], thin, sizes[::-1], sizes[-2::-1], strict=False):
            doubled = size == 2 * small
            layers += [] if doubled else [nn.Upsample(size=(size, size))]
            layers += [ResidualBlock(n_in, n_out, residual, up=doubled)]
        layers += [
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, shape[0] * patch**2, 3, padding=1),
        ]
        layers += [nn.PixelShuffle(patch)] if patch > 1 else []
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, n_in] to pictures [B, C, S, S]."""
        x = self.linear(z).unflatten(1, self.first)
        x = F.leaky_relu(x, SLOPE) if self.activated else x
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        return x.tanh() if self.bounded else x


class ConvEncoder(nn.Module):
    """[B, C, S, S] -> features [B, n_features]: three convolutions of stride 2 and a layer of `linear` units; with 0
    there is none, and features are the last map. Heads are the caller's.
    """

    def __init__(self, shape: tuple[int, ...], width: int, linear: int) -> None:
        super().__init__()
        channels, sizes = _halved(shape, width)
        n_map = channels[-1] * sizes[-1] ** 2
        self.n_features = linear or n_map
        layers: list[nn.Module] = []
        for n_in, n_out in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Flatten(), *([nn.Linear(n_map, linear)] if linear else [])]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures [B, C, S, S] to features [B, n_features], before an activation."""
        return self.net(x)


class Crop(nn.Module):
    """The first `size` rows and columns of a map."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, size, size]."""
        return x[..., : self.size, : self.size]


class ConvDecoder(nn.Module):
    """Latent [B, n_in] -> pictures [B, C, S, S]: a linear layer, three transposed convolutions."""

    def __init__(self, n_in: int, shape: tuple[int, ...], width: int, bounded: bool) -> None:
        super().__init__()
        channels, sizes = _halved(shape, width)
        self.first, self.bounded = (channels[-1], sizes[-1], sizes[-1]), bounded
        self.linear = nn.Linear(n_in, channels[-1] * sizes[-1] ** 2)
        layers: list[nn.Module] = []
        for i in reversed(range(STAGES)):
            up = nn.ConvTranspose2d(channels[i + 1], channels[i], 3, stride=2, padding=1, output_padding=1)
            layers += [nn.ReLU(), up]
            layers += [Crop(sizes[i])] if sizes[i] % 2 else []  # odd maps made directly take twice the time in bf16
        self.net = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents [B, n_in] to pictures [B, C, S, S]."""
        x = self.linear(z).unflatten(1, self.first)
        x = self.net(x.contiguous(memory_format=torch.channels_last))
        return x.tanh() if self.bounded else x


def _halved(shape: tuple[int, ...], width: int) -> tuple[list[int], list[int]]:
    """Return channels and map sizes of the plain networks, from the picture inwards."""
    sizes = [shape[1]]
    for _ in range(STAGES):
        sizes.append((sizes[-1] + 1) // 2)
    return [shape[0], *(width * 2**i for i in range(STAGES))], sizes
