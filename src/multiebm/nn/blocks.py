"""Blocks of encoders, decoders and energies, and the trunks that read states of several modalities for an energy.

torch's bf16 convolutions on CPUs with AMX read unset memory where they step across a map and leave it, or in a gradient
find it, one pixel wide. There is one window across such a map, so here they do not step across.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.nn.spectral import Spectral

SLOPE = 0.2  # of every leaky ReLU
STEM = 8  # channels of the stem that each of several pictures passes
BLOCKS = 1  # residual blocks of the energy's trunk of pictures, after those that halve the map
USUAL_SIDE = 32  # pixels of a picture's longer side, up to which networks have their usual stages and no more
THIN = 8  # channels that a stage before the usual ones has at least, unless all have fewer


class ResidualBlock(nn.Module):
    """y = shortcut(x) + r c1(lrelu(c0(lrelu(x)))), [B, n_in, H, W] -> [B, n_out, H, W]; MMVAE+ has r = 0.1.

    A residual block whose activations come first (He et al. 2016, arXiv 1603.05027). With `up` it is the block of a map
    twice as large, x with every pixel doubled each way: [B, n_out, 2 H, 2 W].
    """

    def __init__(self, n_in: int, n_out: int, residual: float, up: bool = False) -> None:
        super().__init__()
        self.residual, self.up = residual, up
        hidden = min(n_in, n_out)
        self.c0 = nn.Conv2d(n_in, hidden, 3, padding=1)
        self.c1 = nn.Conv2d(hidden, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, bias=False) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_in, H, W] to [B, n_out, H, W] or [B, n_out, 2 H, 2 W]."""
        a, skip = F.leaky_relu(x, SLOPE), self.shortcut(x)
        if self.up:  # doubling commutes with what looks at one pixel: activation and shortcut
            # 3x3 windows on doubled pixels see two different ones each way: a transposed convolution of stride 2, whose
            # 4x4 weights are sums of the 3x3 ones, with 4/9 of the arithmetic
            sums = self.c0.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
            weight = torch.einsum("oikl,ak,bl->ioab", self.c0.weight, sums, sums)
            weight = weight.contiguous(memory_format=torch.channels_last)
            across = 2 if a.shape[3] > 1 else 1  # the same for a single pixel
            a, skip = F.conv_transpose2d(a, weight, self.c0.bias, (2, across), 1), F.interpolate(skip, scale_factor=2)
        else:
            a = self.c0(a)
        return torch.add(skip, self.c1(F.leaky_relu_(a, SLOPE)), alpha=self.residual)


class EnergyBlock(nn.Module):
    """Residual block of the energy network, after arXiv 2605.00644: no norm, no bias.

    [B, n_in, H, W] -> [B, n_out, H, W], halved by average pooling if `down`, save for a side of 1; the first block
    (`head`) has no leading ReLU, which would discard half of the signal of raw pixels.
    """

    def __init__(self, n_in: int, n_out: int, down: bool = False, head: bool = False) -> None:
        super().__init__()
        self.down, self.head = down, head
        self.c0 = sn_conv(n_in, n_out, 3)
        self.c1 = sn_conv(n_out, n_out, 3)
        self.skip = sn_conv(n_in, n_out, 1) if down or n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n_in, H, W] to [B, n_out, H, W] or [B, n_out, H/2, W/2]."""
        a = F.relu_(self.c0(x if self.head else F.relu(x)))
        if not self.down:
            return self.c1(a) + self.skip(x)
        # The mean of four neighbouring 3x3 windows is one 4x4 window: a convolution of stride 2, 4/9 of the arithmetic.
        pool = (min(x.shape[2], 2), min(x.shape[3], 2))
        sums = F.avg_pool2d(self.c1.weight, pool, stride=1, padding=(pool[0] - 1, pool[1] - 1))
        skip = self.skip(F.avg_pool2d(x, pool))  # pooling and a 1x1 window commute; pool first is cheaper
        if skip.shape[3] == 1 < pool[1]:
            return F.conv2d(F.pad(a, (1, 3 - a.shape[3])), sums, stride=(pool[0], 1), padding=(1, 0)) + skip
        return F.conv2d(a, sums, stride=pool, padding=1) + skip


def sn_conv(n_in: int, n_out: int, kernel: int, bias: bool = False) -> Spectral:
    """Return a stride-1 convolution [B, n_in, H, W] -> [B, n_out, H, W], odd `kernel`, Xavier-normal, spectral norm."""
    conv = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=bias)
    nn.init.xavier_normal_(conv.weight)
    return Spectral(conv)


def mlp(sizes: Sequence[int], activation: nn.Module, spectral: bool = False, last_bias: bool = True) -> nn.Sequential:
    """Return Linear layers with `activation` between them: shape [..., sizes[0]] -> [..., sizes[-1]]."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        last = i == len(sizes) - 2
        linear = nn.Linear(n_in, n_out, bias=last_bias or not last)
        layers += [Spectral(linear) if spectral else linear] + ([] if last else [activation])
    return nn.Sequential(*layers)


