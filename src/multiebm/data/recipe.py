"""PolyMNIST's recipe (Sutter et al. 2021, arXiv 2105.02470): a digit is where the colours of a crop are inverted."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from multiebm.core.errors import DataError
from multiebm.data.dataset import too_few

Pixels = NDArray[np.uint8]

NAMES = ("m0", "m1", "m2", "m3", "m4")


def recipe_problems(dataset: str, size: int, modalities: Sequence[str], counts: Mapping[str, int | None]) -> list[str]:
    """Return what is wrong with the settings that both data sets of this recipe share; `counts` must be at least 1."""
    problems = [] if size in (16, 28) else [f"{dataset}.size: got {size!r}, expected 16 or 28 pixels; use one of them"]
    problems += too_few(dataset, counts)
    if not modalities or len(set(modalities)) < len(modalities) or set(modalities) - set(NAMES):
        problems.append(
            f"{dataset}.modalities: got {list(modalities)}, expected one to five different names of "
            f"{', '.join(NAMES)}; leave the setting out for all five"
        )
    return problems


def random_crops(background: Pixels, n: int, size: int, rng: np.random.Generator) -> Pixels:
    """Cut `n` crops [n, 3, size, size] out of a picture [3, H, W], corners uniform on 0 .. H - size - 1 (and W)."""
    _, height, width = background.shape
    if min(height, width) <= size:
        raise DataError(
            f"background: got a picture of {height}x{width} pixels, expected more than {size} on each side; supply a "
            "larger picture"
        )
    top, left = rng.integers(0, height - size, n), rng.integers(0, width - size, n)
    windows = sliding_window_view(background, (size, size), axis=(1, 2))
    return np.ascontiguousarray(windows[:, top, left].swapaxes(0, 1))


def invert_inside(patches: Pixels, masks: NDArray[np.bool_]) -> Pixels:
    """Return patches [n, 3, S, S] with 255 - value where masks [n, S, S] are set (1 - value on the [0, 1] scale)."""
    return patches ^ (masks.view(np.uint8)[:, None] * np.uint8(255))  # x XOR 255 = 255 - x for 8-bit values
