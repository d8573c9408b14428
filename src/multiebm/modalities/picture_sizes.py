"""Sizes of pictures: what is declared, and what networks are made for."""

from collections.abc import Mapping
from typing import Any

from multiebm.core.errors import ConfigError, DataError

CHANNELS, SIDE = 16, 512  # channels, and pixels a side, that a picture has at most


def size_of(declared: Any, where: str = "size") -> tuple[int, int] | None:
    """Return the height and width that a declaration says all pictures are to have: size: 64, 48x64 or [48, 64]; None
    where it says nothing. ConfigError for what cannot be.
    """
    if not isinstance(declared, Mapping) or "size" not in declared:
        return None
    said = declared["size"]
    sides: Any = (
        said.lower().split("x") if isinstance(said, str) else said if isinstance(said, list | tuple) else [said]
    )
    try:
        height, width = (int(str(side)) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError:
        height = width = 0
    if not (min(height, width) > 0 and max(height, width) <= SIDE):
        raise ConfigError(
            f"{where}: got {said!r}, expected pixels of both sides, 1 to {SIDE}, or height and width, 48x64; correct it"
        )
    return height, width


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Raise DataError where pictures (C, H, W) are larger than their networks are made for."""
    channels, height, width = shape
    if channels > CHANNELS or max(height, width) > SIDE:
        raise DataError(
            f"{where}: got {height}x{width} pixels (height x width) in {channels} channels, expected 1 to {SIDE} "
            f"pixels a side in 1 to {CHANNELS} channels; resize the pictures, have files and lists of them scaled "
            "(size: 64, --kind NAME=picture,size=64), or choose channels (of a cube of spectra declare kind: vector, "
            "and pass array.reshape(len(array), -1))"
        )
