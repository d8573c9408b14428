"""Trunks of energies: states of several modalities of a kind -> features; with spectral norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.nn.blocks import EnergyBlock, mlp, sn_conv

STEM = 8  # channels of the stem that each of several pictures passes


class PictureTrunk(nn.Module):
    """M pictures [B, C, H, W] -> [B, width]: stems if M > 1, block (head, down), block (down), blocks, ReLU, pool."""

    def __init__(self, channels: list[int], width: int, blocks: int, stem: int = STEM) -> None:
        super().__init__()
        self.stems = nn.ModuleList(sn_conv(c, stem, 3, bias=True) for c in channels if len(channels) > 1)
        n_in = stem * len(channels) if self.stems else channels[0]
        first = [EnergyBlock(n_in, width, down=True, head=True), EnergyBlock(width, width, down=True)]
        self.blocks = nn.Sequential(*first, *[EnergyBlock(width, width) for _ in range(blocks)])

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
