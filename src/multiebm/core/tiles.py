"""Pictures of any sides and channels as pixels for people: enlarged without interpolation, for files and for reports.

One channel is shown grey and three as colours. Of any other number every channel is a grey picture of its own, from
the top left on, as near to a square as they fill.
"""

from math import ceil, sqrt

import numpy as np
import numpy.typing as npt
from torch import Tensor

Pixels = npt.NDArray[np.uint8]
TILE = 64  # pixels of the longer side of an enlarged picture, about


def is_colour(shape: tuple[int, ...]) -> bool:
    """Return whether a picture of shape (C, H, W) is shown as one: grey or in colours."""
    return shape[0] in (1, 3)


def tile_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width in pixels of what is shown of a picture of shape (C, H, W)."""
    height, width = _sheet_size(shape)
    factor = _enlargement(shape)
    return height * factor, width * factor


def tiles(pictures: Tensor) -> Pixels:
    """Map raw pictures [N, C, H, W] in [0, 1] to [N, *tile_size, 4] bytes; white and transparent where nothing is.

    NaN is nothing.
    """
    n, channels, height, width = pictures.shape
    shape = (channels, height, width)
    raw = pictures.detach().cpu().float()
    values = raw.nan_to_num(1.0).clamp(0, 1).mul(255).round().byte().numpy()
    there = np.where(raw.isnan().numpy(), np.uint8(0), np.uint8(255))
    out = np.full((n, *_sheet_size(shape), 4), (255, 255, 255, 0), np.uint8)
    shown = [slice(None)] if is_colour(shape) else [slice(i, i + 1) for i in range(channels)]
    columns = _columns(shape)
    for i, part in enumerate(shown):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        place = out[:, top : top + height, left : left + width]
        place[..., :3], place[..., 3] = values[:, part].transpose(0, 2, 3, 1), there[:, part].min(1)
    factor = _enlargement(shape)
    return out.repeat(factor, 1).repeat(factor, 2)


def _columns(shape: tuple[int, ...]) -> int:
    return 1 if is_colour(shape) else ceil(sqrt(shape[0]))


def _sheet_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width before enlargement; a pixel lies between channels."""
    columns = _columns(shape)
    rows = 1 if is_colour(shape) else -(-shape[0] // columns)
    return rows * (shape[1] + 1) - 1, columns * (shape[2] + 1) - 1


def _enlargement(shape: tuple[int, ...]) -> int:
    """Return the whole factor that brings a picture nearest to `TILE`: 4 for 16 x 16, 2 for 28 x 28."""
    return max(1, round(TILE / max(_sheet_size(shape))))
