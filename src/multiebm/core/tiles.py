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
    _, (height, width), factor = _sheet(shape)
    return height * factor, width * factor


def tiles(pictures: Tensor) -> Pixels:
    """Map raw pictures [N, C, H, W] in [0, 1] to [N, *tile_size, 4] bytes; white and transparent where nothing is.

    NaN is nothing.
    """
    shape = channels, height, width = tuple(pictures.shape[1:])
    columns, size, factor = _sheet(shape)
    raw = pictures.detach().cpu().float()
    values = raw.nan_to_num(1.0).clamp(0, 1).mul(255).round().byte().numpy()
    there = np.where(raw.isnan().numpy(), np.uint8(0), np.uint8(255))
    out = np.full((len(raw), *size, 4), (255, 255, 255, 0), np.uint8)
    shown = [slice(None)] if is_colour(shape) else [slice(i, i + 1) for i in range(channels)]
    for i, part in enumerate(shown):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        place = out[:, top : top + height, left : left + width]
        place[..., :3], place[..., 3] = values[:, part].transpose(0, 2, 3, 1), there[:, part].min(1)
    return out.repeat(factor, 1).repeat(factor, 2)


def _sheet(shape: tuple[int, ...]) -> tuple[int, tuple[int, int], int]:
    """Return the columns of channels, height and width of all (a pixel lies between channels), and the whole factor
    that brings it nearest to `TILE`: 4 for 16 x 16, 2 for 28 x 28.
    """
    columns = 1 if is_colour(shape) else ceil(sqrt(shape[0]))
    rows = 1 if is_colour(shape) else -(-shape[0] // columns)
    size = rows * (shape[1] + 1) - 1, columns * (shape[2] + 1) - 1
    return columns, size, max(1, round(TILE / max(size)))
