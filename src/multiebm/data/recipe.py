"""PolyMNIST's recipe (Sutter et al. 2021, arXiv 2105.02470): a digit is where the colours of a crop are inverted."""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from multiebm.core.errors import DataError

Pixels = NDArray[np.uint8]

NAMES = ("m0", "m1", "m2", "m3", "m4")
SIZES = (16, 28)


def recipe_problems(dataset: str, size: int, modalities: Sequence[str], counts: dict[str, int]) -> list[str]:
    """Return what is wrong with the settings that both data sets of this recipe share; `counts` must be at least 1."""
    problems = []
    if size not in SIZES:
        problems.append(f"{dataset}.size: got {size!r}, expected 16 or 28 pixels; use one of them")
    for key, value in counts.items():
        if value < 1:
            problems.append(f"{dataset}.{key}: got {value}, expected at least 1; raise it")
    unknown = [name for name in modalities if name not in NAMES]
    if unknown or not modalities or len(set(modalities)) != len(modalities):
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
            f"background: got a picture of {height}x{width} pixels, expected more than {size} on each side; "
            f"supply a larger picture"
        )
    top, left = rng.integers(0, height - size, n), rng.integers(0, width - size, n)
    windows = sliding_window_view(background, (size, size), axis=(1, 2))
    return np.ascontiguousarray(windows[:, top, left].swapaxes(0, 1))


def invert_inside(patches: Pixels, masks: NDArray[np.bool_]) -> Pixels:
    """Return patches [n, 3, S, S] with 255 - value where masks [n, S, S] are set (1 - value on the [0, 1] scale)."""
    flips = masks.view(np.uint8)[:, None] * np.uint8(255)
    return patches ^ flips  # x XOR 255 = 255 - x for 8-bit values
