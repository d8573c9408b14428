"""Picture encoders and decoders: the ResNets of MMVAE+ (Palumbo et al. 2023) and the plain convolutions of MoPoE.

The published ResNets are `width` 64 at 28 pixels (channels 64-64-128-256, maps 28-14-7), with a factor of 0.1 on the
residual branch and nothing between the last map and the encoder's heads, nor after the decoder's first linear layer;
ours have a larger factor, and an activation there. The published plain ones (Sutter et al. 2021, arXiv 2105.02470) are
`width` 32 (channels 32-64-128, maps 14-7-4).

Pictures [B, C, H, W] may have any sides, from 1 up, not equal to each other. Maps are halved side by side, rounded up;
a decoder makes the same maps on its way back. A picture larger than those published for has more stages
(`blocks.stages_before`), on its large maps, so that the last map and what is linear on it stay small.

A judge, which reads labels, knows a digit as an *inversion* of its background: an edge may have either sign, and a stem
that keeps both (Shang et al. 2016, arXiv 1603.05201) needs half the filters.
"""

from collections import OrderedDict
from itertools import chain, repeat
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from multiebm.nn.blocks import SLOPE, ResidualBlock, stages_before

STAGES = 3
LINEAR = 512  # units of the linear layer of plain encoders
RESIDUAL, PUBLISHED = 0.7, 0.1  # factors on the residual branch, ours and MMVAE+'s
_SMALL_SIDE = 7  # pixels; feature maps of a judge are halved until they are no larger
_LARGE_SIDE = 64  # pixels; larger pictures pass a stride of the judge's first convolution
Shape = tuple[int, int, int]
Size = tuple[int, int]  # height and width of a map


def _stages(shape: Shape, width: int) -> list[int]:
    """Return the channels of the stages of a picture (C, H, W), from its own size on."""
    return [*stages_before(shape[1:], width), *(width * 2**i for i in range(STAGES))]


def _halvings(shape: Shape, times: int) -> list[Size]:
    """Return a picture's sides and what each halving leaves of them: a side of 5 becomes 3, a side of 1 stays."""
    sizes = [shape[1:]]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _encoder(layers: list[nn.Module], between: nn.Module, head: nn.Linear) -> nn.Sequential:
    features = nn.Sequential(OrderedDict(net=nn.Sequential(*layers), flat=nn.Flatten()))
    return nn.Sequential(features, between, head)


def resnet_encoder(shape: Shape, n_out: int, width: int, published: bool = False) -> nn.Sequential:
    """Return a ResNet and a linear layer: pictures [B, C, H, W] -> [B, n_out]."""
    sizes = _halvings(shape, len(channels := _stages(shape, width)) - 1)
    residual, first = PUBLISHED if published else RESIDUAL, channels[0]
    layers: list[nn.Module] = [nn.Conv2d(shape[0], first, 3, padding=1), ResidualBlock(first, first, residual)]
    for n_in, n_out_ in zip(channels, channels[1:], strict=False):
        layers += [nn.AvgPool2d(3, stride=2, padding=1), ResidualBlock(n_in, n_out_, residual)]
    between = nn.Identity() if published else nn.LeakyReLU(SLOPE)
    return _encoder(layers, between, nn.Linear(channels[-1] * prod(sizes[-1]), n_out))


def conv_encoder(shape: Shape, n_out: int, width: int) -> nn.Sequential:
    """Return three convolutions of stride 2 and two linear layers: pictures [B, C, H, W] -> [B, n_out]."""
    sizes = _halvings(shape, len(stages := _stages(shape, width)))
    channels = [shape[0], *stages]
    layers: list[nn.Module] = []
    for before, after, size in zip(channels, channels[1:], sizes, strict=False):
        if size[1] > 2:
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        else:  # one window across (`blocks`)
            one = nn.Conv2d(before, after, 3, stride=(2, 1), padding=(1, 0))
            layers += [nn.ZeroPad2d((1, 2 - size[1], 0, 0)), one, nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(channels[-1] * prod(sizes[-1]), LINEAR)]
    return _encoder(layers, nn.ReLU(), nn.Linear(LINEAR, n_out))


