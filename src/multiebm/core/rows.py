"""Rows that are lists or arrays of their own: whether they fit together, and pictures among them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from multiebm.core.cells import is_missing
from multiebm.core.errors import DataError


def stacked(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Return objects [N] that are lists of numbers as numbers [N, D], NaN where one is missing; other values as they
    are. DataError where lists have several lengths.
    """
    if values.dtype != object or values.ndim != 1:
        return values
    lists = {row: cell for row, cell in enumerate(values) if isinstance(cell, list | tuple | np.ndarray)}
    if not lists or len(lists) + sum(map(is_missing, values)) < len(values):
        return values
    first, *others = lists
    if odd := [row for row in others if np.shape(lists[row]) != np.shape(lists[first])]:
        raise DataError(
            f"{where}: got row {odd[0]} of shape {np.shape(lists[odd[0]])} after row {first} of shape "
            f"{np.shape(lists[first])}, expected rows of one length; cut or pad them"
        )
    try:
        rows = np.array(list(lists.values()))
    except ValueError:  # lists of several lengths in them
        return values
    if rows.dtype.kind not in "biuf" or len(rows) == len(values):
        return rows if rows.dtype.kind in "biuf" else values
    whole = np.full((len(values), *rows.shape[1:]), np.nan)
    whole[list(lists)] = rows
    return whole


def are_pictures(values: NDArray[Any]) -> bool:
    """Return whether objects [N] are pictures or arrays of several axes, some perhaps missing."""
    if values.dtype != object or values.ndim != 1:
        return False
    return any(hasattr(cell, "getbands") or getattr(cell, "ndim", 0) > 1 for cell in values)


def has_axes(row: Any) -> bool:
    """Return whether a row is an array, a list or a picture, and no single value."""
    return isinstance(row, list | tuple) or getattr(row, "ndim", 0) > 0 or hasattr(row, "getbands")


def in_colours(picture: Any) -> Any:
    """Return a picture of Pillow, turned as its camera noted, with colours as numbers: not of a palette, nor of ink."""
    picture = ImageOps.exif_transpose(picture) if hasattr(picture, "getexif") else picture
    if picture.mode in ("P", "PA"):
        return picture.convert("RGBA" if picture.mode == "PA" or "transparency" in picture.info else "RGB")
    return picture.convert("RGB") if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV") else picture


def check_even(rows: Sequence[Any], where: str) -> None:
    """Raise DataError with the first row that has another shape than row 0, or is uneven itself."""
    sizes: list[str] = []
    for i, row in enumerate(rows):
        try:
            shape = np.shape(row)
            sizes.append(f"of {shape[0]} values" if len(shape) == 1 else f"of shape {shape}")
        except ValueError:
            sizes.append("of uneven lists")
        if sizes[i] != sizes[0] or "uneven" in sizes[i]:
            modes = "of pictures convert them to one mode, picture.convert('RGB'), and resize them or declare size: 64"
            alike = f"one shape; {modes}"
            fix = alike if "shape" in sizes[0] + sizes[i] else "one length; cut or pad them"
            raise DataError(f"{where}: got row {i} {sizes[i]} after row 0 {sizes[0]}, expected rows of {fix}")


def rows_at(values: Any, places: NDArray[np.intp]) -> Any:
    """Return the rows at these places of an array, a list or a data frame, in the same form."""
    values = values.tocsr() if hasattr(values, "tocsr") else values
    return [values[i] for i in places] if isinstance(values, list | tuple) else getattr(values, "iloc", values)[places]