def stages_before(sides: tuple[int, int], width: int) -> list[int]:
    """Return the channels of the stages that a picture of these sides passes before those `width` wide, each of which
    halves the map: one for each doubling of the longer side above USUAL_SIDE, half as wide as the next one, so that a
    stage costs no more than those after it.
    """
    n = max(0, (max(sides) - 1).bit_length() - (USUAL_SIDE - 1).bit_length())
    return [max(min(width, THIN), width >> (n - i)) for i in range(n)]


class PictureTrunk(nn.Module):
    """M pictures [B, C, H, W] -> [B, width]: stems if M > 1, block (head, down), block (down), blocks, ReLU, pool.

    `before` are channels of more blocks (down) at the front, of which the first is then the head.
    """

    def __init__(
        self, channels: list[int], width: int, blocks: int = BLOCKS, stem: int = STEM, before: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.stems = nn.ModuleList(sn_conv(c, stem, 3, bias=True) for c in channels if len(channels) > 1)
        sizes = [stem * len(channels) if self.stems else channels[0], *before, width, width]
        downs = [EnergyBlock(n_in, n_out, down=True, head=not i) for i, (n_in, n_out) in enumerate(pairwise(sizes))]
        self.blocks = nn.Sequential(*downs, *[EnergyBlock(width, width) for _ in range(blocks)])

    def forward(self, *pictures: Tensor) -> Tensor:
        """Map pictures [B, C, H, W] to pooled features [B, width]."""
        mapped = [stem(x) for stem, x in zip(self.stems, pictures, strict=True)] if self.stems else list(pictures)
        return F.relu(self.blocks(torch.cat(mapped, 1))).mean((2, 3))


class VectorTrunk(nn.Module):
    """M vectors [B, D_m] -> [B, width]: an MLP of three layers on their concatenation."""

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.net = mlp([n_in, width, width, width], nn.ReLU(), spectral=True)

    def forward(self, *vectors: Tensor) -> Tensor:
        """Map vectors [B, D_m] to features [B, width]."""
        return F.relu(self.net(torch.cat(vectors, 1)))


class Link(nn.Module):
    """The last layer of a decoder whose means are not any numbers: maps [B, D] to mean states [B, D]."""

    def begin(self, codes: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [D, K] and biases [D] of the line of codes [N, K] that, linked, fits states [N, D].

        NaN is a cell that is missing.
        """
        raise NotImplementedError(f"{type(self).__name__}.begin: got no such method, expected one")


class WithGaps(nn.Module):
    """Put beside values [B, D] which of them are missing: [B, 2 D]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return missing values, NaN, as 0, and 1 for each of them."""
        return torch.cat([x.nan_to_num(0.0), x.isnan().to(x.dtype)], 1)


class WithoutGaps(nn.Module):
    """Put missing values, NaN, at 0: [B, D] -> [B, D]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, D] without NaN."""
        return x.nan_to_num(0.0)