class Crop(nn.Module):
    """The first rows of a map, and its columns from `left` on, `size` = (H, W) of them."""

    def __init__(self, size: Size, left: int = 0) -> None:
        super().__init__()
        self.size, self.left = size, left

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, at least H, at least left + W] to [B, C, H, W]."""
        return x[..., : self.size[0], self.left : self.left + self.size[1]]


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
    sizes = _halvings(shape, len(channels := _stages(shape, width)) - 1)
    residual = PUBLISHED if published else RESIDUAL
    first = (channels[-1], *sizes[-1])
    linear = nn.Linear(n_in, prod(first))
    layers: list[nn.Module] = [ResidualBlock(channels[-1], channels[-2], residual)]
    thin = [*channels[-3::-1], channels[0]]
    for before, after, small, size in zip(channels[-2::-1], thin, sizes[::-1], sizes[-2::-1], strict=False):
        doubled = size == (2 * small[0], 2 * small[1])
        layers += [] if doubled else [nn.Upsample(size=size)]
        layers += [ResidualBlock(before, after, residual, up=doubled)]
    layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(channels[0], shape[0], 3, padding=1)]
    return PictureDecoder(linear, first, nn.Identity() if published else nn.LeakyReLU(SLOPE), layers, bounded)


def conv_decoder(n_in: int, shape: Shape, width: int, bounded: bool) -> PictureDecoder:
    """Return a linear layer and three transposed convolutions: latents [B, n_in] -> pictures [B, C, H, W]."""
    sizes = _halvings(shape, len(stages := _stages(shape, width)))
    channels = [shape[0], *stages]
    first = (channels[-1], *sizes[-1])
    linear = nn.Linear(n_in, prod(first))
    layers: list[nn.Module] = []
    for i in reversed(range(len(stages))):
        # one pixel becomes one window (`blocks`), whose first column is cut off
        across = int(sizes[i + 1][1] > 1)
        up = nn.ConvTranspose2d(channels[i + 1], channels[i], 3, (2, 1 + across), (1, across), (1, across))
        layers += [nn.ReLU(), up]
        # odd maps made directly take twice the time in bf16
        doubled = across and sizes[i] == (2 * sizes[i + 1][0], 2 * sizes[i + 1][1])
        layers += [] if doubled else [Crop(sizes[i], 1 - across)]
    return PictureDecoder(linear, first, nn.Identity(), layers, bounded)


class BothSigns(nn.Module):
    """Concatenate ReLU(x) and ReLU(-x): [B, C, H, W] -> [B, 2C, H, W] (Shang et al. 2016, arXiv 1603.05201)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return both rectified halves: [B, C, H, W] -> [B, 2C, H, W]."""
        return torch.cat([x.relu(), (-x).relu()], 1)


def picture_body(shape: tuple[int, int, int], width: int, n_features: int) -> nn.Sequential:
    """Return 3x3 convolutions with batch norm, halving sides of pictures (C, H, W) above 7, then `n_features` units.

    The first one reads sides above 64 at a stride, with windows as much larger, and leaves maps no larger than that.
    """
    channels, *sides = shape
    layers: list[nn.Module] = []
    first, wide = [(channels, width), (2 * width, 2 * width), (2 * width, 4 * width)], (4 * width, 4 * width)
    for i, (before, after) in enumerate(chain(first, repeat(wide))):
        if i >= len(first) and max(sides) <= _SMALL_SIDE:
            break
        down, right = (1, 1) if i else (-(-side // _LARGE_SIDE) for side in sides)
        conv = nn.Conv2d(before, after, (down + 2, right + 2), (down, right), padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU() if i else BothSigns()]
        sides = [sides[0] // down, sides[1] // right]
        windows = [2 if side > _SMALL_SIDE else 1 for side in sides]
        layers += [nn.MaxPool2d((windows[0], windows[1]))] if max(windows) > 1 else []
        sides = [side // window for side, window in zip(sides, windows, strict=True)]
    flat = 4 * width * sides[0] * sides[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(flat, n_features), nn.ReLU())


def shifted(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Move a batch [B, C, H, W] by -1, 0 or 1 pixels along each axis, one draw a batch, edges reflected.

    A side of one pixel has nothing to reflect, and stays.
    """
    height, width = pictures.shape[-2:]
    edge = [int(side > 1) for side in (height, width)]
    down, right = (torch.randint(0, 3, (2,), generator=rng) * torch.tensor(edge)).tolist()
    padded = pad(pictures, (edge[1], edge[1], edge[0], edge[0]), mode="reflect")
    return padded[..., down : down + height, right : right + width]


def blurred(pictures: Tensor) -> Tensor:
    """Return pictures [B, C, H, W] with each pixel the mean of 3 x 3 with weights 1, 2, 1 each way."""
    height, width = pictures.shape[-2:]
    edge = [int(side > 1) for side in (height, width)]
    x = pad(pictures, (edge[1], edge[1], edge[0], edge[0]), mode="reflect")
    if edge[0]:
        x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4 if edge[1] else x


def ssim(x: Tensor, y: Tensor, span: float) -> Tensor:
    """Return the structural similarity of pictures [N, C, H, W] whose values span `span`: [N], 1 for equal ones.

    Wang et al. (2004), https://doi.org/10.1109/TIP.2003.819861: windows of 11 x 11 with weights of a Gaussian of 1.5
    pixels, smaller in smaller pictures; the mean over channels and all places where a window fits.
    """
    x, y = x.double(), y.double()  # a variance is a small difference of two means
    side = min(11, *x.shape[2:])
    at = torch.arange(side, dtype=x.dtype, device=x.device) - (side - 1) / 2
    weights = (-0.5 * (at / 1.5).square()).exp()
    window = torch.outer(weights, weights) / weights.sum().square()

    def mean(of: Tensor) -> Tensor:
        return nn.functional.conv2d(of.flatten(0, 1)[:, None], window[None, None])  # [N * C, 1, h, w]

    low, steady = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_x, mean_y = mean(x), mean(y)
    both, covariance = mean_x.square() + mean_y.square(), mean(x * y) - mean_x * mean_y
    variances = mean(x.square() + y.square()) - both
    found = (2 * mean_x * mean_y + low) * (2 * covariance + steady) / ((both + low) * (variances + steady))
    return found.view(len(x), -1).mean(1).float()
