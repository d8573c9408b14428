"""The picture network of a judge, a classifier that reads labels: a digit is an *inversion* of its background, so an
edge may have either sign, and a stem that keeps both (Shang et al. 2016, arXiv 1603.05201) needs half the filters.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

_SMALL_SIDE = 7  # pixels; feature maps are halved until they are no larger


class BothSigns(nn.Module):
    """Concatenate ReLU(x) and ReLU(-x): [B, C, H, W] -> [B, 2C, H, W] (Shang et al. 2016, arXiv 1603.05201)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return both rectified halves: [B, C, H, W] -> [B, 2C, H, W]."""
        return torch.cat([x.relu(), (-x).relu()], 1)


def picture_body(shape: tuple[int, int, int], width: int, n_features: int) -> nn.Sequential:
    """Return 3x3 convolutions with batch norm, halving sides of pictures (C, H, W) above 7, then `n_features` units."""
    channels, *sides = shape
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(((channels, width), (2 * width, 2 * width), (2 * width, 4 * width))):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.ReLU() if i else BothSigns()]
        sides = _pooled(layers, sides)
    while max(sides) > _SMALL_SIDE:
        layers += [nn.Conv2d(4 * width, 4 * width, 3, padding=1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU()]
        sides = _pooled(layers, sides)
    flat = 4 * width * sides[0] * sides[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(flat, n_features), nn.ReLU())


def _pooled(layers: list[nn.Module], sides: list[int]) -> list[int]:
    """Append what halves the sides [H, W] above `_SMALL_SIDE`, if any, and return the sides after it."""
    windows = [2 if side > _SMALL_SIDE else 1 for side in sides]
    layers += [nn.MaxPool2d((windows[0], windows[1]))] if max(windows) > 1 else []
    return [side // window for side, window in zip(sides, windows, strict=True)]


def shifted(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Move a batch [B, C, H, W] by -1, 0 or 1 pixels along each axis, one draw a batch, edges reflected.

    A side of one pixel has nothing to reflect, and stays.
    """
    height, width = pictures.shape[-2:]
    edge = [int(side > 1) for side in (height, width)]
    down, right = (torch.randint(0, 3, (2,), generator=rng) * torch.tensor(edge)).tolist()
    padded = pad(pictures, (edge[1], edge[1], edge[0], edge[0]), mode="reflect")
    return padded[..., down : down + height, right : right + width]
